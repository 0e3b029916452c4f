/* Functions of vectors. */

#ifndef FUNCTIONS_H
#define FUNCTIONS_H

#include <math.h>

#include "vectors.h"

INLINE vec choose(ints mask, vec a, vec b) {
  ints x, y;
  BITCAST(x, a);
  BITCAST(y, b);
  x = (x & mask) | (y & ~mask);
  BITCAST(a, x);
  return a;
}

INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }

/* e^x for x <= 0, by 2^k * e^r with |r| <= ln(2) / 2; the polynomial is that of Cephes' expf.
   Relative error below 2e-7; 0 below -87. */
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

/* 1 / (1 + e^-x). */
INLINE vec sigmoid(vec x) {
  const vec zero = {0}, e = exponential(choose(x > zero, -x, x));
  return choose(x > zero, zero + 1.0f, e) / (1.0f + e);
}

#endif
