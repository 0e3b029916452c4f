/* rows @ weight.T + bias + others for few rows, by whatever vectors there are. Included once for
   each KIND.

     weight  [num_out, num_in]    of TYPE; read once, from memory
     rows    [num_rows, num_in]   small: stay in the caches, as float32 in the order of pairs
     bias    [num_out], may be NULL
     others  [num_rows, num_out], may be NULL
     out     [num_rows, num_out]; these three are of OUT

   ``num_in`` is a multiple of PAIR, ``num_out`` of TILE_OUT and STREAMS. The weight is read as several
   parts beside each other, each from one end to the other: memory is fastest so. With more than one
   row these are TILE_OUT, each row of which is multiplied with at most TILE_ROWS rows in a pass.
   Meanwhile the parts' next rows are asked for, a share of them in each pass: the processor does not
   do so by itself where numbers are read more than once. */

/* A sum, with what is to be added, to where it belongs. */
INLINE void NAME(put)(float sum, const OUT *bias, const OUT *others, OUT *out, long at) {
  if (bias) sum += NAME(widen)(bias[at]);
  if (others) sum += NAME(widen)(others[at]);
  out[at] = NAME(narrow)(sum);
}

/* One row of each of TILE_OUT parts of the weight, with ``num_rows`` rows. Of ``num_asked`` parts, the
   first of them at ``next``, as much is asked for meanwhile. Both numbers are known to the compiler. */
INLINE void NAME(tile)(const TYPE *weight, long apart, const float *rows, const OUT *bias,
                       const OUT *others, OUT *out, long num_in, long num_out, long count,
                       const int num_rows, const TYPE *next, const int num_asked) {
  vec sums[TILE_OUT][TILE_ROWS];
  UNROLL for (int o = 0; o < TILE_OUT; o++)
    UNROLL for (int r = 0; r < num_rows; r++) sums[o][r] = (vec){0};
  for (long i = 0; i < num_in; i += PAIR) {
    UNROLL for (int s = 0; s < num_asked; s++)
      for (int at = 0; at < (int)(PAIR * sizeof(TYPE)); at += LINE)
        __builtin_prefetch((const char *)(next + s * apart + i) + at, 0, 1);
    UNROLL for (int half = 0; half < 2; half++) { /* there are registers for the sums and one */
      vec some[TILE_OUT];
      UNROLL for (int o = 0; o < TILE_OUT; o++)
        some[o] = NAME(load_half)(weight + o * apart + i, half);
      UNROLL for (int r = 0; r < num_rows; r++) {
        const vec x = load(rows + r * num_in + i + half * LANES);
        UNROLL for (int o = 0; o < TILE_OUT; o++) sums[o][r] += some[o] * x;
      }
    }
  }
  UNROLL for (int r = 0; r < num_rows; r++) {
    const quad each = sum_each(sums[0][r], sums[1][r], sums[2][r], sums[3][r]);
    for (int o = 0; o < TILE_OUT; o++)
      NAME(put)(each[o], bias, others ? others + r * num_out : NULL, out + r * num_out, o * count);
  }
}

INLINE void NAME(pass)(const TYPE *weight, long apart, const float *rows, const OUT *bias,
                       const OUT *others, OUT *out, long num_rows, long num_in, long num_out,
                       long count, const TYPE *next, const int num_asked) {
#define CASE(n)                                                                              \
  case n:                                                                                    \
    NAME(tile)(weight, apart, rows, bias, others, out, num_in, num_out, count, n, next,      \
               num_asked);                                                                   \
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

/* All rows with ``TILE_OUT * count`` rows of the weight, as parts beside each other. */
static void NAME(panels)(const TYPE *weight, const float *rows, const OUT *bias,
                         const OUT *others, OUT *out, long num_rows, long num_in, long num_out,
                         long count) {
  const long num_passes = (num_rows + TILE_ROWS - 1) / TILE_ROWS, apart = count * num_in;
  const int each = num_passes == 1 ? TILE_OUT : num_passes < 4 ? 2 : 1;
  for (long o = 0; o < count; o++, weight += num_in) {
    const TYPE *next = weight + num_in;
    for (long r = 0, pass = 0; pass < num_passes; pass++, next += each * apart) {
      const float *some = rows + r * num_in;
      const OUT *with = bias ? bias + o : NULL, *from = others ? others + r * num_out + o : NULL;
      OUT *to = out + r * num_out + o;
      const long num_some = (num_rows - r) / (num_passes - pass);
#define PASS(num_asked)                                                                     \
  NAME(pass)(weight, apart, some, with, from, to, num_some, num_in, num_out, count, next, num_asked)
      if (pass * each >= TILE_OUT)
        PASS(0);
      else if (each == TILE_OUT)
        PASS(TILE_OUT);
      else if (each == 2)
        PASS(2);
      else
        PASS(1);
#undef PASS
      r += num_some;
    }
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
    UNROLL for (int s = 0; s < STREAMS; s++)
      NAME(put)(sum(sums[s]), bias, others, out, s * count + o);
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
  const long count = num_out / TILE_OUT;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (long t = 0; t < num_threads; t++) {
    const long first = t * count / num_threads, end = (t + 1) * count / num_threads;
    const long o = first * TILE_OUT;
    NAME(panels)(weight + o * num_in, rows, bias ? bias + o : NULL, others ? others + o : NULL,
                 out + o, num_rows, num_in, num_out, end - first);
  }
}
