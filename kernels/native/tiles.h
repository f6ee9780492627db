// Products of small matrices whose tiles stay in registers, and their transposition: parts of recurrences with matrix states.
// All matrices are padded: rows to whole vectors, their number to a multiple of eight, with finite (mostly zero) values.
#pragma once
#include <algorithm>
#include <utility>
#include "lanes.h"

namespace {

constexpr int64_t STEPS = 8, HALF = STEPS / 2;  // steps of a chunk
constexpr int TILE_WIDTH = W == 16 ? 6 : 2;     // vectors of a row of a tile: as many as there are registers for

// Rows of a tile of N vectors: enough independent sums to hide their latency.
constexpr int tile_rows(int N) { return W == 16 && N <= 3 ? 8 : 4; }

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

template <int R, int N> struct Tile {
  vec at[R][N];
};
template <int R, int N> INLINE Tile<R, N> load_tile(const float* from, int64_t stride) {
  Tile<R, N> tile;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) tile.at[r][n] = load(from + r * stride + n * W);
  return tile;
}
template <int R, int N> INLINE void store_tile(float* to, int64_t stride, const Tile<R, N>& tile) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) store(to + r * stride + n * W, tile.at[r][n]);
}

// tile += left · matrix; element (r, i) of left is left[r * row + i * next]
template <int R, int N>
INLINE void multiply(Tile<R, N>& tile, const float* left, int64_t row, int64_t next, const float* matrix, int64_t stride, int64_t inner) {
  for (int64_t i = 0; i < inner; i++) {
    vec b[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) b[n] = load(matrix + i * stride + n * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vec x = fill(left[r * row + i * next]);
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) tile.at[r][n] += x * b[n];
    }
  }
}

// out [STEPS, columns] = left [STEPS, inner] · matrix [inner, columns], or with ADD added to out; rows of out are `row` apart.
template <bool ADD>
inline void product(float* out, int64_t row, const float* left, int64_t left_row, const float* matrix, int64_t columns, int64_t inner) {
  for_column_tiles(columns, [=](auto width, int64_t c) {
    constexpr int N = decltype(width)::value, R = tile_rows(N);
    for (int64_t r = 0; r < STEPS; r += R) {
      Tile<R, N> tile{};
      if (ADD) tile = load_tile<R, N>(out + r * row + c, row);
      multiply(tile, left + r * left_row, left_row, 1, matrix + c, columns, inner);
      store_tile(out + r * row + c, row, tile);
    }
  });
}

// Where the pair (u, s), s ≤ u, of steps stands in a lower triangular matrix of square blocks: first half, second and first, second.
constexpr int64_t PAIRS = 3 * HALF * HALF;
constexpr int64_t pair(int64_t u, int64_t s) { return (u / HALF + s / HALF) * HALF * HALF + u % HALF * HALF + s % HALF; }

// out = pairs · right, or with UPPER the transpose of pairs; pairs [PAIRS], right and out [STEPS, columns].
template <bool UPPER> inline void pairs_product(float* out, const float* pairs, const float* right, int64_t columns) {
  for_column_tiles(columns, [=](auto width, int64_t c) {
    constexpr int N = decltype(width)::value, R = HALF;
    for (int64_t r = 0; r < STEPS; r += R) {
      Tile<R, N> tile{};
      for (int64_t i = UPPER ? r : 0; i < (UPPER ? STEPS : r + R); i += R)
        multiply(tile, pairs + (UPPER ? pair(i, r) : pair(r, i)), UPPER ? 1 : R, UPPER ? R : 1, right + i * columns + c, columns, R);
      store_tile(out + r * columns + c, columns, tile);
    }
  });
}

// to [rows, columns] = decay · from + leftᵀ · right; left [STEPS, rows], right [STEPS, columns] with rows left_row and right_row apart.
// decay: one number for each row (BY_ROW) or for each column. With `other` [rows, columns], sums [columns] = sum over rows of from · other.
template <bool BY_ROW>
inline void update(float* to, const float* from, int64_t columns, int64_t rows, const float* decay, const float* left, int64_t left_row,
                   const float* right, int64_t right_row, const float* other = nullptr, float* sums = nullptr) {
  for_column_tiles(columns, [=](auto width, int64_t c) {
    constexpr int N = decltype(width)::value, R = tile_rows(N);
    vec total[N] = {};
    for (int64_t i = 0; i < rows; i += R) {
      Tile<R, N> tile = load_tile<R, N>(from + i * columns + c, columns);
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) {
        const vec by_column = BY_ROW ? vec{} : load(decay + c + n * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          if (other) total[n] += tile.at[r][n] * load(other + (i + r) * columns + c + n * W);
          tile.at[r][n] *= BY_ROW ? fill(decay[i + r]) : by_column;
        }
      }
      multiply(tile, left + i, 1, left_row, right + c, right_row, STEPS);
      store_tile(to + i * columns + c, columns, tile);
    }
    if (other)
      for (int n = 0; n < N; n++) store(sums + c + n * W, total[n]);
  });
}

// to [columns, rows] = fromᵀ; from [rows, columns], both multiples of W
inline void transpose(float* to, const float* from, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i += W)
    for (int64_t j = 0; j < columns; j += W) {
      vec x[W];
#pragma GCC unroll 16
      for (int r = 0; r < W; r++) x[r] = load(from + (i + r) * columns + j);
      transpose(x);
#pragma GCC unroll 16
      for (int r = 0; r < W; r++) store(to + (j + r) * rows + i, x[r]);
    }
}

// Short rows: cheaper than a call of memcpy.
INLINE void copy(float* to, const float* from, int64_t width) {
  int64_t i = 0;
  for (; i + W <= width; i += W) store(to + i, load(from + i));
  for (; i < width; i++) to[i] = from[i];
}
// Rows of `width` numbers between memory with any row strides.
inline void copy_rows(float* to, int64_t to_stride, const float* from, int64_t from_stride, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; i++) copy(to + i * to_stride, from + i * from_stride, width);
}

}  // namespace
