/* What stands between a decoder's products, each over a few rows. Included once for each KIND. All
   return 0, as what may fail does. */

/* out = rows / root of their mean square * weight [size] (Zhang and Sennrich, arXiv:1910.07467). */
int NAME(norm)(const TYPE *rows, const TYPE *weight, TYPE *out, long num_rows, long size,
                float eps) {
  for (long r = 0; r < num_rows; r++, rows += size, out += size) {
    vec squares = {0};
    for (long i = 0; i < size; i += PAIR) {
      vec first, second;
      NAME(load_pair)(rows + i, &first, &second);
      squares += first * first;
      squares += second * second;
    }
    const float scale = 1.0f / sqrtf(sum(squares) / (float)size + eps);
    for (long i = 0; i < size; i++)
      out[i] = NAME(narrow)(NAME(widen)(rows[i]) * scale * NAME(widen)(weight[i]));
  }
  return 0;
}

/* Turns the first ``num_heads`` heads [dim] of each row of ``row_stride`` numbers, in place, by cos
   and sin [num_rows, dim], of which sin's first half is negated. */
int NAME(rotate)(TYPE *rows, const float *cos, const float *sin, long num_rows, long num_heads,
                  long dim, long row_stride) {
  const long half = dim / 2;
  for (long r = 0; r < num_rows; r++, cos += dim, sin += dim)
    for (long h = 0; h < num_heads; h++) {
      TYPE *low = rows + r * row_stride + h * dim, *high = low + half;
      for (long i = 0; i < half; i++) {
        const float a = NAME(widen)(low[i]), b = NAME(widen)(high[i]);
        low[i] = NAME(narrow)(a * cos[i] + b * sin[i]);
        high[i] = NAME(narrow)(b * cos[half + i] + a * sin[half + i]);
      }
    }
  return 0;
}

/* silu(gate) * up of rows [2, size], into out [size] each. */
int NAME(gate)(const TYPE *rows, TYPE *out, long num_rows, long size) {
  for (long r = 0; r < num_rows; r++, rows += 2 * size, out += size)
    for (long i = 0; i < size; i += PAIR) {
      float products[PAIR];
      vec gate[2], up[2];
      NAME(load_pair)(rows + i, &gate[0], &gate[1]);
      NAME(load_pair)(rows + size + i, &up[0], &up[1]);
      for (int v = 0; v < 2; v++)
        store(products + v * LANES, gate[v] * sigmoid(gate[v]) * up[v]);
      for (int j = 0; j < PAIR; j++) out[i + j] = NAME(narrow)(products[NAME(place)(j)]);
    }
  return 0;
}
