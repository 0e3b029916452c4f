/* Up to 16 queries at a time over one run of keys, in bfloat16, by the processor's tiles.

     scores [key][query]    = keys, as they lie @ queries, laid out once for the run
     weights [query][key]     of the scores, rounded to bfloat16
     values [query][dim]   += weights @ values, whose rows are laid in pairs on the way

   What lies between the two products is that of attend_many.h. Sums are float32. */

#include "amx.h"

#define SUM_TILES 4   /* tiles of values that are added up at once */

struct tiles {
  bf16 queries[MAX_DIM / DEPTH * TILE_NUMBERS];
  float scores[MANY_KEYS * SIDE];
  bf16 weights[MANY_KEYS / DEPTH * TILE_NUMBERS];
  bf16 values[MANY_KEYS / DEPTH * MAX_DIM / SIDE * TILE_NUMBERS];
  float sums[SUM_TILES * TILE_SUMS];
} __attribute__((aligned(64)));

/* [dim / 32][16 pairs][16 queries][2], queries that are not there 0. */
static void lay_out_queries(struct tiles *tiles, const struct state *states, long num_queries,
                            long dim) {
  memset(tiles->queries, 0, dim / DEPTH * TILE_NUMBERS * sizeof(bf16));
  for (long q = 0; q < num_queries; q++)
    for (long pair = 0; pair < dim / 2; pair++)
      memcpy(tiles->queries + (pair * SIDE + q) * 2, states[q].given + 2 * pair, 2 * sizeof(bf16));
}

/* Scores of ``size`` keys; those of the rest of the last tile are anything. */
static void score(struct tiles *tiles, const bf16 *keys, const bf16 *values, int size, long dim) {
  bf16 rest[SIDE * MAX_DIM];
  for (int k = 0; k < size; k += SIDE) {
    const bf16 *some = keys + k * dim;
    const int num_keys = size - k < SIDE ? size - k : SIDE;
    if (num_keys < SIDE) {
      memset(rest, 0, SIDE * dim * sizeof(bf16));
      some = memcpy(rest, some, num_keys * dim * sizeof(bf16));
    }
    prefetch(values + k * dim, num_keys * dim * sizeof(bf16));
    _tile_zero(0);
    for (long d = 0; d < dim; d += DEPTH) {
      _tile_loadd(4, some + d, dim * sizeof(bf16));
      _tile_loadd(6, tiles->queries + d / DEPTH * TILE_NUMBERS, TILE_STRIDE);
      _tile_dpbf16ps(0, 4, 6);
    }
    _tile_stored(0, tiles->scores + k * SIDE, TILE_STRIDE);
  }
}

/* Two rows of values become a row of pairs: even dimensions in one tile, odd ones in the next. */
static void lay_out_values(struct tiles *tiles, const bf16 *values, int size, long dim) {
  const __m512i upper = _mm512_set1_epi32(0xffff0000);
  for (int k = 0; k < size; k += 2) {
    const bf16 *row = values + k * dim;
    bf16 *to = tiles->values + k / DEPTH * (dim / SIDE) * TILE_NUMBERS + k % DEPTH * SIDE;
    for (long d = 0; d < dim; d += DEPTH, to += 2 * TILE_NUMBERS) {
      const __m512i a = _mm512_loadu_si512(row + d);
      const __m512i b = k + 1 < size ? _mm512_loadu_si512(row + dim + d) : _mm512_setzero_si512();
      const __m512i even = _mm512_or_si512(_mm512_andnot_si512(upper, a), _mm512_slli_epi32(b, 16));
      const __m512i odd = _mm512_or_si512(_mm512_srli_epi32(a, 16), _mm512_and_si512(upper, b));
      _mm512_storeu_si512(to, even);
      _mm512_storeu_si512(to + TILE_NUMBERS, odd);
    }
  }
  const int beyond = (size + 1) / 2 * 2;
  for (int k = beyond; k % DEPTH; k += 2)
    for (long t = 0; t < dim / SIDE; t++)
      memset(tiles->values + (k / DEPTH * (dim / SIDE) + t) * TILE_NUMBERS + k % DEPTH * SIDE, 0,
             2 * SIDE * sizeof(bf16));
}

/* Weights [key][query] to bfloat16, [keys / 32][16 queries][32 keys]. */
static void lay_out_weights(struct tiles *tiles, int size) {
  const vec zero = {0};
  for (int first = 0; first < size; first += DEPTH) {
    __m512i pairs[SIDE];
    for (int pair = 0; pair < SIDE; pair++) {
      const int k = first + 2 * pair;
      const __m512i low = narrow_16(k < size ? load(tiles->scores + k * SIDE) : zero);
      const __m512i high = narrow_16(k + 1 < size ? load(tiles->scores + (k + 1) * SIDE) : zero);
      pairs[pair] = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
    }
    transpose(pairs);
    bf16 *to = tiles->weights + first / DEPTH * TILE_NUMBERS;
    for (int q = 0; q < SIDE; q++) _mm512_store_si512(to + q * DEPTH, pairs[q]);
  }
}

/* The states' values, multiplied by ``rescale``, plus weights @ values. */
static void add_values(struct tiles *tiles, struct state *states, long num_queries, int size,
                       vec rescale, long dim) {
  const long num_tiles = dim / SIDE;
  for (long first = 0; first < num_tiles; first += SUM_TILES) {
    const int num = num_tiles - first < SUM_TILES ? (int)(num_tiles - first) : SUM_TILES;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < size; k += DEPTH) {
      const bf16 *values =
          tiles->values + (k / DEPTH * num_tiles + first) * TILE_NUMBERS;
      _tile_loadd(4, tiles->weights + k / DEPTH * TILE_NUMBERS, TILE_STRIDE);
      _tile_loadd(5, values, TILE_STRIDE);
      _tile_dpbf16ps(0, 4, 5);
      _tile_loadd(6, values + TILE_NUMBERS, TILE_STRIDE);
      _tile_dpbf16ps(1, 4, 6);
      if (num < SUM_TILES) continue; /* there are two or four: dim is a multiple of 32 */
      _tile_loadd(5, values + 2 * TILE_NUMBERS, TILE_STRIDE);
      _tile_dpbf16ps(2, 4, 5);
      _tile_loadd(6, values + 3 * TILE_NUMBERS, TILE_STRIDE);
      _tile_dpbf16ps(3, 4, 6);
    }
    _tile_stored(0, tiles->sums, TILE_STRIDE);
    _tile_stored(1, tiles->sums + TILE_SUMS, TILE_STRIDE);
    _tile_stored(2, tiles->sums + 2 * TILE_SUMS, TILE_STRIDE);
    _tile_stored(3, tiles->sums + 3 * TILE_SUMS, TILE_STRIDE);
    for (long q = 0; q < num_queries; q++)
      for (int t = 0; t < num; t++) {
        float *to = states[q].values + (first + t) * SIDE;
        store(to, load(to) * rescale[q] + load(tiles->sums + t * TILE_SUMS + q * SIDE));
      }
  }
}

/* Up to 16 states over one run; state ``q`` sees the first ``seen[q]`` keys. */
static void add_by_tiles(struct state *states, const bf16 *keys, const bf16 *values,
                         const long *seen, long num_queries, const struct next *next, long dim) {
  struct tiles tiles;
  struct many many = begin_many(states, seen, num_queries);
  long length = 0;
  for (long q = 0; q < num_queries; q++) length = seen[q] > length ? seen[q] : length;
  lay_out_queries(&tiles, states, num_queries, dim);
  for (long start = 0; start < length; start += MANY_KEYS) {
    const int size = length - start < MANY_KEYS ? (int)(length - start) : MANY_KEYS;
    score(&tiles, keys + start * dim, values + start * dim, size, dim);
    const vec rescale = weigh_many(&many, tiles.scores, size, states[0].scale);
    lay_out_weights(&tiles, size);
    lay_out_values(&tiles, values + start * dim, size, dim);
    const long num_later = (length - start - MANY_KEYS) * dim * sizeof(bf16);
    prefetch_keys(keys + (start + MANY_KEYS) * dim, num_later, next, 0, size * dim * sizeof(bf16));
    add_values(&tiles, states, num_queries, size, rescale, dim);
  }
  end_many(states, &many, num_queries);
}
