/* The processor's tiles (Intel AMX): registers of 16 rows of 64 bytes, and products of them in
   bfloat16 that add up in float32, or of 8 bits that add up in integers.

     sums [16, 16] float32 += first [16, 32] bfloat16 @ second [32, 16] bfloat16
     sums [16, 16] int32   += first [16, 64] int8     @ second [64, 16] int8

   The first operand is read as it lies, row by row; of the second two rows (of int8 four) lie beside
   each other, number by number: [16 pairs of rows][16][2]. */

#ifndef AMX_H
#define AMX_H

#include <immintrin.h>

#include "vectors.h"

#define SIDE 16
#define DEPTH 32                    /* numbers that one product adds up */
#define TILE_NUMBERS (SIDE * DEPTH) /* bfloat16, 1 KiB */
#define TILE_SUMS (SIDE * SIDE)     /* float32, 1 KiB */
#define TILE_STRIDE 64              /* bytes between rows of a tile that lies by itself */
#define TILE_BYTES (SIDE * TILE_STRIDE)

/* Before a thread uses tiles; all of them are as large as can be. */
static inline void enter_tiles(void) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t num_rows[16];
  } shapes = {.palette = 1};
  for (int tile = 0; tile < 8; tile++) {
    shapes.row_bytes[tile] = 64;
    shapes.num_rows[tile] = SIDE;
  }
  _tile_loadconfig(&shapes);
}

/* After it, so that the system need not save them any longer. */
static inline void leave_tiles(void) { _tile_release(); }

/* To bfloat16, each in the lower half of its 32 bits. */
INLINE __m512i narrow_16(vec numbers) {
  __m512 wide;
  BITCAST(wide, numbers);
  const __m256bh narrow = _mm512_cvtneps_pbh(wide);
  __m256i bits;
  BITCAST(bits, narrow);
  return _mm512_cvtepu16_epi32(bits);
}

/* 16 x 16 numbers of 32 bits, rows to columns. */
INLINE void transpose(__m512i rows[SIDE]) {
  __m512i halves[SIDE];
  UNROLL for (int i = 0; i < SIDE; i += 2) {
    halves[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    halves[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  UNROLL for (int i = 0; i < SIDE; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(halves[i], halves[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(halves[i], halves[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(halves[i + 1], halves[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(halves[i + 1], halves[i + 3]);
  }
  /* Now each quarter of rows[4 i + j] is column j of that quarter, of four rows. */
  UNROLL for (int j = 0; j < 4; j++) {
    const __m512i a = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0xdd);
    const __m512i d = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0xdd);
    halves[j] = _mm512_shuffle_i32x4(a, b, 0x88);
    halves[4 + j] = _mm512_shuffle_i32x4(c, d, 0x88);
    halves[8 + j] = _mm512_shuffle_i32x4(a, b, 0xdd);
    halves[12 + j] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  UNROLL for (int i = 0; i < SIDE; i++) rows[i] = halves[i];
}

#endif
