/* The kernels for one instruction set; the Makefile gives this file its flags. */
#define VL 4
#define PB 2
#define GR 2
#define TABLE kernels_base
#include "engine/kernels_body.h"
