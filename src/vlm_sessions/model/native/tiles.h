/* rows @ weight.T + bias + others in bfloat16 by the processor's tiles. A tile of the weight is read
   as it lies; the few rows are laid out once for all of it, as the second operand.

   ``num_in`` is a multiple of 32, ``num_out`` of 16, ``num_rows`` at most 64. */

#include <sys/syscall.h>
#include <unistd.h>

#include "amx.h"

#define PANEL 2 /* tiles of the weight that are multiplied with the same rows */

/* From Linux's arch/x86/include/uapi/asm/prctl.h: a process must ask for the tiles' state. */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static int allow_tiles(void) {
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0;
}

/* [num_in / 32][num_tiles][16 pairs][16 rows][2], rows that are not there 0. */
static void lay_out(const bf16 *rows, bf16 *laid_out, long num_rows, long num_in, long num_tiles) {
  memset(laid_out, 0, num_tiles * SIDE * num_in * sizeof(bf16));
  for (long r = 0; r < num_rows; r++)
    for (long s = 0; s < num_in / DEPTH; s++) {
      const bf16 *from = rows + r * num_in + s * DEPTH;
      bf16 *to = laid_out + (s * num_tiles + r / SIDE) * TILE_NUMBERS + r % SIDE * 2;
      for (int pair = 0; pair < DEPTH / 2; pair++)
        memcpy(to + pair * 2 * SIDE, from + 2 * pair, 2 * sizeof(bf16));
    }
}

/* ``sums[panel tile][row tile][weight row][row]`` of up to two tiles of the weight and up to two of
   the rows, which lie ``row_step`` numbers apart from one depth to the next. The tiles' numbers must
   be known to the compiler: 0 to 3 hold sums, 4 and 5 the weight's numbers, 6 and 7 those of the
   rows. ``next``: what is to be on its way meanwhile, or NULL. */
INLINE void tile_sums(const bf16 *weight, const bf16 *rows, float *sums, long num_in,
                      long row_step, const char *next, const int num_weights,
                      const int num_tiles) {
  const long stride = num_in * sizeof(bf16);
  _tile_zero(0);
  if (num_tiles > 1) _tile_zero(1);
  if (num_weights > 1) _tile_zero(2);
  if (num_weights > 1 && num_tiles > 1) _tile_zero(3);
  for (long i = 0; i < num_in; i += DEPTH, rows += row_step) {
    if (next != NULL)
      for (int r = 0; r < num_weights * SIDE; r++)
        __builtin_prefetch(next + r * stride + i * sizeof(bf16), 0, 1);
    _tile_loadd(6, rows, TILE_STRIDE);
    _tile_loadd(4, weight + i, stride);
    _tile_dpbf16ps(0, 4, 6);
    if (num_tiles > 1) {
      _tile_loadd(7, rows + TILE_NUMBERS, TILE_STRIDE);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (num_weights > 1) {
      _tile_loadd(5, weight + SIDE * num_in + i, stride);
      _tile_dpbf16ps(2, 5, 6);
      if (num_tiles > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, TILE_STRIDE);
  if (num_tiles > 1) _tile_stored(1, sums + TILE_SUMS, TILE_STRIDE);
  if (num_weights > 1) _tile_stored(2, sums + 2 * TILE_SUMS, TILE_STRIDE);
  if (num_weights > 1 && num_tiles > 1) _tile_stored(3, sums + 3 * TILE_SUMS, TILE_STRIDE);
}

INLINE __m512 widen_16(const bf16 *numbers) {
  const __m256i narrow = _mm256_loadu_si256((const __m256i *)numbers);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

/* One tile's sums [weight row][row], to 16 numbers of each of ``num_rows`` rows of ``out``. */
static void put(const float *sums, const bf16 *bias, const bf16 *others, bf16 *out, long num_rows,
                long num_out) {
  __m512i rows[SIDE];
  UNROLL for (int i = 0; i < SIDE; i++) rows[i] = _mm512_loadu_si512(sums + i * SIDE);
  transpose(rows);
  for (long r = 0; r < num_rows; r++) {
    __m512 added = bias ? widen_16(bias) : _mm512_setzero_ps();
    if (others) added = _mm512_add_ps(added, widen_16(others + r * num_out));
    const __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(rows[r]), added);
    const __m256bh narrow = _mm512_cvtneps_pbh(sum);
    memcpy(out + r * num_out, &narrow, sizeof narrow);
  }
}

/* ``num_weights`` tiles of the weight with all rows. */
INLINE void multiply_panel(const bf16 *weight, const bf16 *rows, const bf16 *bias,
                           const bf16 *others, bf16 *out, long num_rows, long num_in,
                           long num_out, const int num_weights) {
  float sums[PANEL * 2 * TILE_SUMS] __attribute__((aligned(64)));
  const long row_step = (num_rows + SIDE - 1) / SIDE * TILE_NUMBERS;
  const char *next = (const char *)(weight + num_weights * SIDE * num_in);
  for (long first = 0; first < num_rows; first += 2 * SIDE, next = NULL) {
    const bf16 *some = rows + first / SIDE * TILE_NUMBERS;
    if (num_rows - first > SIDE)
      tile_sums(weight, some, sums, num_in, row_step, next, num_weights, 2);
    else
      tile_sums(weight, some, sums, num_in, row_step, next, num_weights, 1);
    for (int w = 0; w < num_weights; w++)
      for (long r = first; r < num_rows && r < first + 2 * SIDE; r += SIDE) {
        const long at = r * num_out + w * SIDE;
        put(sums + (2 * w + (r - first) / SIDE) * TILE_SUMS, bias ? bias + w * SIDE : NULL,
            others ? others + at : NULL, out + at, num_rows - r < SIDE ? num_rows - r : SIDE,
            num_out);
      }
  }
}

static int by_tiles(const bf16 *weight, const bf16 *rows, const bf16 *bias, const bf16 *others,
                    bf16 *out, long num_rows, long num_in, long num_out, int num_threads) {
  const long num_tiles = (num_rows + SIDE - 1) / SIDE;
  bf16 *laid_out = aligned_alloc(64, num_tiles * SIDE * num_in * sizeof(bf16));
  if (laid_out == NULL) return 1;
  lay_out(rows, laid_out, num_rows, num_in, num_tiles);
#pragma omp parallel num_threads(num_threads)
  {
    enter_tiles();
#pragma omp for schedule(static)
    for (long o = 0; o < num_out; o += PANEL * SIDE) {
      const bf16 *some = weight + o * num_in, *with = bias ? bias + o : NULL;
      const bf16 *from = others ? others + o : NULL;
      if (num_out - o >= PANEL * SIDE)
        multiply_panel(some, laid_out, with, from, out + o, num_rows, num_in, num_out, PANEL);
      else
        multiply_panel(some, laid_out, with, from, out + o, num_rows, num_in, num_out, 1);
    }
    leave_tiles();
  }
  free(laid_out);
  return 0;
}
