/* rows @ weight.T + bias + others in bfloat16 by the processor's tiles (Intel AMX): 16 x 16 sums of
   16 x 32 numbers at a time. A tile of the weight is read as it lies; the few rows are laid out once
   for all of it, two numbers of a row beside each other, as the instruction wants its second
   operand.

   ``num_in`` is a multiple of 32, ``num_out`` of 16, ``num_rows`` at most 64. */

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIDE 16
#define DEPTH 32                    /* numbers of a row in a tile */
#define TILE_NUMBERS (SIDE * DEPTH) /* bfloat16, 1 KiB */
#define TILE_SUMS (SIDE * SIDE)     /* float32, 1 KiB */
#define MAX_TILES 4

/* From Linux's arch/x86/include/uapi/asm/prctl.h: a process must ask for the tiles' state. */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static int allow_tiles(void) {
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0;
}

/* [num_in / 32][num_tiles][16 pairs][16 rows][2], rows that are not there 0. */
static void lay_out(const bf16 *rows, bf16 *laid_out, long num_rows, long num_in, long num_tiles) {
  memset(laid_out, 0, num_tiles * SIDE * num_in * sizeof(bf16));
  for (long r = 0; r < num_rows; r++)
    for (long s = 0; s < num_in / DEPTH; s++) {
      const bf16 *from = rows + r * num_in + s * DEPTH;
      bf16 *to = laid_out + (s * num_tiles + r / SIDE) * TILE_NUMBERS + r % SIDE * 2;
      for (int pair = 0; pair < DEPTH / 2; pair++)
        memcpy(to + pair * 2 * SIDE, from + 2 * pair, 2 * sizeof(bf16));
    }
}

/* Sums of 16 rows of the weight, ``sums[tile][weight row][row]``. The tiles' numbers must be known
   to the compiler: 0 to 3 hold sums, 4 the weight's numbers, 5 and 6 those of the rows. */
INLINE void tile_sums(const bf16 *weight, const bf16 *rows, float *sums, long num_in,
                      const int num_tiles) {
  const long stride = num_in * sizeof(bf16);
  const char *next = (const char *)(weight + SIDE * num_in);
  _tile_zero(0);
  if (num_tiles > 1) _tile_zero(1);
  if (num_tiles > 2) _tile_zero(2);
  if (num_tiles > 3) _tile_zero(3);
  for (long i = 0; i < num_in; i += DEPTH, rows += num_tiles * TILE_NUMBERS) {
    for (int r = 0; r < SIDE; r++)
      __builtin_prefetch(next + r * stride + i * sizeof(bf16), 0, 1);
    _tile_loadd(4, weight + i, stride);
    _tile_loadd(5, rows, 64);
    _tile_dpbf16ps(0, 4, 5);
    if (num_tiles > 1) {
      _tile_loadd(6, rows + TILE_NUMBERS, 64);
      _tile_dpbf16ps(1, 4, 6);
    }
    if (num_tiles > 2) {
      _tile_loadd(5, rows + 2 * TILE_NUMBERS, 64);
      _tile_dpbf16ps(2, 4, 5);
    }
    if (num_tiles > 3) {
      _tile_loadd(6, rows + 3 * TILE_NUMBERS, 64);
      _tile_dpbf16ps(3, 4, 6);
    }
  }
  _tile_stored(0, sums, 64);
  if (num_tiles > 1) _tile_stored(1, sums + TILE_SUMS, 64);
  if (num_tiles > 2) _tile_stored(2, sums + 2 * TILE_SUMS, 64);
  if (num_tiles > 3) _tile_stored(3, sums + 3 * TILE_SUMS, 64);
}

static int by_tiles(const bf16 *weight, const bf16 *rows, const bf16 *bias, const bf16 *others,
                    bf16 *out, long num_rows, long num_in, long num_out, int num_threads) {
  const long num_tiles = (num_rows + SIDE - 1) / SIDE;
  bf16 *laid_out = aligned_alloc(64, num_tiles * SIDE * num_in * sizeof(bf16));
  if (laid_out == NULL) return 1;
  lay_out(rows, laid_out, num_rows, num_in, num_tiles);
#pragma omp parallel num_threads(num_threads)
  {
    struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t num_rows[16];
    } shapes = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
      shapes.row_bytes[tile] = 64;
      shapes.num_rows[tile] = SIDE;
    }
    _tile_loadconfig(&shapes);
    float sums[MAX_TILES * TILE_SUMS] __attribute__((aligned(64)));
#pragma omp for schedule(static)
    for (long o = 0; o < num_out; o += SIDE) {
      const bf16 *some = weight + o * num_in;
      switch (num_tiles) {
        case 1: tile_sums(some, laid_out, sums, num_in, 1); break;
        case 2: tile_sums(some, laid_out, sums, num_in, 2); break;
        case 3: tile_sums(some, laid_out, sums, num_in, 3); break;
        default: tile_sums(some, laid_out, sums, num_in, 4);
      }
      for (long r = 0; r < num_rows; r++)
        for (int i = 0; i < SIDE; i++)
          out[r * num_out + o + i] = narrow(sums[r / SIDE * TILE_SUMS + i * SIDE + r % SIDE] +
                                            added_bf16(bias, others, r * num_out, o + i));
    }
    _tile_release();
  }
  free(laid_out);
  return 0;
}
