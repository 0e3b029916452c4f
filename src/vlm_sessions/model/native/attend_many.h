/* Many queries at a time over one run of keys: a vector holds one number of each query, so that
   scores need no sum across a vector, and what is known of the queries - largest score, sum, how
   far they see - is a vector as well.

     scores [key][query]   = queries [dim][query] * key [dim], number by number
     weights [key][query]    of the scores, in their place
     values [dim][query]  += weights [key][query] * value [dim], likewise */

#define MANY_KEYS 128 /* a multiple of 32 */
#define KEYS_AT_ONCE 8
#if LANES == 8
#define DIMS_AT_ONCE 8 /* of 16 registers */
#else
#define DIMS_AT_ONCE 16
#endif

/* Of LANES queries, what was seen before a run, and with it. */
struct many {
  vec top, total;
  ints seen; /* of the keys from here on */
};

INLINE struct many begin_many(const struct state *states, const long *seen, long num_queries) {
  struct many many = {.top = (vec){0} - INFINITY};
  for (long q = 0; q < num_queries; q++) {
    many.top[q] = states[q].top;
    many.total[q] = states[q].total;
    many.seen[q] = (int)seen[q];
  }
  return many;
}

INLINE void end_many(struct state *states, const struct many *many, long num_queries) {
  for (long q = 0; q < num_queries; q++) {
    states[q].top = many->top[q];
    states[q].total = many->total[q];
  }
}

/* Turns scores of ``size`` keys into weights against the largest so far. Returns what the queries'
   values are to be multiplied by. */
static vec weigh_many(struct many *many, float *scores, int size, float scale) {
  const vec none = (vec){0} - INFINITY;
  vec largest = many->top;
  for (int k = 0; k < size; k++) {
    const vec score = choose(many->seen > k, load(scores + k * LANES) * scale, none);
    store(scores + k * LANES, score);
    largest = larger(largest, score);
  }
  largest = choose(largest > none, largest, (vec){0}); /* nothing seen yet: all weights are 0 */
  const vec rescale = exponential(many->top - largest);
  vec sums = {0};
  for (int k = 0; k < size; k++) {
    const vec weight = exponential(load(scores + k * LANES) - largest);
    store(scores + k * LANES, weight);
    sums += weight;
  }
  many->top = largest;
  many->total = many->total * rescale + sums;
  many->seen -= size;
  return rescale;
}

INLINE void score_keys(const float *queries, const float *keys, float *scores, long dim,
                       const int num_keys) {
  vec sums[KEYS_AT_ONCE];
  UNROLL for (int k = 0; k < num_keys; k++) sums[k] = (vec){0};
  for (long d = 0; d < dim; d++) {
    const vec query = load(queries + d * LANES);
    UNROLL for (int k = 0; k < num_keys; k++) sums[k] += query * keys[k * dim + d];
  }
  UNROLL for (int k = 0; k < num_keys; k++) store(scores + k * LANES, sums[k]);
}

/* Up to LANES states over one run in float32; state ``q`` sees the first ``seen[q]`` keys. */
static void add_many(struct state *states, const float *keys, const float *values, const long *seen,
                     long num_queries, const struct next *next, long dim) {
  float queries[MAX_DIM * LANES], results[MAX_DIM * LANES], scores[MANY_KEYS * LANES];
  struct many many = begin_many(states, seen, num_queries);
  long length = 0;
  for (long q = 0; q < LANES; q++) {
    if (q < num_queries && seen[q] > length) length = seen[q];
    for (long d = 0; d < dim; d++) {
      queries[d * LANES + q] = q < num_queries ? states[q].query[d] : 0;
      results[d * LANES + q] = q < num_queries ? states[q].values[d] : 0;
    }
  }
  const long row = dim * sizeof(float);
  for (long start = 0; start < length; start += MANY_KEYS) {
    const long num_later = (length - start - MANY_KEYS) * row;
    const int size = length - start < MANY_KEYS ? (int)(length - start) : MANY_KEYS;
    const float *key = keys + start * dim, *value = values + start * dim;
    int k = 0;
    for (; k + KEYS_AT_ONCE <= size; k += KEYS_AT_ONCE) {
      prefetch(value + k * dim, KEYS_AT_ONCE * row);
      score_keys(queries, key + k * dim, scores + k * LANES, dim, KEYS_AT_ONCE);
    }
    for (; k < size; k++) {
      prefetch(value + k * dim, row);
      score_keys(queries, key + k * dim, scores + k * LANES, dim, 1);
    }
    const vec rescale = weigh_many(&many, scores, size, 1);
    for (long first = 0; first < dim; first += DIMS_AT_ONCE) {
      vec sums[DIMS_AT_ONCE];
      UNROLL_DIMS for (int d = 0; d < DIMS_AT_ONCE; d++)
        sums[d] = load(results + (first + d) * LANES) * rescale;
      for (int s = 0; s < size; s++) {
        if (first == 0) prefetch_keys(key + MANY_KEYS * dim, num_later, next, s * row, row);
        const vec weight = load(scores + s * LANES);
        UNROLL_DIMS for (int d = 0; d < DIMS_AT_ONCE; d++)
          sums[d] += weight * value[s * dim + first + d];
      }
      UNROLL_DIMS for (int d = 0; d < DIMS_AT_ONCE; d++)
        store(results + (first + d) * LANES, sums[d]);
    }
  }
  for (long q = 0; q < num_queries; q++)
    for (long d = 0; d < dim; d++) states[q].values[d] = results[d * LANES + q];
  end_many(states, &many, num_queries);
}
