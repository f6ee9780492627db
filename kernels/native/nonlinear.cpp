// Nonlinear recurrences with a matrix per head: y_t = cell(x_t, R y_{t-1}) for Elman, GRU, LSTM, sLSTM. Lanes are units of a head; one thread
// walks a block of sequences of one head together, so that R, packed once per call, is read once for all of them. Every row is summed in
// the same order whatever its neighbours are. The forward keeps the states before every CHUNK steps; the backward forms the rest of a chunk again.
#include "nonlinear_cells.h"
#include "nonlinear_product.h"

namespace {

// [parts, H, D] → one head as [parts][padded], zero where nothing is given.
void load_head(const Shape& shape, const float* from, int64_t parts, int64_t h, float* to) {
  for (int64_t part = 0; part < parts; part++)
    for (int64_t u = 0; u < shape.padded(); u++)
      *to++ = from && u < shape.width ? from[(part * shape.heads + h) * shape.width + u] : 0.f;
}
void store_head(const Shape& shape, const float* from, int64_t parts, int64_t h, float* to) {
  for (int64_t part = 0; part < parts; part++)
    memcpy(to + (part * shape.heads + h) * shape.width, from + part * shape.padded(), shape.width * 4);
}

// x of a row, vector v, all gates.
template <int64_t G>
INLINE void load_gates(const Block& block, const float* from, int64_t row, int64_t v, vec* to) {
  const int64_t lanes = block.shape.width - v * W;
#pragma GCC unroll 4
  for (int64_t g = 0; g < G; g++) to[g] = load_part(from + block.at(row, G, g) + v * W, lanes);
}

// Asks for a head's part of a row that is read a few steps later: heads lie far apart, which the processor does not foresee.
template <int WRITE = 0>
INLINE void prefetch(const Block& block, const float* from, int64_t row, int64_t parts) {
  for (int64_t part = 0; part < parts; part++)
    for (int64_t unit = 0; unit < block.shape.width; unit += 16) __builtin_prefetch(from + block.at(row, parts, part) + unit, WRITE);
}

// One step of one row. states, rec and cache are [parts][padded]; cache may be null.
template <int64_t CELL>
INLINE void step_ahead(const Block& block, const float* x, const float* bias, int64_t row, float* states, const float* rec, float* cache) {
  constexpr Counts N = counts(CELL);
  const int64_t P = block.shape.padded();
  for (int64_t v = 0; v < block.shape.vectors(); v++) {
    vec gates[N.inputs], recurrent[N.matrices], b[N.biases], s[N.states], kept[N.cached];
    load_gates<N.inputs>(block, x, row, v, gates);
    for (int64_t g = 0; g < N.matrices; g++) recurrent[g] = load(rec + g * P + v * W);
    for (int64_t g = 0; g < N.biases; g++) b[g] = load(bias + g * P + v * W);
    for (int64_t i = 0; i < N.states; i++) s[i] = load(states + i * P + v * W);
    ahead<CELL>(gates, recurrent, b, s, kept);
    for (int64_t i = 0; i < N.states; i++) store(states + i * P + v * W, s[i]);
    if (cache)
      for (int64_t i = 0; i < N.cached; i++) store(cache + i * P + v * W, kept[i]);
  }
}

template <int64_t CELL>
void forward_block(const Block& block, const float* x, const float* packed, const float* bias, const float* initial, float* y, float* final,
                   float* kept) {
  constexpr Counts N = counts(CELL);
  const Shape& shape = block.shape;
  const int64_t P = shape.padded(), H = shape.heads, D = shape.width, state = N.states * P;
  Scratch scratch(ROWS * (N.states + N.matrices) * P + N.biases * P + 64);
  float *states = scratch.take(ROWS * state), *rec = scratch.take(ROWS * N.matrices * P), *b = scratch.take(N.biases * P);
  load_head(shape, bias, N.biases, block.h, b);
  for (int64_t n = 0; n < block.count; n++) load_head(shape, initial + block.members[n] * N.states * H * D, N.states, block.h, states + n * state);
  const int64_t length = block.length(0);
  for (int64_t t = 0, running = block.count; t < length; t++) {
    while (block.length(running - 1) <= t) running--;
    if (kept && t % CHUNK == 0)
      for (int64_t n = 0; n < running; n++)
        store_head(shape, states + n * state + P, N.states - 1, block.h,
                   kept + shape.slot(block.members[n], t, CHUNK) * (N.states - 1) * H * D);
    product<false>(packed, N.matrices * shape.vectors(), states, state, 1, D, 0, rec, N.matrices * P, running);
    for (int64_t n = 0; n < running; n++) {
      const int64_t row = block.row(n, t);
      if (t + AHEAD < block.length(n)) prefetch(block, x, block.row(n, t + AHEAD), N.inputs);
      step_ahead<CELL>(block, x, b, row, states + n * state, rec + n * N.matrices * P, nullptr);
      memcpy(y + block.at(row, 1, 0), states + n * state, D * 4);
    }
  }
  for (int64_t n = 0; n < block.count; n++) store_head(shape, states + n * state, N.states, block.h, final + block.members[n] * N.states * H * D);
}

// What the backward reads, and where its gradients go. candidate: [rows, 1, H, D], the gradient of R's first part of a GRU.
struct Arguments {
  const float *x, *R, *bias, *initial, *y, *kept, *dy, *dfinal;
  float *dx, *dcandidate, *dinitial, *dR, *dbias;
};

INLINE void prefetch_back(const Block& block, const Arguments& given, int64_t inputs, int64_t n, int64_t t) {
  if (t >= AHEAD) {
    prefetch(block, given.dy, block.row(n, t - AHEAD), 1);
    prefetch<1>(block, given.dx, block.row(n, t - AHEAD), inputs);
  }
  if (t >= CHUNK) prefetch(block, given.x, block.row(n, t - CHUNK), inputs);
  if (t > CHUNK) prefetch(block, given.y, block.row(n, t - CHUNK - 1), 1);
}

// Memory of one thread for a chunk of a block, rows of one step together.
struct ChunkScratch {
  float *y0, *cache, *states, *carry, *bias;
};

// Forms the cache and the old y of the steps [t0, t1); offsets[t - t0] is where the rows of step t begin.
template <int64_t CELL>
void chunk_ahead(const Block& block, const Arguments& given, const float* packed, int64_t t0, int64_t t1, const int64_t* offsets,
                 const ChunkScratch& to) {
  constexpr Counts N = counts(CELL);
  const Shape& shape = block.shape;
  const int64_t P = shape.padded(), H = shape.heads, D = shape.width, cached = N.cached * P, others = (N.states - 1) * H * D;
  for (int64_t t = t0; t < t1; t++)
    for (int64_t n = 0; n < offsets[t - t0 + 1] - offsets[t - t0]; n++) {
      float* y0 = to.y0 + (offsets[t - t0] + n) * P;
      const float* from = t ? given.y + block.at(block.row(n, t - 1), 1, 0) : given.initial + (block.members[n] * N.states * H + block.h) * D;
      memcpy(y0, from, D * 4);
      memset(y0 + D, 0, (P - D) * 4);
    }
  product<false>(packed, N.matrices * shape.vectors(), to.y0, P, 1, D, 0, to.cache, cached, offsets[t1 - t0]);
  for (int64_t n = 0; n < offsets[1]; n++) {
    if (N.states > 1) load_head(shape, given.kept + shape.slot(block.members[n], t0, CHUNK) * others, N.states - 1, block.h, to.states + P);
    memcpy(to.states, to.y0 + n * P, P * 4);
    for (int64_t t = t0; t < std::min(t1, block.length(n)); t++) {
      float* cache = to.cache + (offsets[t - t0] + n) * cached;
      step_ahead<CELL>(block, given.x, to.bias, block.row(n, t), to.states, cache, cache);
    }
  }
}

// One step of one row back: cache becomes the gradient of R y; carry holds the states' gradients, [states][padded].
template <int64_t CELL>
INLINE void step_back(const Block& block, const Arguments& given, int64_t row, const float* y0, float* cache, float* carry) {
  constexpr Counts N = counts(CELL);
  const int64_t P = block.shape.padded();
  for (int64_t v = 0; v < block.shape.vectors(); v++) {
    const int64_t lanes = block.shape.width - v * W;
    vec kept[N.cached], s[N.states], dx[N.inputs], drec[N.matrices];
    for (int64_t i = 0; i < N.cached; i++) kept[i] = load(cache + i * P + v * W);
    for (int64_t i = 0; i < N.states; i++) s[i] = load(carry + i * P + v * W);
    const vec dy = s[0] + load_part(given.dy + block.at(row, 1, 0) + v * W, lanes);
    back<CELL>(kept, load(y0 + v * W), dy, s, dx, drec);
    for (int64_t i = 0; i < N.states; i++) store(carry + i * P + v * W, s[i]);
    for (int64_t g = 0; g < N.matrices; g++) store(cache + g * P + v * W, drec[g]);
    for (int64_t g = 0; g < N.inputs; g++) store_part(given.dx + block.at(row, N.inputs, g) + v * W, dx[g], lanes);
    if (CELL == GRU) store_part(given.dcandidate + block.at(row, 1, 0) + v * W, drec[0], lanes);
  }
}

template <int64_t CELL>
void backward_block(const Block& block, const Arguments& given, const float* packed, const float* packed_back) {
  constexpr Counts N = counts(CELL);
  const Shape& shape = block.shape;
  const int64_t P = shape.padded(), H = shape.heads, D = shape.width, state = N.states * P, cached = N.cached * P;
  Scratch scratch(ROWS * CHUNK * (1 + N.cached) * P + (ROWS + 1) * state + N.biases * P + 128);
  const ChunkScratch to{scratch.take(ROWS * CHUNK * P), scratch.take(ROWS * CHUNK * cached), scratch.take(state), scratch.take(ROWS * state),
                        scratch.take(N.biases * P)};
  load_head(shape, given.bias, N.biases, block.h, to.bias);
  for (int64_t n = 0; n < block.count; n++)
    load_head(shape, given.dfinal + block.members[n] * N.states * H * D, N.states, block.h, to.carry + n * state);
  const int64_t length = block.length(0);
  for (int64_t chunk = (length + CHUNK - 1) / CHUNK - 1; chunk >= 0; chunk--) {
    const int64_t t0 = chunk * CHUNK, t1 = std::min(length, t0 + CHUNK);
    int64_t offsets[CHUNK + 1] = {};
    for (int64_t t = t0; t < t1; t++) offsets[t - t0 + 1] = offsets[t - t0] + block.running(t);
    chunk_ahead<CELL>(block, given, packed, t0, t1, offsets, to);
    for (int64_t t = t1 - 1; t >= t0; t--) {
      const int64_t first = offsets[t - t0], running = offsets[t - t0 + 1] - first;
      float* cache = to.cache + first * cached;
      for (int64_t n = 0; n < running; n++) {
        prefetch_back(block, given, N.inputs, n, t);
        step_back<CELL>(block, given, block.row(n, t), to.y0 + (first + n) * P, cache + n * cached, to.carry + n * state);
      }
      product<true>(packed_back, shape.vectors(), cache, cached, N.matrices, D, P, to.carry, state, running);
    }
  }
  for (int64_t n = 0; n < block.count; n++)
    store_head(shape, to.carry + n * state, N.states, block.h, given.dinitial + block.members[n] * N.states * H * D);
}

// dR of `N` units out: to[n][c] += sum over rows of d[row][n] y0[row][c].
template <int64_t N>
void outer_tile(const float* const* d, int64_t offset, const float* y0, int64_t P, int64_t columns, int64_t rows, float* to) {
  for (int64_t c0 = 0; c0 < columns; c0 += COLUMNS) {
    const int64_t C = std::min(COLUMNS, columns - c0);
    vec sum[N][COLUMNS] = {};
    for (int64_t r = 0; r < rows; r++) {
      vec value[COLUMNS];
#pragma GCC unroll 4
      for (int64_t c = 0; c < COLUMNS; c++) value[c] = load(y0 + r * P + (c0 + std::min(c, C - 1)) * W);
#pragma GCC unroll 6
      for (int64_t n = 0; n < N; n++) {
        const vec factor = fill(d[r][offset + n]);
#pragma GCC unroll 4
        for (int64_t c = 0; c < COLUMNS; c++) sum[n][c] += factor * value[c];
      }
    }
    for (int64_t n = 0; n < N; n++)
      for (int64_t c = 0; c < C; c++) store(to + n * P + (c0 + c) * W, load(to + n * P + (c0 + c) * W) + sum[n][c]);
  }
}

// All rows in the order of their sequences' steps, and where the y before each stands: in the row before, or in the initial state.
struct Walk {
  std::vector<int64_t> rows;
  std::vector<const float*> before;
  Walk(const Shape& shape, int64_t states, const float* y, const float* initial) {
    const int64_t size = shape.heads * shape.width;
    for (int64_t s = 0; s < shape.sequences; s++)
      for (int64_t t = 0; t < shape.length(s); t++) {
        rows.push_back(shape.row(s, t));
        before.push_back(t ? y + rows[rows.size() - 2] * size : initial + s * states * size);
      }
  }
};

// The gradient of R [g, h, first ... last] and of the bias, over all rows.
void parameter_gradients(const Shape& shape, const Counts& N, bool gru, const Arguments& given, const Walk& walk, int64_t g, int64_t h,
                         int64_t first, int64_t last) {
  constexpr decltype(&outer_tile<1>) RUN[] = {outer_tile<1>, outer_tile<2>, outer_tile<3>, outer_tile<4>, outer_tile<5>, outer_tile<6>};
  const int64_t D = shape.width, H = shape.heads, P = shape.padded(), rows = walk.rows.size(), units = last - first;
  Scratch scratch(SUM_ROWS * (P + 2) + (SUM_UNITS + ROWS) * (P + 2) + 256);
  float *y0 = scratch.take(SUM_ROWS * P), *sums = scratch.take((SUM_UNITS + ROWS) * P), *bias = scratch.take(SUM_UNITS + ROWS);
  std::vector<const float*> d(SUM_ROWS);
  memset(sums, 0, units * P * 4);
  std::fill(bias, bias + units, 0.f);
  const bool candidate = gru && g == 0, only_bias = g == N.matrices;
  const int64_t parts = candidate ? 1 : N.inputs, part = gru && !candidate ? g - 1 : g;
  const float* from = candidate ? given.dcandidate : given.dx;
  for (int64_t r0 = 0; r0 < rows; r0 += SUM_ROWS) {
    const int64_t count = std::min(SUM_ROWS, rows - r0);
    float partial[SUM_UNITS + ROWS] = {};
    for (int64_t r = 0; r < count; r++) {
      d[r] = from + ((walk.rows[r0 + r] * parts + part) * H + h) * D + first;
      for (int64_t n = 0; n < units; n++) partial[n] += d[r][n];
      if (only_bias) continue;
      memcpy(y0 + r * P, walk.before[r0 + r] + h * D, D * 4);
      memset(y0 + r * P + D, 0, (P - D) * 4);
    }
    for (int64_t n = 0; n < units; n++) bias[n] += partial[n];
    for (int64_t n = 0; n < units && !only_bias; n += ROWS)
      RUN[std::min(ROWS, units - n) - 1](d.data(), n, y0, P, shape.vectors(), count, sums + n * P);
  }
  if (given.dbias) memcpy(given.dbias + (g * H + h) * D + first, bias, units * 4);
  for (int64_t n = 0; n < units && !only_bias; n++) memcpy(given.dR + ((g * H + h) * D + first + n) * D, sums + n * P, D * 4);
}

template <int64_t CELL>
void forward(const Shape& shape, const float* x, const float* R, const float* bias, const float* initial, float* y, float* final, float* kept,
             int64_t threads) {
  constexpr Counts N = counts(CELL);
  const Blocks blocks(shape, threads);
  const int64_t size = N.matrices * shape.padded() * shape.width;
  Scratch scratch(size * shape.heads + 64);
  float* packed = scratch.take(size * shape.heads);
#pragma omp parallel for num_threads(threads)
  for (int64_t h = 0; h < shape.heads; h++) pack(shape, R, N.matrices, h, false, packed + h * size);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < blocks.count * shape.heads; i++) {
    const Block block = blocks.block(shape, i);
    forward_block<CELL>(block, x, packed + block.h * size, bias, initial, y, final, kept);
  }
}

template <int64_t CELL>
void backward(const Shape& shape, const Arguments& given, int64_t threads) {
  constexpr Counts N = counts(CELL);
  const Blocks blocks(shape, threads);
  const int64_t size = N.matrices * shape.padded() * shape.width;
  Scratch scratch(2 * size * shape.heads + 64);
  float *packed = scratch.take(size * shape.heads), *packed_back = scratch.take(size * shape.heads);
#pragma omp parallel for num_threads(threads)
  for (int64_t i = 0; i < 2 * shape.heads; i++)
    pack(shape, given.R, N.matrices, i / 2, i % 2, (i % 2 ? packed_back : packed) + i / 2 * size);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < blocks.count * shape.heads; i++) {
    const Block block = blocks.block(shape, i);
    backward_block<CELL>(block, given, packed + block.h * size, packed_back + block.h * size);
  }
  const Walk walk(shape, N.states, given.y, given.initial);
  const int64_t pieces = (shape.width + SUM_UNITS - 1) / SUM_UNITS, share = round_up((shape.width + pieces - 1) / pieces, ROWS);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < std::max(N.matrices, N.biases) * shape.heads * pieces; i++) {
    const int64_t first = i % pieces * share, last = std::min(shape.width, first + share), gate = i / pieces;
    if (first < last) parameter_gradients(shape, N, CELL == GRU, given, walk, gate / shape.heads, gate % shape.heads, first, last);
  }
}

}  // namespace

// x [rows, G, H, D]; R [G, H, D_out, D_in]; bias [G, H, D] or null; initial, final [S, states, H, D]; y [rows, H, D];
// kept [rows / CHUNK + S, states - 1, H, D] or null
EXPORT void nonlinear_rnn_forward(const float* x, const float* R, const float* bias, const float* initial, const int64_t* starts, float* y,
                                  float* final, float* kept, int64_t cell, int64_t sequences, int64_t heads, int64_t width, int64_t reverse,
                                  int64_t threads) {
  constexpr decltype(&forward<ELMAN>) RUN[] = {forward<ELMAN>, forward<GRU>, forward<LSTM>, forward<SLSTM>, forward<SLSTM_FLOOR>};
  RUN[cell](Shape{{starts, sequences, reverse}, heads, width}, x, R, bias, initial, y, final, kept, threads);
}

// dcandidate: [rows, H, D], used by the GRU only; dbias may be null
EXPORT void nonlinear_rnn_backward(const float* x, const float* R, const float* bias, const float* initial, const float* y, const float* kept,
                                   const float* dy, const float* dfinal, const int64_t* starts, float* dx, float* dcandidate, float* dinitial,
                                   float* dR, float* dbias, int64_t cell, int64_t sequences, int64_t heads, int64_t width, int64_t reverse,
                                   int64_t threads) {
  constexpr decltype(&backward<ELMAN>) RUN[] = {backward<ELMAN>, backward<GRU>, backward<LSTM>, backward<SLSTM>, backward<SLSTM_FLOOR>};
  const Arguments given{x, R, bias, initial, y, kept, dy, dfinal, dx, dcandidate, dinitial, dR, dbias};
  RUN[cell](Shape{{starts, sequences, reverse}, heads, width}, given, threads);
}
