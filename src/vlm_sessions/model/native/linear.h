/* rows @ weight.T + bias + others for few rows, by whatever vectors there are. Included once for
   each KIND.

     weight  [num_out, num_in]    read once, from memory
     rows    [num_rows, num_in]   small: stay in the caches, as float32 in the order of pairs
     bias    [num_out], may be NULL
     others  [num_rows, num_out], may be NULL
     out     [num_rows, num_out]

   ``num_in`` is a multiple of PAIR, ``num_out`` of TILE_OUT. TILE_OUT rows of the weight at a time
   are multiplied with all rows, TILE_ROWS at a time, while the next rows of the weight are on their
   way: with more than one pass nothing else would ask for them. */

INLINE float NAME(added)(const TYPE *bias, const TYPE *others, long row, long o) {
  return (bias ? NAME(widen)(bias[o]) : 0) + (others ? NAME(widen)(others[row + o]) : 0);
}

INLINE void NAME(tile)(const TYPE *weight, const float *rows, const TYPE *bias, const TYPE *others,
                       TYPE *out, long num_in, long num_out, const int num_rows, const char *next,
                       const int lines) {
  vec sums[TILE_OUT][TILE_ROWS];
  UNROLL for (int o = 0; o < TILE_OUT; o++)
    UNROLL for (int r = 0; r < num_rows; r++) sums[o][r] = (vec){0};
  for (long i = 0; i < num_in; i += PAIR) {
    for (int line = 0; line < lines; line++, next += LINE) __builtin_prefetch(next, 0, 1);
    vec first[TILE_OUT], second[TILE_OUT];
    UNROLL for (int o = 0; o < TILE_OUT; o++)
      NAME(load_pair)(weight + o * num_in + i, &first[o], &second[o]);
    UNROLL for (int r = 0; r < num_rows; r++) {
      const vec x = load(rows + r * num_in + i), y = load(rows + r * num_in + i + LANES);
      UNROLL for (int o = 0; o < TILE_OUT; o++) sums[o][r] += first[o] * x;
      UNROLL for (int o = 0; o < TILE_OUT; o++) sums[o][r] += second[o] * y;
    }
  }
  UNROLL for (int r = 0; r < num_rows; r++)
    UNROLL for (int o = 0; o < TILE_OUT; o++)
      out[r * num_out + o] =
          NAME(narrow)(sum(sums[o][r]) + NAME(added)(bias, others, r * num_out, o));
}

static void NAME(panel)(const TYPE *weight, const float *rows, const TYPE *bias, const TYPE *others,
                        TYPE *out, long num_rows, long num_in, long num_out) {
  const long num_pairs = num_in / PAIR, size = TILE_OUT * num_in * sizeof(TYPE);
  const long num_passes = (num_rows + TILE_ROWS - 1) / TILE_ROWS;
  const long a_pair = (size / num_pairs / LINE + num_passes - 1) / num_passes;
  const char *next = (const char *)weight + size, *end = next + size;
  for (long r = 0; r < num_rows; r += TILE_ROWS) {
    const float *some = rows + r * num_in;
    TYPE *to = out + r * num_out;
    const TYPE *from = others ? others + r * num_out : NULL;
    const int lines = next < end ? (int)(a_pair ? a_pair : 1) : 0;
    switch (num_rows - r) {
      case 1: NAME(tile)(weight, some, bias, from, to, num_in, num_out, 1, next, lines); break;
#if TILE_ROWS > 2
      case 2: NAME(tile)(weight, some, bias, from, to, num_in, num_out, 2, next, lines); break;
      case 3: NAME(tile)(weight, some, bias, from, to, num_in, num_out, 3, next, lines); break;
      case 4: NAME(tile)(weight, some, bias, from, to, num_in, num_out, 4, next, lines); break;
      case 5: NAME(tile)(weight, some, bias, from, to, num_in, num_out, 5, next, lines); break;
#endif
      default: NAME(tile)(weight, some, bias, from, to, num_in, num_out, TILE_ROWS, next, lines);
    }
    next += lines * num_pairs * LINE;
  }
}

/* ``rows`` as float32, arranged. */
static void NAME(multiply)(const TYPE *weight, const float *rows, const TYPE *bias,
                           const TYPE *others, TYPE *out, long num_rows, long num_in, long num_out,
                           int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (long o = 0; o < num_out; o += TILE_OUT)
    NAME(panel)(weight + o * num_in, rows, bias ? bias + o : NULL, others ? others + o : NULL,
                out + o, num_rows, num_in, num_out);
}
