/* Matrix products of few rows with weights as they lie: library.py says how they are called. */

#include <math.h>
#include <stdlib.h>

#include "kernels.h"

#if LANES == 8
#define TILE_ROWS 2 /* of 16 registers eight hold sums */
#else
#define TILE_ROWS 6
#endif
#define TILE_OUT 4 /* whose sums are taken together */
#define LINE 64 /* bytes of a cache line */
#define STREAMS 8 /* with one row */
#define SOON 1024 /* bytes from what is read of a long stream to what is asked for */

#define TYPE float
#define OUT float
#define KIND f32
#include "linear.h"
#undef TYPE
#undef OUT
#undef KIND

#define TYPE bf16
#define OUT bf16
#define KIND bf16
#include "linear.h"
#undef TYPE
#undef OUT
#undef KIND

#define TYPE int8_t
#define OUT float
#define KIND s8
#include "linear.h"
#undef TYPE
#undef OUT
#undef KIND

#ifdef __AMX_BF16__
#include "tiles.h"
#endif

/* Both return 0, or 1 where there is no memory for the rows as the product wants them. */
int linear_f32(const float *weight, const float *rows, const float *bias, const float *others,
               float *out, long num_rows, long num_in, long num_out, int num_threads) {
  multiply_f32(weight, rows, bias, others, out, num_rows, num_in, num_out, num_threads);
  return 0;
}

int linear_bf16(const bf16 *weight, const bf16 *rows, const bf16 *bias, const bf16 *others,
                bf16 *out, long num_rows, long num_in, long num_out, int num_threads) {
#ifdef __AMX_BF16__
  if (num_rows > 1)
    return by_tiles(weight, rows, bias, others, out, num_rows, num_in, num_out, num_threads);
#endif
  float *arranged = malloc(num_rows * num_in * sizeof(float));
  if (arranged == NULL) return 1;
  for (long r = 0; r < num_rows; r++)
    for (long i = 0; i < num_in; i++)
      arranged[r * num_in + place_bf16(i)] = widen(rows[r * num_in + i]);
  multiply_bf16(weight, arranged, bias, others, out, num_rows, num_in, num_out, num_threads);
  free(arranged);
  return 0;
}

/* A weight in 8 bits with rows in float32, of which each number may be rounded to half of 1 / 16256
   of its row's largest. */
int linear_s8(const int8_t *weight, const float *rows, const float *bias, const float *others,
              float *out, long num_rows, long num_in, long num_out, int num_threads) {
#ifdef __AMX_INT8__
  if (num_rows > 1 && num_rows <= 2 * SIDE && num_in % TILE_STRIDE == 0 && !bias && !others)
    return by_digits(weight, rows, out, num_rows, num_in, num_out, num_threads);
#endif
  multiply_s8(weight, rows, bias, others, out, num_rows, num_in, num_out, num_threads);
  return 0;
}

/* To be called once, before all else. Returns 0, or 1 where the system refuses the tiles. */
int prepare(void) {
#ifdef __AMX_BF16__
  return allow_tiles();
#else
  return 0;
#endif
}
