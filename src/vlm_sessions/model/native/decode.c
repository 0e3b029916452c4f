/* All layers of a decoder over a step of few rows: library.py says how it is called. */

#include "kernels.h"

/* Weights, as they lie; those that may be absent are NULL. */
struct layer {
  const void *input_norm, *qkv, *qkv_bias, *out, *out_bias;
  const void *mlp_norm, *gate_up, *gate_up_bias, *down, *down_bias;
};

/* What follows is laid out by library.py, all in 64 bits. */
struct decoder {
  int64_t num_layers, hidden_size, intermediate_size, num_heads, num_kv_heads, dim;
  double eps;
  const void *norm;
  const struct layer *layers;
};

#define TYPE float
#define KIND f32
#include "decode.h"
#undef TYPE
#undef KIND

#define TYPE bf16
#define KIND bf16
#include "decode.h"
