/* Attention of few queries over keys and values as they lie: library.py says how it is called. */

#include <math.h>
#include <stdlib.h>

#include "functions.h"
#include "kernels.h"

#define CHUNK 1024 /* of keys, for few queries: between two, nothing is read */
#define STREAMS 4  /* that memory is read in beside each other */
#define AHEAD 8    /* rows: so long before it is read memory is asked for */
#define GROUP 4
#define MIN_MANY (LANES / 2 + 1) /* with fewer, most of a vector or a tile would be idle */
#define MAX_DIM 256
#define LINE 64 /* bytes of a cache line */
#define UNROLL_PAIRS _Pragma("GCC unroll 4")
#define UNROLL_DIMS _Pragma("GCC unroll 16")

/* One query of one head, and what it has seen. Numbers are in the order of pairs. */
struct state {
  float *query;  /* [dim], scaled */
  float *values; /* [dim], weighted against ``top`` */
  float top, total;
  const bf16 *given; /* the query as it came, where it is bfloat16 */
  float scale;
};

struct room {
  struct state *states;
  float *numbers;
};

/* What follows is laid out by attention/flat.py, all in 64 bits. */

/* A run of slots that rows of a family read. Row ``r`` of them sees the first ``visible + r``. */
struct part {
  int64_t first_row, num_rows; /* in the family */
  int64_t first_slot, length, visible;
};

/* Rows that have a part in common. */
struct family {
  int64_t first_row, num_rows; /* in ``order`` */
  int64_t first_part, num_parts;
};

struct step {
  int64_t num_rows, num_kv_heads, queries_a_head, dim, num_slots, num_families, num_threads;
  double scale;
  const int64_t *slots; /* of each row */
  const int64_t *order; /* rows, family by family */
  const struct family *families;
  const struct part *parts;
};

static int make_room(struct room *room, long num_queries, long dim) {
  room->states = malloc(num_queries * sizeof(struct state));
  room->numbers = malloc(num_queries * 2 * dim * sizeof(float));
  if (room->states != NULL && room->numbers != NULL) return 1;
  free(room->states);
  free(room->numbers);
  return 0;
}

static void free_room(struct room *room) {
  free(room->states);
  free(room->numbers);
}

/* Of a run. */
INLINE long sees(long visible, long length) { return visible < length ? visible : length; }

/* Keys that are read after a run's. */
struct next {
  const char *keys;
  long size; /* in bytes; 0: there are none */
};

INLINE void prefetch(const void *from, long size) {
  for (long at = 0; at < size; at += LINE) __builtin_prefetch((const char *)from + at, 0, 1);
}

/* A part of what is to be read when a chunk's values have been read: the run's next keys, where
   there are some, else those of the next run. ``at`` and ``size`` are in bytes, from the chunk's
   beginning. */
INLINE void prefetch_keys(const void *later, long num_later, const struct next *next, long at,
                          long size) {
  if (at < num_later)
    prefetch((const char *)later + at, size);
  else if (num_later <= 0 && at < next->size)
    prefetch(next->keys + at, size);
}

/* While row ``k`` is read of each of the STREAMS of ``each`` rows, ``size`` bytes a row, that begin at
   ``rows``: asks for what is read AHEAD rows later, or for the first of the streams of ``then_each``
   at ``then``. */
INLINE void ask_ahead(const void *rows, long each, const void *then, long then_each, long k,
                      const long size) {
  const char *from = rows;
  k += each < AHEAD ? each : AHEAD;
  if (k >= each) {
    from = then;
    k -= each;
    each = then_each;
    if (k >= each) return;
  }
  UNROLL for (int s = 0; s < STREAMS; s++)
    UNROLL for (long at = 0; at < size; at += LINE)
      __builtin_prefetch(from + (s * each + k) * size + at);
}

/* Turns ``size`` scores, of which the first ``num_seen`` count, into weights against the largest so
   far; CHUNK of them can be written. Returns what the state's values are to be multiplied by. */
INLINE float weigh(float *scores, int size, long num_seen, struct state *state) {
  for (long k = num_seen < 0 ? 0 : num_seen; k < size; k++) scores[k] = -INFINITY;
  for (int k = size; k % LANES; k++) scores[k] = -INFINITY;
  vec largest = load(scores);
  for (int k = LANES; k < size; k += LANES) largest = larger(largest, load(scores + k));
  float top = state->top;
  for (int lane = 0; lane < LANES; lane++) top = fmaxf(top, largest[lane]);
  if (top == -INFINITY) top = 0; /* nothing seen yet: all weights are 0 */
  const float rescale = expf(state->top - top);
  vec sums = {0};
  for (int k = 0; k < size; k += LANES) {
    const vec weights = exponential(load(scores + k) - top);
    store(scores + k, weights);
    sums += weights;
  }
  state->top = top;
  state->total = state->total * rescale + sum(sums);
  return rescale;
}

#include "attend_many.h"

#define TYPE float
#define NARROW 0
#define KIND f32
#define MANY add_many
#include "attend.h"
#undef TYPE
#undef NARROW
#undef KIND
#undef MANY

#define TYPE bf16
#define NARROW 1
#define KIND bf16
#ifdef __AMX_BF16__
#include "attend_tiles.h"
#define TILES
#define MANY add_by_tiles
#endif
#include "attend.h"
