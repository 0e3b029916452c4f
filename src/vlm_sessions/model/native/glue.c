/* What stands between a decoder's products: library.py says how it is called. */

#include "functions.h"

#define ALONE 64 /* rows at most that one thread has done before others begin */

#define TYPE float
#define KIND f32
#include "glue.h"
#undef TYPE
#undef KIND

#define TYPE bf16
#define KIND bf16
#include "glue.h"
