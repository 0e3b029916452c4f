/* Vectors as wide as the target's registers, by the vector extensions of GCC and Clang, so that one
   source serves every processor; and how numbers in memory become vectors of float32.

   Numbers are read in pairs of vectors, 2 * LANES numbers at a time. Of bfloat16, whose bits are the
   upper half of a float32's, the first vector gets those with even indices and the second the
   others: no shuffle is needed. What they are multiplied with must lie in that order (``place``). */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define PAIR (2 * LANES)

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t bf16;

/* NAME(f) is f_f32 or f_bf16 in a file that is included once for each KIND, for numbers of TYPE. */
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(name, KIND)

#define BITCAST(to, from) memcpy(&(to), &(from), sizeof(to))

INLINE vec load(const float *from) {
  vec v;
  memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store(float *to, vec v) { memcpy(to, &v, sizeof v); }

INLINE float sum(vec v) {
  typedef float quad __attribute__((vector_size(16)));
  quad parts[LANES / 4];
  memcpy(parts, &v, sizeof v);
  for (int i = 1; i < LANES / 4; i++) parts[0] += parts[i];
  return (parts[0][0] + parts[0][1]) + (parts[0][2] + parts[0][3]);
}

INLINE float widen(bf16 number) {
  const uint32_t shifted = (uint32_t)number << 16;
  float wide;
  BITCAST(wide, shifted);
  return wide;
}

/* To the nearest, ties to even. */
INLINE bf16 narrow(float number) {
  uint32_t wide;
  BITCAST(wide, number);
  if ((wide & 0x7fffffff) > 0x7f800000) return (wide >> 16) | 0x40; /* stays not a number */
  return (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
}

INLINE void load_pair_f32(const float *from, vec *first, vec *second) {
  *first = load(from);
  *second = load(from + LANES);
}

INLINE void load_pair_bf16(const bf16 *from, vec *first, vec *second) {
  bits both;
  memcpy(&both, from, sizeof both);
  const bits even = both << 16, odd = both & 0xffff0000u;
  BITCAST(*first, even);
  BITCAST(*second, odd);
}

/* Where the number at ``index`` of a row stands when the row is arranged as pairs are read. */
INLINE long place_f32(long index) { return index; }
INLINE long place_bf16(long index) {
  return index / PAIR * PAIR + index % 2 * LANES + index % PAIR / 2;
}

INLINE float widen_f32(float number) { return number; }
INLINE float widen_bf16(bf16 number) { return widen(number); }
INLINE float narrow_f32(float number) { return number; }
INLINE bf16 narrow_bf16(float number) { return narrow(number); }

#endif
