/* What stands between products: library.py says how it is called. */

#include "functions.h"
#include "kernels.h"

#define ALONE 64 /* rows: with so few, one thread is done before others have begun */

#define TYPE float
#define KIND f32
#include "glue.h"
#undef TYPE
#undef KIND

#define TYPE bf16
#define KIND bf16
#include "glue.h"
