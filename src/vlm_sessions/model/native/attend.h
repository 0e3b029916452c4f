/* Softmax over a run of keys, and the sums that parts of a context are put together by. Included once
   for each KIND.

   Up to GROUP queries at a time read CHUNK keys and then as many values, with the largest score so far
   as the reference (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135). All sums
   are float32. While keys are read, their values are on their way, and then the next keys. */

INLINE void NAME(attend_group)(const TYPE *queries, const TYPE *keys, const TYPE *values, TYPE *out,
                               float *lse, long length, const int dim, float scale,
                               const int num_queries) {
  const int num_pairs = dim / PAIR;
  float wide[GROUP][MAX_DIM], scores[GROUP][CHUNK], top[GROUP], total[GROUP];
  vec sums[GROUP][MAX_DIM / LANES];
  for (int q = 0; q < num_queries; q++) {
    for (int d = 0; d < dim; d++)
      wide[q][NAME(place)(d)] = NAME(widen)(queries[q * dim + d]) * scale;
    for (int d = 0; d < 2 * num_pairs; d++) sums[q][d] = (vec){0};
    top[q] = -INFINITY;
    total[q] = 0;
  }
  for (long start = 0; start < length; start += CHUNK) {
    const int size = length - start < CHUNK ? (int)(length - start) : CHUNK;
    const TYPE *key = keys + start * dim, *value = values + start * dim;
    for (int k = 0; k < size; k++) {
      prefetch(value + k * dim, dim * sizeof(TYPE));
      vec score[GROUP];
      UNROLL for (int q = 0; q < num_queries; q++) score[q] = (vec){0};
      UNROLL_PAIRS for (int p = 0; p < num_pairs; p++) {
        vec first, second;
        NAME(load_pair)(key + k * dim + p * PAIR, &first, &second);
        UNROLL for (int q = 0; q < num_queries; q++) {
          score[q] += first * load(wide[q] + p * PAIR);
          score[q] += second * load(wide[q] + p * PAIR + LANES);
        }
      }
      UNROLL for (int q = 0; q < num_queries; q++) scores[q][k] = sum(score[q]);
    }
    for (int q = 0; q < num_queries; q++) {
      const float rescale = weigh(scores[q], size, &top[q], &total[q]);
      for (int d = 0; d < 2 * num_pairs; d++) sums[q][d] *= rescale;
    }
    for (int k = 0; k < size; k++) {
      prefetch(key + (CHUNK + k) * dim, dim * sizeof(TYPE));
      UNROLL_PAIRS for (int p = 0; p < num_pairs; p++) {
        vec first, second;
        NAME(load_pair)(value + k * dim + p * PAIR, &first, &second);
        UNROLL for (int q = 0; q < num_queries; q++) {
          sums[q][2 * p] += first * scores[q][k];
          sums[q][2 * p + 1] += second * scores[q][k];
        }
      }
    }
  }
  for (int q = 0; q < num_queries; q++) {
    for (int d = 0; d < 2 * num_pairs; d++) store(wide[q] + d * LANES, sums[q][d] / total[q]);
    for (int d = 0; d < dim; d++) out[q * dim + d] = NAME(narrow)(wide[q][NAME(place)(d)]);
    lse[q] = top[q] + logf(total[q]);
  }
}

INLINE void NAME(attend_head)(const TYPE *queries, const TYPE *keys, const TYPE *values, TYPE *out,
                              float *lse, long num_queries, long length, const int dim,
                              float scale) {
  for (; num_queries > 0; num_queries -= GROUP) {
    switch (num_queries) {
      case 1: NAME(attend_group)(queries, keys, values, out, lse, length, dim, scale, 1); break;
      case 2: NAME(attend_group)(queries, keys, values, out, lse, length, dim, scale, 2); break;
      case 3: NAME(attend_group)(queries, keys, values, out, lse, length, dim, scale, 3); break;
      default: NAME(attend_group)(queries, keys, values, out, lse, length, dim, scale, GROUP);
    }
    queries += GROUP * dim;
    out += GROUP * dim;
    lse += GROUP;
  }
}

void NAME(attend)(const TYPE *queries, const TYPE *keys, const TYPE *values, TYPE *out, float *lse,
                  long num_heads, long num_queries, long length, long dim, long query_stride,
                  long key_stride, float scale, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (long h = 0; h < num_heads; h++) {
    const TYPE *q = queries + h * query_stride, *k = keys + h * key_stride,
               *v = values + h * key_stride;
    TYPE *to = out + h * num_queries * dim;
    float *sums = lse + h * num_queries;
    switch (dim) { /* known to the compiler where it is usual */
      case 64: NAME(attend_head)(q, k, v, to, sums, num_queries, length, 64, scale); break;
      case 128: NAME(attend_head)(q, k, v, to, sums, num_queries, length, 128, scale); break;
      default: NAME(attend_head)(q, k, v, to, sums, num_queries, length, (int)dim, scale);
    }
  }
}
