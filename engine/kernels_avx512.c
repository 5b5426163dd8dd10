/* The kernels for one instruction set; the Makefile gives this file its flags. */
#define VL 16
#define PB 7
#define GR 8
#define WIDE 1
#define TABLE kernels_avx512
#include "engine/kernels_body.h"
