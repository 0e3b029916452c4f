/* Vectors as wide as the target's registers, by the vector extensions of GCC and Clang, so that one
   source serves every processor; and how numbers in memory become vectors of float32.

   Numbers are read in pairs of vectors, 2 * LANES numbers at a time. Of bfloat16, whose bits are the
   upper half of a float32's, the first vector gets those with even indices and the second the
   others: no shuffle is needed. What they are multiplied with must lie in that order (``place``). */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

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
typedef float quad __attribute__((vector_size(16)));
typedef int32_t quad_ints __attribute__((vector_size(16)));
typedef uint16_t bf16;

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (quad_ints){__VA_ARGS__})
#endif

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

/* The sum of each quarter's numbers of the same place. */
INLINE quad fold(vec v) {
  quad parts[LANES / 4];
  memcpy(parts, &v, sizeof v);
  for (int i = 1; i < LANES / 4; i++) parts[0] += parts[i];
  return parts[0];
}

INLINE float sum(vec v) {
  const quad folded = fold(v);
  return (folded[0] + folded[1]) + (folded[2] + folded[3]);
}

/* The sums of four vectors. */
INLINE quad sum_each(vec a, vec b, vec c, vec d) {
  const quad w = fold(a), x = fold(b), y = fold(c), z = fold(d);
  const quad first = SHUFFLE(w, x, 0, 4, 1, 5) + SHUFFLE(w, x, 2, 6, 3, 7);
  const quad second = SHUFFLE(y, z, 0, 4, 1, 5) + SHUFFLE(y, z, 2, 6, 3, 7);
  return SHUFFLE(first, second, 0, 1, 4, 5) + SHUFFLE(first, second, 2, 3, 6, 7);
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

INLINE void store_pair_f32(float *to, vec first, vec second) {
  store(to, first);
  store(to + LANES, second);
}

/* Rounded in the upper half: to the nearest, ties to even; what is no number stays so. */
INLINE bits round_upper(vec v) {
  bits wide;
  BITCAST(wide, v);
  const bits rounded = wide + 0x7fff + ((wide >> 16) & 1), undefined = wide | 0x400000;
  const bits is_number = (bits)((wide & 0x7fffffff) <= 0x7f800000);
  return (rounded & is_number) | (undefined & ~is_number);
}

INLINE void store_pair_bf16(bf16 *to, vec first, vec second) {
  const bits both = round_upper(first) >> 16 | (round_upper(second) & 0xffff0000u);
  memcpy(to, &both, sizeof both);
}

/* The first or the second vector of a pair; ``half`` is known to the compiler. */
INLINE vec load_half_f32(const float *from, const int half) { return load(from + half * LANES); }

INLINE vec load_half_bf16(const bf16 *from, const int half) {
  bits both;
  vec v;
  memcpy(&both, from, sizeof both);
  both = half ? both & 0xffff0000u : both << 16;
  BITCAST(v, both);
  return v;
}

/* By intrinsics: GCC 12 takes numbers of 8 bits one by one otherwise. */
INLINE vec load_half_s8(const int8_t *from, const int half) {
  ints wide;
#if defined(__AVX512F__)
  const __m512i widened = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(from + half * LANES)));
  BITCAST(wide, widened);
#elif defined(__AVX2__)
  const __m256i widened = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(from + half * LANES)));
  BITCAST(wide, widened);
#else
  for (int i = 0; i < LANES; i++) wide[i] = from[half * LANES + i];
#endif
  return __builtin_convertvector(wide, vec);
}

/* Where the number at ``index`` of a row stands when the row is arranged as pairs are read. */
INLINE long place_f32(long index) { return index; }
INLINE long place_bf16(long index) {
  return index / PAIR * PAIR + index % 2 * LANES + index % PAIR / 2;
}

INLINE float widen_f32(float number) { return number; }
INLINE float widen_s8(float number) { return number; }
INLINE float widen_bf16(bf16 number) { return widen(number); }
INLINE float narrow_f32(float number) { return number; }
INLINE float narrow_s8(float number) { return number; }
INLINE bf16 narrow_bf16(float number) { return narrow(number); }

#endif
