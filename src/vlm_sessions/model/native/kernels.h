/* What the files define for each type of numbers, and call of one another: the compiler sees that both
   mean the same. library.py says what each is given. */

#ifndef KERNELS_H
#define KERNELS_H

#include "vectors.h"

struct step; /* of attend.c */

#define KERNELS(TYPE, KIND)                                                                       \
  int JOIN(linear, KIND)(const TYPE *weight, const TYPE *rows, const TYPE *bias,                  \
                         const TYPE *others, TYPE *out, long num_rows, long num_in, long num_out, \
                         int num_threads);                                                        \
  int JOIN(attend_step, KIND)(const struct step *step, const TYPE *queries,                       \
                              const TYPE *keys_values, TYPE *pool, TYPE *out, long row_stride);   \
  int JOIN(norm, KIND)(const TYPE *rows, const TYPE *weight, TYPE *out, long num_rows, long size, \
                       float eps, int num_threads);                                               \
  int JOIN(rotate, KIND)(TYPE *rows, const float *cos, const float *sin, long num_rows,           \
                         long num_heads, long dim, long row_stride, int num_threads);             \
  int JOIN(gate, KIND)(const TYPE *rows, TYPE *out, long num_rows, long size, int num_threads);

KERNELS(float, f32)
KERNELS(bf16, bf16)

#endif
