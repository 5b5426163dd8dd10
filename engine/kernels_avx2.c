/* The kernels for one instruction set; the Makefile gives this file its flags. */
#define VL 8
#define PB 4
#define GR 4
#define TABLE kernels_avx2
#include "engine/kernels_body.h"
