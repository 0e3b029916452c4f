/* Softmax over runs of keys, part by part. Included once for each KIND.

   A query's state is what was added up so far: the largest score, the sum of the weights against
   it, and the weighted values (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135).
   All of it is float32, so parts of a context may come in any order and lie anywhere.

   Up to GROUP queries at a time read up to CHUNK keys and then as many values, in STREAMS parts
   beside each other: that is what the processor's own prefetching is fastest with. Numbers that are
   NARROW, of which more is computed in the time that memory takes, are asked for AHEAD of that. MANY
   queries go another way (attend_many.h, attend_tiles.h). */

/* Scores [GROUP][CHUNK] of ``size`` keys. */
INLINE void NAME(score)(const struct state *states, const TYPE *keys, const TYPE *values,
                        float (*scores)[CHUNK], const int size, const int dim,
                        const int num_queries) {
  const int each = size / STREAMS;
  for (int k = 0; k < each; k++) {
    if (NARROW) ask_ahead(keys, each, values, each, k, dim * sizeof(TYPE));
    vec sums[GROUP][STREAMS];
    UNROLL for (int q = 0; q < num_queries; q++)
      UNROLL for (int s = 0; s < STREAMS; s++) sums[q][s] = (vec){0};
    UNROLL_PAIRS for (int p = 0; p < dim; p += PAIR)
      UNROLL for (int s = 0; s < STREAMS; s++) {
        vec first, second;
        NAME(load_pair)(keys + (s * each + k) * dim + p, &first, &second);
        UNROLL for (int q = 0; q < num_queries; q++) {
          sums[q][s] += first * load(states[q].query + p);
          sums[q][s] += second * load(states[q].query + p + LANES);
        }
      }
    UNROLL for (int q = 0; q < num_queries; q++) {
      const quad four = sum_each(sums[q][0], sums[q][1], sums[q][2], sums[q][3]);
      UNROLL for (int s = 0; s < STREAMS; s++) scores[q][s * each + k] = four[s];
    }
  }
  for (int k = each * STREAMS; k < size; k++)
    UNROLL for (int q = 0; q < num_queries; q++) {
      vec score = {0};
      for (int p = 0; p < dim; p += PAIR) {
        vec first, second;
        NAME(load_pair)(keys + k * dim + p, &first, &second);
        score += first * load(states[q].query + p);
        score += second * load(states[q].query + p + LANES);
      }
      scores[q][k] = sum(score);
    }
}

/* One value, weighted, to what was added up. */
INLINE void NAME(add_value)(vec (*sums)[MAX_DIM / LANES], const TYPE *value,
                            float (*weights)[CHUNK], const int k, const int dim,
                            const int num_queries) {
  UNROLL_PAIRS for (int p = 0; p < dim / PAIR; p++) {
    vec first, second;
    NAME(load_pair)(value + p * PAIR, &first, &second);
    UNROLL for (int q = 0; q < num_queries; q++) {
      sums[q][2 * p] += first * weights[q][k];
      sums[q][2 * p + 1] += second * weights[q][k];
    }
  }
}

INLINE void NAME(add_run)(struct state *states, const TYPE *keys, const TYPE *values,
                          const long *visible, const struct next *next, const int dim,
                          const int num_queries) {
  float scores[GROUP][CHUNK];
  const long row = dim * sizeof(TYPE);
  long length = 0;
  for (int q = 0; q < num_queries; q++) length = visible[q] > length ? visible[q] : length;
  for (long start = 0; start < length; start += CHUNK) {
    const int size = length - start < CHUNK ? (int)(length - start) : CHUNK;
    const int each = size / STREAMS;
    const TYPE *key = keys + start * dim, *value = values + start * dim;
    const long left = length - start - size, then_size = left > 0 ? left : next->size / row;
    const void *then = left > 0 ? (const void *)(key + CHUNK * dim) : next->keys;
    const long then_each = (then_size < CHUNK ? then_size : CHUNK) / STREAMS;
    NAME(score)(states, key, value, scores, size, dim, num_queries);
    for (int q = 0; q < num_queries; q++) {
      const float rescale = weigh(scores[q], size, visible[q] - start, &states[q]);
      for (int d = 0; d < dim; d += LANES)
        store(states[q].values + d, load(states[q].values + d) * rescale);
    }
    vec sums[GROUP][MAX_DIM / LANES];
    UNROLL for (int q = 0; q < num_queries; q++)
      for (int p = 0; p < dim / LANES; p++) sums[q][p] = load(states[q].values + p * LANES);
    for (int k = 0; k < each; k++) {
      if (NARROW) ask_ahead(value, each, then, then_each, k, row);
      UNROLL for (int s = 0; s < STREAMS; s++)
        NAME(add_value)(sums, value + (s * each + k) * dim, scores, s * each + k, dim, num_queries);
    }
    for (int k = each * STREAMS; k < size; k++)
      NAME(add_value)(sums, value + k * dim, scores, k, dim, num_queries);
    UNROLL for (int q = 0; q < num_queries; q++)
      for (int p = 0; p < dim / LANES; p++) store(states[q].values + p * LANES, sums[q][p]);
  }
}

/* States over one run. Row ``r``, of which there are ``a_row`` queries each, sees the first
   ``visible + r`` keys of it. */
INLINE void NAME(add_part)(struct state *states, const TYPE *keys, const TYPE *values,
                           long num_queries, long a_row, long length, long visible,
                           const struct next *next, const int dim) {
  long first = 0;
#ifdef MANY
  for (; num_queries - first >= MIN_MANY; first += LANES) {
    const long num = num_queries - first < LANES ? num_queries - first : LANES;
    long seen[LANES];
    for (long q = 0; q < num; q++) seen[q] = sees(visible + (first + q) / a_row, length);
    MANY(states + first, keys, values, seen, num, next, dim);
  }
#endif
  for (; first < num_queries; first += GROUP) {
    struct state *some = states + first;
    long seen[GROUP];
    for (int q = 0; q < GROUP; q++) seen[q] = sees(visible + (first + q) / a_row, length);
    switch (num_queries - first) {
      case 1: NAME(add_run)(some, keys, values, seen, next, dim, 1); break;
      case 2: NAME(add_run)(some, keys, values, seen, next, dim, 2); break;
      case 3: NAME(add_run)(some, keys, values, seen, next, dim, 3); break;
      default: NAME(add_run)(some, keys, values, seen, next, dim, GROUP);
    }
  }
}

static void NAME(add)(struct state *states, const TYPE *keys, const TYPE *values, long num_queries,
                      long a_row, long length, long visible, struct next next, long dim) {
  switch (dim) { /* known to the compiler where it is usual */
    case 64:
      NAME(add_part)(states, keys, values, num_queries, a_row, length, visible, &next, 64);
      break;
    case 128:
      NAME(add_part)(states, keys, values, num_queries, a_row, length, visible, &next, 128);
      break;
    default:
      NAME(add_part)(states, keys, values, num_queries, a_row, length, visible, &next, (int)dim);
  }
}

/* A state for a query [dim], whose memory is ``room`` [2, dim]. */
INLINE void NAME(begin)(struct state *state, const TYPE *query, float scale, long dim,
                        float *room) {
  *state = (struct state){.query = room,
                          .values = room + dim,
                          .top = -INFINITY,
                          .given = (const bf16 *)query,
                          .scale = scale};
  for (long d = 0; d < dim; d++) {
    state->query[NAME(place)(d)] = NAME(widen)(query[d]) * scale;
    state->values[d] = 0;
  }
}

INLINE void NAME(end)(const struct state *state, TYPE *out, long dim) {
  for (long d = 0; d < dim; d++)
    out[d] = NAME(narrow)(state->values[NAME(place)(d)] / state->total);
}

/* Queries [num_heads, num_queries, dim] over one run of keys and values [num_heads, length, dim]
   into out, which is like the queries, and lse [num_heads, num_queries]. Returns 0, or 1 without
   memory. */
int NAME(attend)(const TYPE *queries, const TYPE *keys, const TYPE *values, TYPE *out, float *lse,
                 long num_heads, long num_queries, long length, long dim, long query_stride,
                 long key_stride, float scale, int num_threads) {
  struct room room;
  if (!make_room(&room, num_heads * num_queries, dim)) return 1;
#pragma omp parallel num_threads(num_threads)
  {
#ifdef TILES
    enter_tiles();
#endif
#pragma omp for schedule(static)
    for (long h = 0; h < num_heads; h++) {
      struct state *states = room.states + h * num_queries;
      for (long q = 0; q < num_queries; q++)
        NAME(begin)(states + q, queries + h * query_stride + q * dim, scale, dim,
                    room.numbers + (h * num_queries + q) * 2 * dim);
      const long size = h + 1 < num_heads ? length * dim * sizeof(TYPE) : 0;
      const struct next next = {(const char *)(keys + (h + 1) * key_stride), size};
      NAME(add)(states, keys + h * key_stride, values + h * key_stride, num_queries, 1, length,
                length, next, dim);
      for (long q = 0; q < num_queries; q++) {
        NAME(end)(states + q, out + (h * num_queries + q) * dim, dim);
        lse[h * num_queries + q] = states[q].top + logf(states[q].total);
      }
    }
#ifdef TILES
    leave_tiles();
#endif
  }
  free_room(&room);
  return 0;
}

/* What one thread reads after part ``p`` of family ``f`` for head ``h``. */
INLINE struct next NAME(after)(const struct step *step, const TYPE *pool, long f, long h, long p) {
  if (++p == step->families[f].num_parts) {
    p = 0;
    if (++h == step->num_kv_heads) {
      h = 0;
      if (++f == step->num_families) return (struct next){0};
    }
  }
  const struct part *part = step->parts + step->families[f].first_part + p;
  const TYPE *keys = pool + (h * step->num_slots + part->first_slot) * step->dim;
  return (struct next){(const char *)keys, part->length * step->dim * sizeof(TYPE)};
}

/* A whole step in one layer: write keys and values of rows to their slots, then let every row
   attend. See attention/flat.py, which lays the step out. Returns 0, or 1 without memory. */
int NAME(attend_step)(const struct step *step, const TYPE *queries, const TYPE *keys_values,
                      TYPE *pool, TYPE *out, long row_stride) {
  const long dim = step->dim, num_kv_heads = step->num_kv_heads, a_row = step->queries_a_head;
  const long head = step->num_slots * dim, num_queries = step->num_rows * a_row;
  TYPE *pool_values = pool + num_kv_heads * head;
  struct room room;
  if (!make_room(&room, num_kv_heads * num_queries, dim)) return 1;
  for (long r = 0; r < step->num_rows; r++)
    for (long h = 0; h < num_kv_heads; h++) {
      const TYPE *key = keys_values + r * row_stride + h * dim;
      const long at = h * head + step->slots[r] * dim;
      memcpy(pool + at, key, dim * sizeof(TYPE));
      memcpy(pool_values + at, key + num_kv_heads * dim, dim * sizeof(TYPE));
    }
#pragma omp parallel num_threads(step->num_threads)
  {
#ifdef TILES
    enter_tiles();
#endif
#pragma omp for collapse(2) schedule(dynamic)
    for (long f = 0; f < step->num_families; f++)
      for (long h = 0; h < num_kv_heads; h++) {
        const struct family *family = step->families + f;
        const long first = h * num_queries + family->first_row * a_row;
        struct state *states = room.states + first;
        for (long r = 0; r < family->num_rows; r++) {
          const long row = step->order[family->first_row + r];
          for (long q = 0; q < a_row; q++)
            NAME(begin)(states + r * a_row + q, queries + row * row_stride + (h * a_row + q) * dim,
                        step->scale, dim, room.numbers + (first + r * a_row + q) * 2 * dim);
        }
        for (long p = 0; p < family->num_parts; p++) {
          const struct part *part = step->parts + family->first_part + p;
          const long at = h * head + part->first_slot * dim;
          const struct next next = NAME(after)(step, pool, f, h, p);
          NAME(add)(states + part->first_row * a_row, pool + at, pool_values + at,
                    part->num_rows * a_row, a_row, part->length, part->visible, next, dim);
        }
        for (long r = 0; r < family->num_rows; r++) {
          const long row = step->order[family->first_row + r];
          for (long q = 0; q < a_row; q++)
            NAME(end)(states + r * a_row + q,
                      out + ((row * num_kv_heads + h) * a_row + q) * dim, dim);
        }
      }
#ifdef TILES
    leave_tiles();
#endif
  }
  free_room(&room);
  return 0;
}
