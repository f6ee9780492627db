// Products of small matrices whose tiles stay in registers, transposition, and sums over lanes: the parts of recurrences with matrix states.
// All matrices are padded: rows to whole vectors, their number to a multiple of four, with finite (mostly zero) values.
#pragma once
#include <algorithm>
#include <utility>
#include "vector.h"

namespace {

constexpr int64_t STEPS = 8;                                  // steps of a chunk
constexpr int TILE_ROWS = 4, TILE_WIDTH = W == 16 ? 6 : 2;  // accumulators of a tile: rows, vectors

// Calls f with the number of vectors of each column tile (a compile-time constant) and the tile's first column.
template <int N, class F> INLINE void column_tile(int64_t vectors, int64_t column, F&& f) {
  if constexpr (N > 0) {
    if (vectors == N) return f(std::integral_constant<int, N>{}, column);
    column_tile<N - 1>(vectors, column, f);
  }
}
template <class F> INLINE void for_column_tiles(int64_t columns, F&& f) {
  constexpr int WHOLE = TILE_WIDTH == 6 ? 4 : TILE_WIDTH;
  int64_t column = 0, vectors = columns / W;
  for (; vectors > TILE_WIDTH; vectors -= WHOLE, column += WHOLE * W) f(std::integral_constant<int, WHOLE>{}, column);
  column_tile<TILE_WIDTH>(vectors, column, f);
}

template <int N> struct Tile {
  vec at[TILE_ROWS][N];
};

// tile += left · matrix; element (r, i) of left is left[r * row + i * next]
template <int N> INLINE void multiply(Tile<N>& tile, const float* left, int64_t row, int64_t next, const float* matrix, int64_t columns, int64_t inner) {
  for (int64_t i = 0; i < inner; i++) {
    vec b[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) b[n] = load(matrix + i * columns + n * W);
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++) {
      const vec x = fill(left[r * row + i * next]);
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) tile.at[r][n] += x * b[n];
    }
  }
}

// out [STEPS, columns] = left [STEPS, inner] · matrix [inner, columns]
inline void product(float* out, const float* left, int64_t stride, const float* matrix, int64_t columns, int64_t inner) {
  for_column_tiles(columns, [=](auto width, int64_t c) {
    constexpr int N = decltype(width)::value;
    for (int64_t r0 = 0; r0 < STEPS; r0 += TILE_ROWS) {
      Tile<N> tile{};
      multiply<N>(tile, left + r0 * stride, stride, 1, matrix + c, columns, inner);
      for (int r = 0; r < TILE_ROWS; r++)
        for (int n = 0; n < N; n++) store(out + (r0 + r) * columns + c + n * W, tile.at[r][n]);
    }
  });
}
// The same plus square · right; square [STEPS, STEPS] is lower triangular, or with UPPER its transpose is taken; right [STEPS, columns].
template <bool UPPER>
inline void product_with(float* out, const float* left, int64_t stride, const float* matrix, int64_t columns, int64_t inner, const float* square,
                         const float* right) {
  for_column_tiles(columns, [=](auto width, int64_t c) {
    constexpr int N = decltype(width)::value;
    for (int64_t r0 = 0; r0 < STEPS; r0 += TILE_ROWS) {
      Tile<N> tile{};
      if (UPPER)
        multiply<N>(tile, square + r0 + r0 * STEPS, 1, STEPS, right + c + r0 * columns, columns, STEPS - r0);
      else
        multiply<N>(tile, square + r0 * STEPS, STEPS, 1, right + c, columns, r0 + TILE_ROWS);
      multiply<N>(tile, left + r0 * stride, stride, 1, matrix + c, columns, inner);
      for (int r = 0; r < TILE_ROWS; r++)
        for (int n = 0; n < N; n++) store(out + (r0 + r) * columns + c + n * W, tile.at[r][n]);
    }
  });
}

// to [rows, columns] = decay · from + leftᵀ · right; left [STEPS, rows], right [STEPS, columns]. decay is one number for each row (BY_ROW)
// or for each column. to may be from.
template <bool BY_ROW>
inline void update(float* to, const float* from, const float* decay, const float* left, int64_t stride, const float* right, int64_t columns, int64_t rows) {
  for_column_tiles(columns, [=](auto width, int64_t c) {
    constexpr int N = decltype(width)::value;
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
      Tile<N> tile;
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) {
        const vec by_column = BY_ROW ? vec{} : load(decay + c + n * W);
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++)
          tile.at[r][n] = load(from + (i + r) * columns + c + n * W) * (BY_ROW ? fill(decay[i + r]) : by_column);
      }
      multiply<N>(tile, left + i, 1, stride, right + c, columns, STEPS);
#pragma GCC unroll 8
      for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) store(to + (i + r) * columns + c + n * W, tile.at[r][n]);
    }
  });
}

// Exchanges bit H of the lane with one bit of the number of the vector: the lanes without (LOW) or with the bit, of both vectors.
template <int H, bool LOW, int... L> INLINE vec exchange(vec a, vec b, std::integer_sequence<int, L...>) {
  return LOW ? __builtin_shufflevector(a, b, ((L & H) ? W + L - H : L)...) : __builtin_shufflevector(a, b, ((L & H) ? W + L : L + H)...);
}
using Lanes = std::make_integer_sequence<int, W>;

// The sums over the lanes of W vectors, one in each lane. The vectors are overwritten.
template <int H> INLINE void fold_sums(vec* x) {
  if constexpr (H > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < H; i++) x[i] = exchange<H, true>(x[i], x[i + H], Lanes{}) + exchange<H, false>(x[i], x[i + H], Lanes{});
    fold_sums<H / 2>(x);
  }
}
INLINE vec sums(const vec* from) {
  vec x[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) x[i] = from[i];
  fold_sums<W / 2>(x);
  return x[0];
}

template <int H> INLINE void exchange_all(vec* x) {
  if constexpr (H > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < W; i++)
      if (!(i & H)) {
        const vec low = exchange<H, true>(x[i], x[i + H], Lanes{}), high = exchange<H, false>(x[i], x[i + H], Lanes{});
        x[i] = low;
        x[i + H] = high;
      }
    exchange_all<H / 2>(x);
  }
}
// to [columns, rows] = fromᵀ; from [rows, columns], both multiples of W
inline void transpose(float* to, const float* from, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i += W)
    for (int64_t j = 0; j < columns; j += W) {
      vec x[W];
#pragma GCC unroll 16
      for (int r = 0; r < W; r++) x[r] = load(from + (i + r) * columns + j);
      exchange_all<W / 2>(x);
#pragma GCC unroll 16
      for (int r = 0; r < W; r++) store(to + (j + r) * rows + i, x[r]);
    }
}

// Copies rows of `width` numbers between memory with any row strides.
inline void copy_rows(float* to, int64_t to_stride, const float* from, int64_t from_stride, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; i++) memcpy(to + i * to_stride, from + i * from_stride, width * sizeof(float));
}

}  // namespace
