// Which sequences and rows a thread walks: geometry of the nonlinear recurrences.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>
#include "sequences.h"
#include "vector.h"

namespace {

constexpr int64_t CHUNK = 16;  // steps between kept states
constexpr int64_t AHEAD = 2;  // steps between asking for a row and reading it
constexpr int64_t COLUMNS = W == 16 ? 4 : 2, ROWS = 6;  // of vectors and of rows that a tile of a product holds in registers
constexpr int64_t SUM_ROWS = 256, SUM_UNITS = 48;  // of a partial sum for the gradient of R, and of one thread's share

// Geometry of one call.
struct Shape : Sequences {
  int64_t heads, width;
  int64_t vectors() const { return (width + W - 1) / W; }
  int64_t padded() const { return vectors() * W; }
};

// Sequences that are walked together, the longest first: those that still run are always the first ones.
struct Block {
  const Shape& shape;
  const int64_t* members;
  int64_t count, h;
  int64_t length(int64_t n) const { return shape.length(members[n]); }
  int64_t running(int64_t t) const {
    int64_t n = count;
    while (n > 0 && length(n - 1) <= t) n--;
    return n;
  }
  int64_t row(int64_t n, int64_t t) const { return shape.row(members[n], t); }
  // of a head's part in a tensor [rows, parts, H, D]
  int64_t at(int64_t row, int64_t parts, int64_t part) const { return ((row * parts + part) * shape.heads + h) * shape.width; }
};

// The blocks of a call: of at most ROWS sequences, and enough of them for all threads.
struct Blocks {
  std::vector<int64_t> order;
  int64_t size, count;
  Blocks(const Shape& shape, int64_t threads) : order(shape.sequences) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return shape.length(a) > shape.length(b); });
    const int64_t wanted = std::max((shape.sequences + ROWS - 1) / ROWS, std::min(shape.sequences, (threads + shape.heads - 1) / shape.heads));
    size = std::max<int64_t>(1, (shape.sequences + wanted - 1) / std::max<int64_t>(1, wanted));
    count = (shape.sequences + size - 1) / size;
  }
  Block block(const Shape& shape, int64_t i) const {
    const int64_t first = i / shape.heads * size;
    return {shape, order.data() + first, std::min(size, shape.sequences - first), i % shape.heads};
  }
};

}  // namespace
