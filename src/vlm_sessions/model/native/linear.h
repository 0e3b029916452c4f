/* rows @ weight.T + bias + others for few rows, by whatever vectors there are. Included once for
   each KIND.

     weight  [num_out, num_in]    of TYPE; read once, from memory
     rows    [num_rows, num_in]   small: stay in the caches, as float32 in the order of pairs
     bias    [num_out], may be NULL
     others  [num_rows, num_out], may be NULL
     out     [num_rows, num_out]; these three are of OUT

   ``num_in`` is a multiple of PAIR, ``num_out`` of TILE_OUT and STREAMS. TILE_OUT rows of the weight
   at a time are multiplied with all rows, at most TILE_ROWS in a pass. What comes AHEAD is asked for
   meanwhile, a share of it in each pass: the processor does not do so by itself where numbers are
   read more than once. One row goes another way. */

/* Four rows of the weight's sums, to where ``out`` points at, as bias and others do. */
INLINE void NAME(put)(quad sums, const OUT *bias, const OUT *others, OUT *out) {
  if (bias) sums += NAME(load_quad)(bias);
  if (others) sums += NAME(load_quad)(others);
  NAME(store_quad)(out, sums);
}

/* ``lines`` of what ``next`` points at are asked for with each pair: known to the compiler, like
   ``num_rows``. */
INLINE void NAME(tile)(const TYPE *weight, const float *rows, const OUT *bias, const OUT *others,
                       OUT *out, long num_in, long num_out, const int num_rows, const char *next,
                       const int lines) {
  vec sums[TILE_OUT][TILE_ROWS];
  UNROLL for (int o = 0; o < TILE_OUT; o++)
    UNROLL for (int r = 0; r < num_rows; r++) sums[o][r] = (vec){0};
  for (long i = 0; i < num_in; i += PAIR) {
    UNROLL for (int line = 0; line < lines; line++, next += LINE) __builtin_prefetch(next, 0, 1);
    UNROLL for (int half = 0; half < 2; half++) { /* there are registers for the sums and one */
      vec some[TILE_OUT];
      UNROLL for (int o = 0; o < TILE_OUT; o++)
        some[o] = NAME(load_half)(weight + o * num_in + i, half);
      UNROLL for (int r = 0; r < num_rows; r++) {
        const vec x = load(rows + r * num_in + i + half * LANES);
        UNROLL for (int o = 0; o < TILE_OUT; o++) sums[o][r] += some[o] * x;
      }
    }
  }
  UNROLL for (int r = 0; r < num_rows; r++)
    NAME(put)(sum_each(sums[0][r], sums[1][r], sums[2][r], sums[3][r]), bias,
              others ? others + r * num_out : NULL, out + r * num_out);
}

INLINE void NAME(pass)(const TYPE *weight, const float *rows, const OUT *bias, const OUT *others,
                       OUT *out, long num_rows, long num_in, long num_out, const char *next,
                       const int lines) {
#define CASE(n)                                                                          \
  case n:                                                                                \
    NAME(tile)(weight, rows, bias, others, out, num_in, num_out, n, next, lines); \
    break;
  switch (num_rows) {
    CASE(1)
    CASE(2)
#if TILE_ROWS > 2
    CASE(3)
    CASE(4)
    CASE(5)
    CASE(6)
#endif
  }
#undef CASE
}

static void NAME(panel)(const TYPE *weight, const float *rows, const OUT *bias, const OUT *others,
                        OUT *out, long num_rows, long num_in, long num_out) {
  enum {
    ALL = (TILE_OUT * PAIR * sizeof(TYPE) + LINE - 1) / LINE,
    HALF = (ALL + 1) / 2,
    QUARTER = (ALL + 3) / 4,
  };
  const long num_passes = (num_rows + TILE_ROWS - 1) / TILE_ROWS;
  const int lines = num_passes == 1 ? ALL : num_passes == 2 ? HALF : QUARTER;
  const char *next = (const char *)weight + AHEAD, *end = next + TILE_OUT * num_in * sizeof(TYPE);
  for (long r = 0, pass = 0; pass < num_passes; pass++) {
    const float *some = rows + r * num_in;
    const OUT *from = others ? others + r * num_out : NULL;
    OUT *to = out + r * num_out;
    const long num_some = (num_rows - r) / (num_passes - pass);
#define PASS(lines) NAME(pass)(weight, some, bias, from, to, num_some, num_in, num_out, next, lines)
    if (next >= end)
      PASS(0);
    else if (num_passes == 1)
      PASS(ALL);
    else if (num_passes == 2)
      PASS(HALF);
    else
      PASS(QUARTER);
#undef PASS
    next += lines * (num_in / PAIR) * LINE;
    r += num_some;
  }
}

/* One row with ``STREAMS * count`` rows of the weight, as STREAMS parts beside each other, each of
   which is read from one end to the other: memory is fastest so. */
static void NAME(streams)(const TYPE *weight, const float *row, const OUT *bias, const OUT *others,
                          OUT *out, long num_in, long count) {
  const long apart = count * num_in;
  for (long o = 0; o < count; o++, weight += num_in) {
    vec sums[STREAMS];
    UNROLL for (int s = 0; s < STREAMS; s++) sums[s] = (vec){0};
    for (long i = 0; i < num_in; i += PAIR) {
      const vec x = load(row + i), y = load(row + i + LANES);
      UNROLL for (int s = 0; s < STREAMS; s++) {
        const TYPE *some = weight + s * apart + i;
        for (int at = 0; at < (int)(PAIR * sizeof(TYPE)); at += LINE)
          __builtin_prefetch((const char *)some + SOON + at, 0, 3);
        sums[s] += NAME(load_half)(some, 0) * x;
        sums[s] += NAME(load_half)(some, 1) * y;
      }
    }
    UNROLL for (int s = 0; s < STREAMS; s++) {
      const long at = s * count + o;
      float total = sum(sums[s]);
      if (bias) total += NAME(widen)(bias[at]);
      if (others) total += NAME(widen)(others[at]);
      out[at] = NAME(narrow)(total);
    }
  }
}

static void NAME(multiply_one)(const TYPE *weight, const float *row, const OUT *bias,
                               const OUT *others, OUT *out, long num_in, long num_out,
                               int num_threads) {
  const long count = num_out / STREAMS;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (long t = 0; t < num_threads; t++) {
    const long first = t * count / num_threads, end = (t + 1) * count / num_threads;
    const long o = first * STREAMS;
    NAME(streams)(weight + o * num_in, row, bias ? bias + o : NULL, others ? others + o : NULL,
                  out + o, num_in, end - first);
  }
}

/* ``rows`` as float32, arranged. */
static void NAME(multiply)(const TYPE *weight, const float *rows, const OUT *bias,
                           const OUT *others, OUT *out, long num_rows, long num_in, long num_out,
                           int num_threads) {
  if (num_rows == 1) {
    NAME(multiply_one)(weight, rows, bias, others, out, num_in, num_out, num_threads);
    return;
  }
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (long o = 0; o < num_out; o += TILE_OUT)
    NAME(panel)(weight + o * num_in, rows, bias ? bias + o : NULL, others ? others + o : NULL,
                out + o, num_rows, num_in, num_out);
}
