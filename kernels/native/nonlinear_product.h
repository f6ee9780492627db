// Products of a few rows with a packed matrix, every row summed in the same order whatever its neighbours are.
#pragma once
#include "nonlinear_shape.h"

namespace {

// out[n][c] (+)= sum over k of packed[k][c] in[n][k]; k runs over `segments` pieces of `depth` numbers, `gap` apart.
template <int64_t C, int64_t N, bool ADD>
void tile(const float* packed, const float* in, int64_t in_stride, int64_t segments, int64_t depth, int64_t gap, float* out, int64_t out_stride) {
  vec sum[N][C];
  for (int64_t n = 0; n < N; n++)
    for (int64_t c = 0; c < C; c++) sum[n][c] = ADD ? load(out + n * out_stride + c * W) : vec{};
  for (int64_t s = 0; s < segments; s++)
    for (int64_t k = 0; k < depth; k++, packed += C * W) {
      vec weight[C];
#pragma GCC unroll 4
      for (int64_t c = 0; c < C; c++) weight[c] = load(packed + c * W);
#pragma GCC unroll 6
      for (int64_t n = 0; n < N; n++) {
        const vec value = fill(in[n * in_stride + s * gap + k]);
#pragma GCC unroll 4
        for (int64_t c = 0; c < C; c++) sum[n][c] += weight[c] * value;
      }
    }
  for (int64_t n = 0; n < N; n++)
    for (int64_t c = 0; c < C; c++) store(out + n * out_stride + c * W, sum[n][c]);
}

template <int64_t C, bool ADD>
void tiles(const float* packed, const float* in, int64_t in_stride, int64_t segments, int64_t depth, int64_t gap, float* out, int64_t out_stride,
           int64_t rows) {
  constexpr decltype(&tile<C, 1, ADD>) RUN[] = {tile<C, 1, ADD>, tile<C, 2, ADD>, tile<C, 3, ADD>, tile<C, 4, ADD>, tile<C, 5, ADD>, tile<C, 6, ADD>};
  static_assert(ROWS == 6);
  for (int64_t n = 0; n < rows; n += ROWS)
    RUN[std::min(ROWS, rows - n) - 1](packed, in + n * in_stride, in_stride, segments, depth, gap, out + n * out_stride, out_stride);
}

// The same for any number of rows and of column vectors. packed: one piece per COLUMNS column vectors.
template <bool ADD>
void product(const float* packed, int64_t columns, const float* in, int64_t in_stride, int64_t segments, int64_t depth, int64_t gap, float* out,
             int64_t out_stride, int64_t rows) {
  constexpr decltype(&tiles<1, ADD>) RUN[] = {tiles<1, ADD>, tiles<2, ADD>, tiles<3, ADD>, tiles<4, ADD>};
  for (int64_t c = 0; c < columns; c += COLUMNS)
    RUN[std::min(COLUMNS, columns - c) - 1](packed + c * segments * depth * W, in, in_stride, segments, depth, gap, out + c * W, out_stride, rows);
}

// R [G, H, D_out, D_in] as pieces of COLUMNS vectors: for R y, columns are (gate, unit out) and depth D_in; `back`: columns are units in and
// depth is (gate, unit out). One head.
void pack(const Shape& shape, const float* R, int64_t matrices, int64_t h, bool back, float* packed) {
  const int64_t D = shape.width, V = shape.vectors(), columns = back ? V : matrices * V, depth = back ? matrices * D : D;
  for (int64_t first = 0; first < columns; first += COLUMNS)
    for (int64_t k = 0; k < depth; k++)
      for (int64_t c = first; c < std::min(columns, first + COLUMNS); c++)
        for (int64_t lane = 0; lane < W; lane++) {
          const int64_t unit = c % V * W + lane, g = back ? k / D : c / V, out = back ? k % D : unit, in = back ? unit : k;
          *packed++ = unit < D ? R[((g * shape.heads + h) * D + out) * D + in] : 0.f;
        }
}

}  // namespace
