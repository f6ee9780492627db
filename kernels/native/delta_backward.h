// Backward of the delta rules: lanes are key channels and rows are value columns, so that the gradients of q, k, a and b need no sums
// over lanes. The states before the blocks of a chunk are rebuilt from the one that was kept and from what was written; then the blocks
// are walked back with G, the gradient of the state.
#pragma once
#include "delta_block.h"

namespace {

struct Gradients {
  float *q, *k, *v, *beta, *a, *b, *log_decay, *initial;
};

// Memory of one task.
template <bool GENERAL>
struct Work {
  static constexpr int WRITES = Block<GENERAL>::WRITES;
  Panels shape;              // of the transposed states
  int64_t values;            // stride of rows over value columns
  float *states, *G, *blocks_memory, *x, *sinks, *H;
  Block<GENERAL> blocks[BLOCKS];
  alignas(64) float weights[N * N * Block<GENERAL>::PER];  // as Block::pairs, of values: gradients of what is read against what is written

  static Panels panels(const Call& call) { return {round_up(call.value, 4), call.key_vectors()}; }
  static int64_t size(const Call& call) {
    return (BLOCKS + 1) * panels(call).size() + BLOCKS * (Block<GENERAL>::size(call) + WRITES * call.value_vectors() * W) +
           (2 * N + WRITES) * call.value_vectors() * W + 256;
  }
  Work(const Call& call, Scratch& scratch) : shape(panels(call)), values(call.value_vectors() * W) {
    states = scratch.take(BLOCKS * shape.size());
    G = scratch.take(shape.size());
    x = scratch.take(BLOCKS * WRITES * values);
    sinks = scratch.take(2 * N * values);
    H = scratch.take(WRITES * values);
    for (auto& block : blocks) block.place(call, scratch.take(Block<GENERAL>::size(call)));
    memset((void*)G, 0, shape.size() * sizeof(float));  // what lies beyond the last value column stays zero in both
    memset((void*)H, 0, WRITES * values * sizeof(float));
  }
};

// What the block wrote beside each of its rows, [WRITES, values]: x from the residual, or x and v.
template <bool GENERAL>
void load_written(const Call& call, const Block<GENERAL>& block, int64_t h, const float* residual, int64_t values, float* x) {
  constexpr int PER = Block<GENERAL>::PER;
  for (int j = 0; j < N; j++)
    for (int64_t at = 0; at < values; at += W) {
      const int64_t row = (block.step[j] * call.heads + h) * call.value + at, lanes = block.there(j, call.value - at);
      const vec kept = load_part(residual + row, lanes);
      store(x + j * PER * values + at, GENERAL ? kept : kept * block.beta[j]);
      if (GENERAL) store(x + (j * PER + PER - 1) * values + at, load_part(call.v + row, lanes));
    }
}

template <bool GENERAL, int P>
INLINE void advance_panel(const Call& call, const Block<GENERAL>& block, int64_t first, const float* from, float* to, const float* x,
                          int64_t values) {
  constexpr int WRITES = Block<GENERAL>::WRITES;
  vec w[WRITES * P];
  for (int l = 0; l < WRITES; l++)
    for (int p = 0; p < P; p++) w[l * P + p] = load(block.writes + l * call.key_vectors() * W + (first + p) * W);
  if (call.decays)
    write_panel<WRITES, P, BY_LANE>(from, to, call.value, x, values, w, block.total + first * W);
  else
    write_panel<WRITES, P, NOT>(from, to, call.value, x, values, w, nullptr);
}

// Gradients of what was read (rows of `sinks`) and written, latest step first; v and beta are done here, and the weights.
template <bool GENERAL>
void solve(const Call& call, const Block<GENERAL>& block, Work<GENERAL>& work, int64_t h, const float* x, const float* residual,
           const float* d_o, const Gradients& grad) {
  constexpr int PER = Block<GENERAL>::PER, WRITES = Block<GENERAL>::WRITES, COUNT = N * N * PER;
  vec dots[COUNT], dbeta[N];
#pragma GCC unroll 32
  for (int i = 0; i < COUNT; i++) dots[i] = vec{};
  for (int j = 0; j < N; j++) dbeta[j] = vec{};
  for (int64_t at = 0; at < work.values; at += W) {
    const int64_t lanes = call.value - at;
    vec out[N], read[N], dx[WRITES];
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) {
      out[j] = vec{};
      if (block.output[j] < 0) continue;
      out[j] = load_part(d_o + (block.token[j] * call.heads + h) * call.value + at, lanes);
      store(work.sinks + (N + block.output[j]) * work.values + at, out[j]);
    }
#pragma GCC unroll 8
    for (int l = 0; l < WRITES; l++) dx[l] = load(work.H + l * work.values + at);
#pragma GCC unroll 4
    for (int j = N - 1; j >= 0; j--) {
      const int64_t row = (block.step[j] * call.heads + h) * call.value + at, part = block.there(j, lanes);
#pragma GCC unroll 8
      for (int l = 0; l < (j + 1) * PER; l++) {
        dx[l] += block.pairs[by_q(j, 0, PER) + l] * out[j];
        dots[by_q(j, 0, PER) + l] += load(x + l * work.values + at) * out[j];
      }
      if (GENERAL) {
        read[j] = dx[j * PER];
        store_part(grad.v + row, dx[j * PER + PER - 1], part);
      } else {
        const vec w = dx[j] * block.beta[j];
        store_part(grad.v + row, w, part);
        dbeta[j] += dx[j] * load_part(residual + row, part);
        read[j] = -w;
      }
      store(work.sinks + j * work.values + at, read[j]);
#pragma GCC unroll 8
      for (int l = 0; l < j * PER; l++) {
        dx[l] += block.pairs[by_a(j, 0, PER) + l] * read[j];
        dots[by_a(j, 0, PER) + l] += load(x + l * work.values + at) * read[j];
      }
    }
  }
  store_sums<COUNT>(dots, work.weights);
  if (GENERAL) return;
  alignas(64) float sum_beta[std::max<int64_t>(N, W)];
  store_sums<N>(dbeta, sum_beta);
  for (int j = 0; j < block.count; j++) grad.beta[block.step[j] * call.heads + h] = sum_beta[j];
}

// What the passes over a vector of key channels have found: read[2N] and write[WRITES] are S^T-side and G-side sums, both = sum of S * G.
template <bool GENERAL, bool DECAY>
INLINE void combine(const Call& call, const Block<GENERAL>& block, const float* weights, int64_t h, int64_t c, int stride, const vec* Y,
                    const vec* E, vec both, vec* sum_log, const Gradients& grad) {
  constexpr int PER = Block<GENERAL>::PER, WRITES = Block<GENERAL>::WRITES;
  const int64_t keys = call.key_vectors() * W, lanes = call.key - c;
  vec q[N], a[N], d[N], w[WRITES], dq[N], da[N], dlog[N], dw[WRITES];
  const vec zero{};
#pragma GCC unroll 4
  for (int j = 0; j < N; j++) {
    const int64_t row = (block.step[j] * call.heads + h) * call.key + c, part = block.there(j, lanes);
    d[j] = DECAY ? load(block.decays + j * keys + c) : zero;
    q[j] = block.output[j] < 0 ? zero : load_part(call.q + (block.token[j] * call.heads + h) * call.key + c, lanes) * call.scale;
    w[j * PER + PER - 1] = load_part(call.k + row, part);
    if (GENERAL) w[j * PER] = load_part(call.b + row, part);
    a[j] = GENERAL ? load_part(call.a + row, part) : w[j];
    dlog[j] = zero;
  }
  // Positions 0 ... N: the state before the block stands at 0, step j writes and q reads at j + 1, a reads there too, or in general at j.
  constexpr int SHIFT = GENERAL ? 0 : 1;
  {
    vec product = fill(1.f), D[N + 1];
    D[0] = product;
#pragma GCC unroll 4
    for (int m = 1; m <= N; m++) D[m] = DECAY ? product *= d[m - 1] : product;
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) {
      const vec read = block.output[j] < 0 ? zero : Y[(N + block.output[j]) * stride];
      dq[j] = DECAY ? read * D[j + 1] : read;
      da[j] = DECAY ? Y[j * stride] * D[j + SHIFT] : Y[j * stride];
    }
    vec run = both * D[N];
    if (DECAY)
#pragma GCC unroll 4
      for (int m = N; m >= 1; m--) {
        run += q[m - 1] * dq[m - 1];
        if (m - SHIFT < N) run += a[m - SHIFT] * da[m - SHIFT];
        dlog[m - 1] += run;
      }
  }
#pragma GCC unroll 8
  for (int i = 0; i < WRITES; i++) {  // a write of step l, at position l + 1
    const int l = i / PER, x = i % PER;
    vec product = fill(1.f), D[N + 1];
#pragma GCC unroll 4
    for (int m = l + 1; m <= N; m++) D[m] = !DECAY || m == l + 1 ? product : product *= d[m - 1];
    vec grad_w = DECAY ? E[i * stride] * D[N] : E[i * stride], run = w[i] * grad_w;
#pragma GCC unroll 4
    for (int m = N; m >= l + 1; m--) {
      const float weight_q = weights[by_q(m - 1, l, PER) + x];
      vec term = q[m - 1] * weight_q;
      const vec dw_read = DECAY ? w[i] * D[m] : w[i];
      dq[m - 1] += dw_read * weight_q;
      const int reader = m - SHIFT;  // the step whose a reads at this position
      if (reader < N && reader > l) {
        const float weight_a = weights[by_a(reader, l, PER) + x];
        term += a[reader] * weight_a;
        da[reader] += dw_read * weight_a;
      }
      if (DECAY) term *= D[m];
      grad_w += term;
      if (DECAY && m > l + 1) {
        run += w[i] * term;
        dlog[m - 1] += run;
      }
    }
    dw[i] = grad_w;
  }
#pragma GCC unroll 4
  for (int j = 0; j < N; j++) {
    const int64_t head = block.token[j] * call.heads + h, part = block.there(j, lanes);
    const int64_t row = (block.step[j] * call.heads + h) * call.key + c;
    if (block.output[j] >= 0) store_part(grad.q + head * call.key + c, dq[j] * call.scale, lanes);
    store_part(grad.k + row, GENERAL ? dw[j * PER + PER - 1] : dw[j] + da[j], part);
    if (GENERAL) {
      store_part(grad.a + row, da[j], part);
      store_part(grad.b + row, dw[j * PER], part);
    }
    if (DECAY && call.decays == 2 && block.begins[j]) store_part(grad.log_decay + head * call.key + c, dlog[j], part);
    if (DECAY && call.decays == 1) sum_log[j] += dlog[j];
  }
}

// The passes over one panel of key channels: S before the block and G after it are read, and G becomes the gradient before the block.
template <bool GENERAL, int P, bool DECAY>
void backward_panel(const Call& call, const Block<GENERAL>& block, const Work<GENERAL>& work, int64_t h, int64_t first, const float* S,
                    float* G, const float* x, vec* sum_log, const Gradients& grad) {
  const int64_t keys = call.key_vectors() * W;
  vec Y[2 * N * P], E[Block<GENERAL>::WRITES * P], both[P], rows[2 * N * P];
  read_rows<P>(block.outputs, S, call.value, work.sinks, work.values, Y);
  read_panel<Block<GENERAL>::WRITES, P>(G, call.value, x, work.values, E);
  for (int p = 0; p < P; p++) {
    both[p] = DECAY ? dot_rows<P>(S + p * W, G + p * W, call.value) : vec{};
    for (int64_t r = 0; r < 2 * N; r++) rows[r * P + p] = load(block.reads + r * keys + (first + p) * W);
  }
  write_rows<P, DECAY ? BY_LANE : NOT>(block.outputs, G, call.value, work.sinks, work.values, rows, block.total + first * W);
  for (int p = 0; p < P; p++)
    combine<GENERAL, DECAY>(call, block, work.weights, h, (first + p) * W, P, Y + p, E + p, both[p], sum_log, grad);
}

template <bool GENERAL, bool DECAY>
void backward_block(const Call& call, Work<GENERAL>& work, int64_t b, int64_t h, const float* residual, const float* d_o,
                    const Gradients& grad) {
  const Block<GENERAL>& block = work.blocks[b];
  const float* x = work.x + b * Work<GENERAL>::WRITES * work.values;
  vec sum_log[N];
  for (int j = 0; j < N; j++) sum_log[j] = vec{};
  project<Work<GENERAL>::WRITES>(work.shape, work.G, block.writes, call.key_vectors() * W, work.H, work.values);
  solve<GENERAL>(call, block, work, h, x, residual, d_o, grad);
  for (int64_t first = 0; first < work.shape.vectors; first += PANEL) {
    const float* S = work.states + b * work.shape.size() + work.shape.panel(first);
    float* G = work.G + work.shape.panel(first);
    if (work.shape.width(first) == PANEL)
      backward_panel<GENERAL, PANEL, DECAY>(call, block, work, h, first, S, G, x, sum_log, grad);
    else
      backward_panel<GENERAL, 1, DECAY>(call, block, work, h, first, S, G, x, sum_log, grad);
  }
  if (!DECAY || call.decays != 1) return;
  alignas(64) float sum[std::max<int64_t>(N, W)];
  store_sums<N>(sum_log, sum);
  for (int j = 0; j < block.count; j++)
    if (block.begins[j]) grad.log_decay[block.token[j] * call.heads + h] = sum[j];
}

// Asks for what the chunk at step n, the next one to be walked, needs; a part of it at each block b of this one.
template <bool GENERAL>
INLINE void fetch_ahead(const Call& call, int64_t s, int64_t h, int64_t n, int64_t b, int64_t length, const float* kept,
                        const float* residual, const float* d_o, const Gradients& grad) {
  Block<GENERAL> block;
  block.find(call, s, n + b * N, length);
  prefetch_steps<GENERAL, 2>(call, block, h);
  for (int64_t j = 0; j < block.count; j++) {
    const int64_t head = block.token[j] * call.heads + h, row = block.step[j] * call.heads + h;
    prefetch<2>(residual + row * call.value, call.value);
    prefetch_to_write(grad.v + row * call.value, call.value);
    prefetch_to_write(grad.k + row * call.key, call.key);
    if (GENERAL) prefetch_to_write(grad.a + row * call.key, call.key);
    if (GENERAL) prefetch_to_write(grad.b + row * call.key, call.key);
    if (block.output[j] < 0) continue;
    prefetch<2>(d_o + head * call.value, call.value);
    prefetch_to_write(grad.q + head * call.key, call.key);
    if (call.decays == 2) prefetch_to_write(grad.log_decay + head * call.key, call.key);
  }
  const int64_t part = call.key * call.value / BLOCKS;
  prefetch<2>(kept + call.kept(s, h, n) + b * part, part);
}

template <bool GENERAL>
void backward_task(const Call& call, int64_t s, int64_t h, const float* kept, const float* residual, const float* d_o, const float* d_final,
                   const Gradients& grad, Scratch& scratch) {
  char* const mark = scratch.next;
  Work<GENERAL> work(call, scratch);
  const Panels& shape = work.shape;
  const int64_t plain = (s * call.heads + h) * call.key * call.value, length = call.length(s) * call.steps;
  load_transposed(shape, d_final + plain, call.key, call.value, work.G);
  for (int64_t n = (length - 1) / CHUNK * CHUNK; n >= 0 && length; n -= CHUNK) {
    const int64_t blocks = (std::min(CHUNK, length - n) + N - 1) / N;
    load_transposed(shape, kept + call.kept(s, h, n), call.key, call.value, work.states);
    for (int64_t b = 0; b < blocks; b++) {
      Block<GENERAL>& block = work.blocks[b];
      float *x = work.x + b * Work<GENERAL>::WRITES * work.values, *state = work.states + b * shape.size();
      block.find(call, s, n + b * N, length);
      block.prepare(call, h);
      load_written(call, block, h, residual, work.values, x);
      for (int64_t first = 0; first < shape.vectors && b + 1 < blocks; first += PANEL) {
        float* from = state + shape.panel(first);
        if (shape.width(first) == PANEL)
          advance_panel<GENERAL, PANEL>(call, block, first, from, from + shape.size(), x, work.values);
        else
          advance_panel<GENERAL, 1>(call, block, first, from, from + shape.size(), x, work.values);
      }
    }
    for (int64_t b = blocks - 1; b >= 0; b--) {
      if (n > 0) fetch_ahead<GENERAL>(call, s, h, n - CHUNK, b, length, kept, residual, d_o, grad);
      if (call.decays)
        backward_block<GENERAL, true>(call, work, b, h, residual, d_o, grad);
      else
        backward_block<GENERAL, false>(call, work, b, h, residual, d_o, grad);
    }
  }
  store_transposed(shape, work.G, call.key, call.value, grad.initial + plain);
  scratch.next = mark;
}

template <bool GENERAL>
void backward(const Call& call, const float* kept, const float* residual, const float* d_o, const float* d_final, const Gradients& grad,
              int64_t threads) {
  const int64_t tasks = call.sequences * call.heads;
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(Work<GENERAL>::size(call));
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tasks; i++)
      backward_task<GENERAL>(call, i / call.heads, i % call.heads, kept, residual, d_o, d_final, grad, scratch);
  }
}

}  // namespace
