/* What stands between a decoder's products: library.py says how it is called. */

#include "functions.h"

#define TYPE float
#define KIND f32
#include "glue.h"
#undef TYPE
#undef KIND

#define TYPE bf16
#define KIND bf16
#include "glue.h"
