/* Attention of few queries over keys and values as they lie: see attention/native_kernel.py. */

#include <math.h>

#include "vectors.h"

#define CHUNK 64
#define GROUP 4
#define MAX_DIM 256
#define LINE 64 /* bytes of a cache line */
#define UNROLL_PAIRS _Pragma("GCC unroll 4")

INLINE void prefetch(const void *from, long size) {
  for (long at = 0; at < size; at += LINE) __builtin_prefetch((const char *)from + at, 0, 1);
}

INLINE vec larger(vec a, vec b) {
  const ints is_larger = a > b;
  ints x, y;
  BITCAST(x, a);
  BITCAST(y, b);
  x = (x & is_larger) | (y & ~is_larger);
  BITCAST(a, x);
  return a;
}

/* e^x for x <= 0, by 2^k * e^r with |r| <= ln(2) / 2; the polynomial is that of Cephes' expf. Relative
   error below 2e-7; 0 below -87. */
INLINE vec exponential(vec x) {
  const vec zero = {0}, to_integer = zero + 12582912.0f; /* 1.5 * 2^23 */
  const ints is_normal = x > zero - 87.0f;
  vec k = x * 1.44269504f + to_integer;
  ints exponent, result;
  BITCAST(exponent, k);
  k -= to_integer;
  const vec r = x - k * 0.693359375f + k * 2.12194440e-4f;
  vec e = zero + 1.9875691500e-4f;
  e = e * r + 1.3981999507e-3f;
  e = e * r + 8.3334519073e-3f;
  e = e * r + 4.1665795894e-2f;
  e = e * r + 1.6666665459e-1f;
  e = e * r + 5.0000001201e-1f;
  e = e * r * r + r + 1.0f;
  BITCAST(result, e);
  result = (result + (exponent << 23)) & is_normal;
  BITCAST(e, result);
  return e;
}

/* Turns scores [CHUNK], of which ``size`` are there, into weights against the largest score so far.
   Returns what all earlier sums are to be multiplied by. */
INLINE float weigh(float *scores, int size, float *top, float *total) {
  const vec zero = {0};
  for (int k = size; k % LANES; k++) scores[k] = -INFINITY;
  vec largest = load(scores);
  for (int k = LANES; k < size; k += LANES) largest = larger(largest, load(scores + k));
  float new_top = *top;
  for (int lane = 0; lane < LANES; lane++) new_top = fmaxf(new_top, largest[lane]);
  const float rescale = expf(*top - new_top);
  vec sums = zero;
  for (int k = 0; k < size; k += LANES) {
    const vec weights = exponential(load(scores + k) - new_top);
    store(scores + k, weights);
    sums += weights;
  }
  *top = new_top;
  *total = *total * rescale + sum(sums);
  return rescale;
}

#define TYPE float
#define KIND f32
#include "attend.h"
#undef TYPE
#undef KIND

#define TYPE bf16
#define KIND bf16
#include "attend.h"
