/* Which tokens may have the largest logit: text/screen.py says what of, library.py how it is called. */

#include <math.h>

#include "functions.h"

#define MOST_ROWS 64
#define LEAST_LENGTH 1e-15f /* of a row: its square is a number that float32 can hold */

/* A lower bound of the row's largest logit; -INFINITY where one of its scores is no number. */
static float at_least(const float *scores, const float *scales, const float *errors, float length,
                      long num_tokens) {
  vec largest = (vec){0} - INFINITY;
  ints undefined = {0};
  for (long t = 0; t < num_tokens; t += LANES) {
    const vec score = load(scores + t) * load(scales + t);
    largest = larger(largest, score - load(errors + t) * length);
    undefined |= score != score;
  }
  float most = -INFINITY;
  for (int lane = 0; lane < LANES; lane++) {
    if (undefined[lane]) return -INFINITY;
    most = fmaxf(most, largest[lane]);
  }
  return most;
}

INLINE int is_any(ints mask) {
  uint64_t halves[LANES / 2], any = 0;
  memcpy(halves, &mask, sizeof mask);
  UNROLL for (int i = 0; i < LANES / 2; i++) any |= halves[i];
  return any != 0;
}

static float length(const float *row, long size) {
  vec squares = {0};
  for (long i = 0; i < size; i += LANES) squares += load(row + i) * load(row + i);
  return sqrtf(sum(squares));
}

/* For rows [num_rows, size] and scores [num_rows, num_tokens] that are to be multiplied by scales
   [num_tokens], and are then wrong by at most a row's length times errors [num_tokens]: the tokens of
   which one may be the largest of a row, ascending. Returns their number, or -1 where there are more
   than ``most``, more rows than MOST_ROWS, or a row is not all numbers or next to nothing. num_tokens
   is a multiple of 16, size of 32. */
long screen(const float *rows, const float *scores, const float *scales, const float *errors,
            int64_t *found, long num_rows, long size, long num_tokens, long most) {
  float lengths[MOST_ROWS], bounds[MOST_ROWS];
  if (num_rows > MOST_ROWS) return -1;
  for (long r = 0; r < num_rows; r++) {
    lengths[r] = length(rows + r * size, size);
    bounds[r] = at_least(scores + r * num_tokens, scales, errors, lengths[r], num_tokens);
    if (!(lengths[r] > LEAST_LENGTH && lengths[r] < INFINITY)) return -1;
    if (bounds[r] == -INFINITY) return -1;
  }
  long count = 0;
  for (long t = 0; t < num_tokens; t += LANES) {
    const vec scale = load(scales + t), error = load(errors + t);
    ints may = {0};
    for (long r = 0; r < num_rows; r++)
      may |= load(scores + r * num_tokens + t) * scale + error * lengths[r] >= bounds[r];
    if (!is_any(may)) continue;
    for (int lane = 0; lane < LANES; lane++) {
      if (!may[lane]) continue;
      if (count == most) return -1;
      found[count++] = t + lane;
    }
  }
  return count;
}
