/* What stands between a decoder's products, each row by row, and a vision tower's. Included once for
   each KIND. All return 0, as what may fail does. */

/* out = rows / root of their mean square * weight [size] (Zhang and Sennrich, arXiv:1910.07467). */
int NAME(norm)(const TYPE *rows, const TYPE *weight, TYPE *out, long num_rows, long size,
               float eps, int num_threads) {
#pragma omp parallel for if (num_rows > ALONE) num_threads(num_threads) schedule(static)
  for (long r = 0; r < num_rows; r++) {
    const TYPE *row = rows + r * size;
    vec squares = {0};
    for (long i = 0; i < size; i += PAIR) {
      vec first, second;
      NAME(load_pair)(row + i, &first, &second);
      squares += first * first;
      squares += second * second;
    }
    const float scale = 1.0f / sqrtf(sum(squares) / (float)size + eps);
    for (long i = 0; i < size; i += PAIR) {
      vec numbers[2], weights[2];
      NAME(load_pair)(row + i, &numbers[0], &numbers[1]);
      NAME(load_pair)(weight + i, &weights[0], &weights[1]);
      NAME(store_pair)(out + r * size + i, numbers[0] * scale * weights[0],
                       numbers[1] * scale * weights[1]);
    }
  }
  return 0;
}

/* Turns the first ``num_heads`` heads [dim] of each row of ``row_stride`` numbers, in place, by cos
   and sin [num_rows, dim], of which sin's first half is negated. */
int NAME(rotate)(TYPE *rows, const float *cos, const float *sin, long num_rows, long num_heads,
                 long dim, long row_stride, int num_threads) {
  const long half = dim / 2;
#pragma omp parallel for if (num_rows > ALONE) num_threads(num_threads) schedule(static)
  for (long r = 0; r < num_rows; r++) {
    const float *c = cos + r * dim, *s = sin + r * dim;
    for (long h = 0; h < num_heads; h++) {
      TYPE *low = rows + r * row_stride + h * dim, *high = low + half;
      for (long i = 0; i < half; i++) {
        const float a = NAME(widen)(low[i]), b = NAME(widen)(high[i]);
        low[i] = NAME(narrow)(a * c[i] + b * s[i]);
        high[i] = NAME(narrow)(b * c[half + i] + a * s[half + i]);
      }
    }
  }
  return 0;
}

/* silu(gate) * up of rows [2, size], into out [size] each. */
int NAME(gate)(const TYPE *rows, TYPE *out, long num_rows, long size, int num_threads) {
#pragma omp parallel for if (num_rows > ALONE) num_threads(num_threads) schedule(static)
  for (long r = 0; r < num_rows; r++) {
    const TYPE *row = rows + 2 * r * size;
    for (long i = 0; i < size; i += PAIR) {
      vec gate[2], up[2];
      NAME(load_pair)(row + i, &gate[0], &gate[1]);
      NAME(load_pair)(row + size + i, &up[0], &up[1]);
      NAME(store_pair)(out + r * size + i, gate[0] * sigmoid(gate[0]) * up[0],
                       gate[1] * sigmoid(gate[1]) * up[1]);
    }
  }
  return 0;
}

/* x * sigmoid(1.702 x) of ``count`` numbers, a multiple of PAIR, in place. */
int NAME(quick_gelu)(TYPE *numbers, long count, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (long i = 0; i < count; i += PAIR) {
    vec x[2];
    NAME(load_pair)(numbers + i, &x[0], &x[1]);
    NAME(store_pair)(numbers + i, x[0] * sigmoid(x[0] * 1.702f), x[1] * sigmoid(x[1] * 1.702f));
  }
  return 0;
}
