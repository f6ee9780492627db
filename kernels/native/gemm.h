// Products of matrices of any size over the register tiles of tiles.h.
#pragma once
#include "tiles.h"

namespace {

constexpr int64_t INNER = 96;  // terms of a sum that are added at a time: the rows of `right` that they need stay in the first-level cache

// out = keep · out + left · right: out [rows, columns], its rows out_row apart; left's element (r, i) is left[r · left_row + i · left_next];
// right [inner, columns]. rows is a multiple of 8, columns of W. What `out` held is not read where keep is 0.
inline void gemm(float* out, int64_t out_row, float keep, const float* left, int64_t left_row, int64_t left_next, const float* right,
                 int64_t right_row, int64_t rows, int64_t columns, int64_t inner) {
  for_column_tiles(columns, [=](auto width, int64_t c) {
    constexpr int N = decltype(width)::value, R = tile_rows(N);
    for (int64_t from = 0; from == 0 || from < inner; from += INNER) {
      const float factor = from ? 1 : keep;
      for (int64_t r = 0; r < rows; r += R) {
        Tile<R, N> tile{};
        if (factor != 0) {
          tile = load_tile<R, N>(out + r * out_row + c, out_row);
#pragma GCC unroll 8
          for (int i = 0; i < R; i++)
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) tile.at[i][n] *= factor;
        }
        multiply(tile, left + r * left_row + from * left_next, left_row, left_next, right + from * right_row + c, right_row,
                 std::min(INNER, inner - from));
        store_tile(out + r * out_row + c, out_row, tile);
      }
    }
  });
}

// Channels turned inside blocks of four: channel 4 b + i is channel 4 b + (i + TURN) % 4 of x.
template <int TURN> struct TurnFours {
  static constexpr int at(int i) { return i / 4 * 4 + (i + TURN) % 4; }
};
template <int TURN> INLINE vec turn(vec x) { return shuffle<TurnFours<TURN>>(x, x); }

// The first n lanes of x, zeros behind.
INLINE vec first(vec x, int64_t n) {
  if (n >= W) return x;
  ivec lane;
  for (int i = 0; i < (int)W; i++) lane[i] = i;
  return lane < (int32_t)std::max<int64_t>(n, 0) ? x : vec{};
}

}  // namespace
