// Tiles of vectors for the delta rules: passes over a matrix that lies in panels of vectors.
#pragma once
#include <algorithm>
#include "lanes.h"

namespace {

// A matrix with `rows` rows of `vectors` vectors, cut into panels that are PANEL vectors wide (the last one what is left), each row by row.
constexpr int64_t PANEL = W == 16 ? 2 : 1;
struct Panels {
  int64_t rows, vectors;
  int64_t size() const { return rows * vectors * W; }
  int64_t width(int64_t first) const { return std::min(PANEL, vectors - first); }  // of the panel that begins with vector `first`
  int64_t panel(int64_t first) const { return first * rows * W; }
  int64_t at(int64_t row, int64_t vector) const {
    const int64_t first = vector / PANEL * PANEL;
    return panel(first) + (row * width(first) + vector - first) * W;
  }
};

// Panels from and to a plain matrix of `columns` columns.
inline void load_panels(const Panels& shape, const float* from, int64_t columns, float* to) {
  for (int64_t c = 0; c < shape.vectors; c++)
    for (int64_t r = 0; r < shape.rows; r++) store(to + shape.at(r, c), load_part(from + r * columns + c * W, columns - c * W));
}
inline void store_panels(const Panels& shape, const float* from, int64_t columns, float* to) {
  for (int64_t c = 0; c < shape.vectors; c++)
    for (int64_t r = 0; r < shape.rows; r++) store_part(to + r * columns + c * W, load(from + shape.at(r, c)), columns - c * W);
}
// The same where the plain matrix [lanes, rows] is the transpose.
inline void load_transposed(const Panels& shape, const float* from, int64_t lanes, int64_t rows, float* to) {
  for (int64_t c = 0; c < shape.vectors; c++)
    for (int64_t r = 0; r < rows; r += W) {
      vec x[W];
      for (int64_t i = 0; i < W; i++) x[i] = c * W + i < lanes ? load_part(from + (c * W + i) * rows + r, rows - r) : vec{};
      transpose(x);
      for (int64_t i = 0; i < std::min(W, rows - r); i++) store(to + shape.at(r + i, c), x[i]);
    }
}
inline void store_transposed(const Panels& shape, const float* from, int64_t lanes, int64_t rows, float* to) {
  for (int64_t c = 0; c < shape.vectors; c++)
    for (int64_t r = 0; r < rows; r += W) {
      vec x[W];
      for (int64_t i = 0; i < W; i++) x[i] = r + i < rows ? load(from + shape.at(r + i, c)) : vec{};
      transpose(x);
      for (int64_t i = 0; i < std::min(W, lanes - c * W); i++) store_part(to + (c * W + i) * rows + r, x[i], rows - r);
    }
}

// out[r] = sum over i of coefficient[r][i] * row i, for R sums at once over a panel P vectors wide.
template <int R, int P>
INLINE void read_panel(const float* panel, int64_t rows, const float* coefficient, int64_t stride, vec* out) {
  vec total[R][P];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) total[r][p] = vec{};
#pragma GCC unroll 1
  for (int64_t i = 0; i < rows; i++) {
    vec x[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) x[p] = load(panel + (i * P + p) * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const float c = coefficient[r * stride + i];
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) total[r][p] += c * x[p];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) out[r * P + p] = total[r][p];
}

// out[r][row] = sum over lanes of row * vector r, for R vectors: rows are taken together until their sums fill vectors. shape.rows is a
// multiple of 4; `out` takes as many numbers.
template <int R>
void project(const Panels& shape, const float* matrix, const float* vectors, int64_t stride, float* out, int64_t out_stride) {
  constexpr int ROWS = R <= W ? W / R : 1;
  for (int64_t row = 0; row < shape.rows; row += ROWS) {
    vec total[R * ROWS];
#pragma GCC unroll 16
    for (int i = 0; i < R * ROWS; i++) total[i] = vec{};
    for (int64_t c = 0; c < shape.vectors; c++) {
      const int64_t first = c / PANEL * PANEL, width = shape.width(first);
      const float* from = matrix + shape.panel(first) + (row * width + c - first) * W;
      vec m[ROWS];
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++) m[i] = load(from + i * width * W);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const vec w = load(vectors + r * stride + c * W);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) total[r * ROWS + i] += w * m[i];
      }
    }
    alignas(64) float found[R * ROWS];
    store_sums<R * ROWS>(total, found);
    for (int r = 0; r < R; r++) memcpy(out + r * out_stride + row, found + r * ROWS, ROWS * sizeof(float));
  }
}

// Lane by lane, the sum of products of two panels.
template <int P>
INLINE vec dot_rows(const float* a, const float* b, int64_t rows) {
  vec total[4] = {};
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4)
#pragma GCC unroll 4
    for (int64_t r = 0; r < 4; r++) total[r] += load(a + (i + r) * P * W) * load(b + (i + r) * P * W);
  for (; i < rows; i++) total[0] += load(a + i * P * W) * load(b + i * P * W);
  return (total[0] + total[1]) + (total[2] + total[3]);
}

enum Scaling { NOT, BY_ROW, BY_LANE };

// to's row i = factor * from's row i + sum over r of coefficient[r][i] * value[r]; factor is factors[i] or, by lane, P vectors.
template <int R, int P, Scaling SCALING>
INLINE void write_panel(const float* from, float* to, int64_t rows, const float* coefficient, int64_t stride, const vec* value,
                        const float* factors) {
  vec part[R][P], factor[P];
#pragma GCC unroll 2
  for (int p = 0; p < P; p++) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) part[r][p] = value[r * P + p];
    if (SCALING == BY_LANE) factor[p] = load(factors + p * W);
  }
#pragma GCC unroll 1
  for (int64_t i = 0; i < rows; i++) {
    vec x[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
      x[p] = load(from + (i * P + p) * W);
      if (SCALING == BY_LANE) x[p] *= factor[p];
      if (SCALING == BY_ROW) x[p] *= factors[i];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const float c = coefficient[r * stride + i];
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) x[p] += c * part[r][p];
    }
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) store(to + (i * P + p) * W, x[p]);
  }
}

}  // namespace
