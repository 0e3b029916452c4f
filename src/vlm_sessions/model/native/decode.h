/* Layer after layer, by the kernels that the other files define. Included once for each KIND. */

/* embeds [num_rows, hidden_size] through all layers and the last norm, into out, which is like them.
   Keys and values go to the step's slots of pool, whose layers are ``pool_stride`` numbers apart.
   ``room`` is as large as library.py says. Returns 0, or 1 without memory. */
int NAME(decode)(const struct decoder *decoder, const struct step *step, const TYPE *embeds,
                 const float *cos, const float *sin, TYPE *pool, TYPE *room, TYPE *out,
                 long num_rows, long pool_stride, int num_threads) {
  const long size = decoder->hidden_size, inner = decoder->intermediate_size;
  const long queries = decoder->num_heads * decoder->dim;
  const long row = queries + 2 * decoder->num_kv_heads * decoder->dim;
  const long num_turned = decoder->num_heads + decoder->num_kv_heads;
  TYPE *hidden = room, *middle = hidden + num_rows * size, *normed = middle + num_rows * size;
  TYPE *heads = normed + num_rows * size, *attended = heads + num_rows * row;
  TYPE *gate_up = attended + num_rows * queries, *gated = gate_up + num_rows * 2 * inner;
  const TYPE *from = embeds;
  for (long l = 0; l < decoder->num_layers; l++, from = hidden) {
    const struct layer *layer = decoder->layers + l;
    NAME(norm)(from, layer->input_norm, normed, num_rows, size, decoder->eps, num_threads);
    if (NAME(linear)(layer->qkv, normed, layer->qkv_bias, NULL, heads, num_rows, size, row,
                     num_threads))
      return 1;
    NAME(rotate)(heads, cos, sin, num_rows, num_turned, decoder->dim, row, num_threads);
    if (NAME(attend_step)(step, heads, heads + queries, pool + l * pool_stride, attended, row))
      return 1;
    if (NAME(linear)(layer->out, attended, layer->out_bias, from, middle, num_rows, queries, size,
                     num_threads))
      return 1;
    NAME(norm)(middle, layer->mlp_norm, normed, num_rows, size, decoder->eps, num_threads);
    if (NAME(linear)(layer->gate_up, normed, layer->gate_up_bias, NULL, gate_up, num_rows, size,
                     2 * inner, num_threads))
      return 1;
    NAME(gate)(gate_up, gated, num_rows, inner, num_threads);
    if (NAME(linear)(layer->down, gated, layer->down_bias, middle, hidden, num_rows, inner, size,
                     num_threads))
      return 1;
  }
  return NAME(norm)(from, decoder->norm, out, num_rows, size, decoder->eps, num_threads);
}
