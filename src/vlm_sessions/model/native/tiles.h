/* rows @ weight.T + bias + others by the processor's tiles: in bfloat16, and of a weight in 8 bits. A
   tile of the weight is read as it lies; the few rows are laid out once for all of it, as the second
   operand. Both kinds of tile are 16 rows of 64 bytes, so most of this counts in bytes.

   The weight is read as SIDE parts beside each other, each from one end to the other: memory is
   fastest so.

   A row of ``weight`` has a multiple of 64 bytes, and ``num_out`` is a multiple of 16. */

#include <sys/syscall.h>
#include <unistd.h>

#include "amx.h"

#define MOST_TILES 4 /* of rows, that are multiplied with the same tile of the weight */
#define BASE_BITS 7
#define BASE (1 << BASE_BITS)
#define MOST_DIGITS (BASE * 127) /* the largest number of two digits from -64 to 127 */
#define LEAST_LARGEST 1e-30f /* of a row; else what it is multiplied with might be no number */

/* From Linux's arch/x86/include/uapi/asm/prctl.h: a process must ask for the tiles' state. */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static int allow_tiles(void) {
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0;
}

struct product {
  const char *weight; /* [num_out][row_bytes] */
  const char *rows;   /* laid out: [row_bytes / 64][num_tiles][16][16 rows][4] */
  long row_bytes, num_rows, num_tiles, num_out;
  const void *bias, *others;
  void *out;
  const float *scales; /* of the rows, if they are of digits; a row's two are two tiles then */
};

/* A row to where it lies in its tile. */
static void lay_out(const void *row, char *tile, long row_bytes, long num_tiles) {
  for (long i = 0; i < row_bytes; i += 4)
    memcpy(tile + i / TILE_STRIDE * num_tiles * TILE_BYTES + i % TILE_STRIDE * SIDE,
           (const char *)row + i, 4);
}

/* ``sums[row tile][weight row][row]``, 32 bits each, of SIDE rows of the weight that lie ``apart``
   bytes from each other, and of ``num_tiles`` tiles of rows. The tiles' numbers must be known to the
   compiler: 0 to 3 hold sums, 4 the weight's numbers, 5 to 7 those of the rows. */
INLINE void tile_sums(const struct product *p, const char *weight, long apart, const char *rows,
                      float *sums, const int num_tiles, const int digits) {
#define MULTIPLY(sum, tile, from)                             \
  if (num_tiles > sum) {                                      \
    _tile_loadd(tile, rows + from * TILE_BYTES, TILE_STRIDE); \
    if (digits)                                               \
      _tile_dpbssd(sum, 4, tile);                             \
    else                                                      \
      _tile_dpbf16ps(sum, 4, tile);                           \
  }
  _tile_zero(0);
  if (num_tiles > 1) _tile_zero(1);
  if (num_tiles > 2) _tile_zero(2);
  if (num_tiles > 3) _tile_zero(3);
  for (long i = 0; i < p->row_bytes; i += TILE_STRIDE, rows += p->num_tiles * TILE_BYTES) {
    UNROLL for (int s = 0; s < SIDE; s++) __builtin_prefetch(weight + s * apart + i + SOON, 0, 3);
    _tile_loadd(4, weight + i, apart);
    MULTIPLY(0, 5, 0)
    MULTIPLY(1, 6, 1)
    MULTIPLY(2, 7, 2)
    MULTIPLY(3, 5, 3)
  }
#undef MULTIPLY
  _tile_stored(0, sums, TILE_STRIDE);
  if (num_tiles > 1) _tile_stored(1, sums + TILE_SUMS, TILE_STRIDE);
  if (num_tiles > 2) _tile_stored(2, sums + 2 * TILE_SUMS, TILE_STRIDE);
  if (num_tiles > 3) _tile_stored(3, sums + 3 * TILE_SUMS, TILE_STRIDE);
}

/* Of one row of the weight after another the sums with all rows of a tile, as rows. */
INLINE void gather(const float *sums, __m512i rows[SIDE]) {
  UNROLL for (int i = 0; i < SIDE; i++)
    rows[i] = _mm512_loadu_si512(sums + i * MOST_TILES * TILE_SUMS);
  transpose(rows);
}

INLINE __m512 widen_some(const bf16 *numbers, __mmask16 which) {
  const __m256i narrow = _mm256_maskz_loadu_epi16(which, numbers);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

/* A tile's sums to ``which`` numbers, from ``at`` on, of up to SIDE rows of the result. */
static void put_numbers(const struct product *p, const float *sums, long row, long at,
                        __mmask16 which) {
  const bf16 *bias = p->bias, *others = p->others;
  __m512i rows[SIDE];
  gather(sums, rows);
  for (long r = row; r < p->num_rows && r < row + SIDE; r++) {
    __m512 added = bias ? widen_some(bias + at, which) : _mm512_setzero_ps();
    if (others) added = _mm512_add_ps(added, widen_some(others + r * p->num_out + at, which));
    const __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(rows[r - row]), added);
    const __m256bh rounded = _mm512_cvtneps_pbh(sum);
    __m256i numbers;
    BITCAST(numbers, rounded);
    _mm256_mask_storeu_epi16((bf16 *)p->out + r * p->num_out + at, which, numbers);
  }
}

/* The same of two tiles, of a number's first and second digit. */
static void put_digits(const struct product *p, const float *sums, long row, long at,
                       __mmask16 which) {
  __m512i first[SIDE], second[SIDE];
  gather(sums, first);
  gather(sums + TILE_SUMS, second);
  for (long r = row; r < p->num_rows && r < row + SIDE; r++) {
    const __m512 high = _mm512_cvtepi32_ps(first[r - row]);
    const __m512 sum =
        _mm512_fmadd_ps(high, _mm512_set1_ps(BASE), _mm512_cvtepi32_ps(second[r - row]));
    _mm512_mask_storeu_ps((float *)p->out + r * p->num_out + at, which,
                          _mm512_mul_ps(sum, _mm512_set1_ps(p->scales[r])));
  }
}

/* Outputs from ``first`` on, ``SIDE * count`` of them. Of SIDE rows of each of the weight's parts the
   sums are kept, so that the result is written in runs. */
INLINE void multiply_part(const struct product *p, long first, long count, const int digits) {
  float sums[SIDE][MOST_TILES * TILE_SUMS] __attribute__((aligned(64)));
  const long apart = count * p->row_bytes;
  const int tiles_a_row = digits ? 2 : 1;
  for (long o = 0; o < count; o += SIDE) {
    const long num = count - o < SIDE ? count - o : SIDE;
    for (long tile = 0; tile < p->num_tiles; tile += MOST_TILES) {
      const char *rows = p->rows + tile * TILE_BYTES;
      const long left = p->num_tiles - tile, num_tiles = left < MOST_TILES ? left : MOST_TILES;
      for (long k = 0; k < num; k++) {
        const char *weight = p->weight + (first + o + k) * p->row_bytes;
#define CASE(n) \
  case n: tile_sums(p, weight, apart, rows, sums[k], n, digits); break;
        switch (num_tiles) {
          CASE(1)
          CASE(2)
          CASE(3)
          CASE(4)
        }
#undef CASE
      }
      for (long s = 0; s < SIDE; s++)
        for (long t = 0; t < num_tiles; t += tiles_a_row) {
          const float *from = sums[0] + t * TILE_SUMS + s * SIDE;
          const long row = (tile + t) / tiles_a_row * SIDE, at = first + s * count + o;
          const __mmask16 which = (1u << num) - 1;
          if (digits)
            put_digits(p, from, row, at, which);
          else
            put_numbers(p, from, row, at, which);
        }
    }
  }
}

static void multiply_by_tiles(const struct product *p, int num_threads) {
  const long count = p->num_out / SIDE;
#pragma omp parallel num_threads(num_threads)
  {
    enter_tiles();
#pragma omp for schedule(static)
    for (long t = 0; t < num_threads; t++) {
      const long first = t * count / num_threads, end = (t + 1) * count / num_threads;
      if (p->scales)
        multiply_part(p, first * SIDE, end - first, 1);
      else
        multiply_part(p, first * SIDE, end - first, 0);
    }
    leave_tiles();
  }
}

static int by_tiles(const bf16 *weight, const bf16 *rows, const bf16 *bias, const bf16 *others,
                    bf16 *out, long num_rows, long num_in, long num_out, int num_threads) {
  const long row_bytes = num_in * sizeof(bf16), num_tiles = (num_rows + SIDE - 1) / SIDE;
  char *laid_out = aligned_alloc(64, num_tiles * SIDE * row_bytes);
  if (laid_out == NULL) return 1;
  memset(laid_out, 0, num_tiles * SIDE * row_bytes);
  for (long r = 0; r < num_rows; r++)
    lay_out(rows + r * num_in, laid_out + r / SIDE * TILE_BYTES + r % SIDE * 4, row_bytes,
            num_tiles);
  const struct product product = {.weight = (const char *)weight, .rows = laid_out,
                                  .row_bytes = row_bytes, .num_rows = num_rows,
                                  .num_tiles = num_tiles, .num_out = num_out,
                                  .bias = bias, .others = others, .out = out};
  multiply_by_tiles(&product, num_threads);
  free(laid_out);
  return 0;
}

/* A row as numbers of two digits of BASE, which may be negative: row = scale * (BASE * first +
   second), but for half a scale. Returns the scale, which is not a number where the row is not finite
   or too small for this. */
static float to_digits(const float *row, int8_t *first, int8_t *second, long num_in) {
  float largest = 0, nothing = 0;
  for (long i = 0; i < num_in; i++) {
    largest = fabsf(row[i]) > largest ? fabsf(row[i]) : largest;
    nothing += row[i] * 0;
  }
  if (largest > 0 && largest < LEAST_LARGEST) nothing = NAN;
  const float factor = largest > 0 && nothing == 0 ? MOST_DIGITS / largest : 0;
  for (long i = 0; i < num_in; i++) {
    const int number = nothing == 0 ? (int)lrintf(row[i] * factor) : 0;
    const int high = (number + BASE / 2) >> BASE_BITS;
    first[i] = high;
    second[i] = number - high * BASE;
  }
  return largest / MOST_DIGITS + nothing;
}

/* As multiply_s8 does, of at most 2 * SIDE rows whose length is a multiple of 64. */
static int by_digits(const int8_t *weight, const float *rows, float *out, long num_rows,
                     long num_in, long num_out, int num_threads) {
  const long num_tiles = 2 * ((num_rows + SIDE - 1) / SIDE);
  float scales[2 * SIDE];
  char *laid_out = aligned_alloc(64, (num_tiles * SIDE + 2) * num_in);
  if (laid_out == NULL) return 1;
  memset(laid_out, 0, num_tiles * SIDE * num_in);
  int8_t *first = (int8_t *)laid_out + num_tiles * SIDE * num_in, *second = first + num_in;
  for (long r = 0; r < num_rows; r++) {
    char *tile = laid_out + r / SIDE * 2 * TILE_BYTES + r % SIDE * 4;
    scales[r] = to_digits(rows + r * num_in, first, second, num_in);
    lay_out(first, tile, num_in, num_tiles);
    lay_out(second, tile + TILE_BYTES, num_in, num_tiles);
  }
  const struct product product = {.weight = (const char *)weight, .rows = laid_out,
                                  .row_bytes = num_in, .num_rows = num_rows,
                                  .num_tiles = num_tiles, .num_out = num_out,
                                  .out = out, .scales = scales};
  multiply_by_tiles(&product, num_threads);
  free(laid_out);
  return 0;
}
