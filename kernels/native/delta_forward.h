// Forward of the delta rules: lanes are value columns, which evolve independently; the state stays in the first-level cache.
#pragma once
#include "delta_block.h"

namespace {

struct Outputs {
  float *o, *final, *kept, *residual;  // residual: v - S^T k of every step, or S^T a; kept and residual may be null
};

// One block of the value columns of a panel that begins with vector `first`.
template <bool GENERAL, int P, Scaling SCALING>
void forward_panel(const Call& call, const Block<GENERAL>& block, int64_t h, int64_t first, float* panel, const Outputs& to) {
  constexpr int PER = Block<GENERAL>::PER, WRITES = Block<GENERAL>::WRITES;
  const int64_t keys = call.key_vectors() * W;
  vec got[2 * N * P], x[WRITES * P];
  read_rows<P>(block.outputs, panel, call.key, block.reads, keys, got);
  for (int p = 0; p < P; p++) {
    const int64_t at = (first + p) * W, lanes = call.value - at;
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) {
      const int64_t row = (block.step[j] * call.heads + h) * call.value + at;
      const vec v = load_part(call.v + row, block.there(j, lanes));
      vec read = got[j * P + p];
#pragma GCC unroll 8
      for (int l = 0; l < j * PER; l++) read += block.pairs[by_a(j, 0, PER) + l] * x[l * P + p];
      const vec kept = GENERAL ? read : v - read;
      if (to.residual) store_part(to.residual + row, kept, block.there(j, lanes));
      if (GENERAL) {
        x[j * PER * P + p] = read;
        x[(j * PER + PER - 1) * P + p] = v;
      } else {
        x[j * P + p] = kept * block.beta[j];
      }
      if (block.output[j] < 0) continue;
      vec out = got[(N + block.output[j]) * P + p];
#pragma GCC unroll 8
      for (int l = 0; l < (j + 1) * PER; l++) out += block.pairs[by_q(j, 0, PER) + l] * x[l * P + p];
      store_part(to.o + (block.token[j] * call.heads + h) * call.value + at, out, lanes);
    }
  }
  write_panel<WRITES, P, SCALING>(panel, panel, call.key, block.writes, keys, x, block.total);
}

template <bool GENERAL, int P>
INLINE void forward_panel(const Call& call, const Block<GENERAL>& block, int64_t h, int64_t first, float* panel, const Outputs& to) {
  if (call.decays)
    forward_panel<GENERAL, P, BY_ROW>(call, block, h, first, panel, to);
  else
    forward_panel<GENERAL, P, NOT>(call, block, h, first, panel, to);
}

template <bool GENERAL>
void forward_task(const Call& call, int64_t s, int64_t h, const float* initial, const Outputs& to, Scratch& scratch) {
  char* const mark = scratch.next;
  const Panels shape{call.key, call.value_vectors()};
  const int64_t plain = (s * call.heads + h) * call.key * call.value, length = call.length(s) * call.steps;
  float* state = scratch.take(shape.size());
  Block<GENERAL> block, ahead;
  block.place(call, scratch.take(Block<GENERAL>::size(call)));
  load_panels(shape, initial + plain, call.value, state);
  for (int64_t n = 0; n < length; n += N) {
    if (to.kept && n % CHUNK == 0) store_panels(shape, state, call.value, to.kept + call.kept(s, h, n));
    ahead.find(call, s, n + 2 * N, length);
    prefetch_steps<GENERAL, 1>(call, ahead, h);
    for (int64_t j = 0; j < ahead.count; j++) {
      if (to.residual) prefetch_to_write(to.residual + (ahead.step[j] * call.heads + h) * call.value, call.value);
      if (ahead.output[j] >= 0) prefetch_to_write(to.o + (ahead.token[j] * call.heads + h) * call.value, call.value);
    }
    block.find(call, s, n, length);
    block.prepare(call, h);
    for (int64_t first = 0; first < shape.vectors; first += PANEL) {
      if (shape.width(first) == PANEL)
        forward_panel<GENERAL, PANEL>(call, block, h, first, state + shape.panel(first), to);
      else
        forward_panel<GENERAL, 1>(call, block, h, first, state + shape.panel(first), to);
    }
  }
  store_panels(shape, state, call.value, to.final + plain);
  scratch.next = mark;
}

template <bool GENERAL>
void forward(const Call& call, const float* initial, const Outputs& to, int64_t threads) {
  const int64_t tasks = call.sequences * call.heads;
  const int64_t memory = call.key * call.value_vectors() * W + Block<GENERAL>::size(call) + 64;
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(memory);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tasks; i++) forward_task<GENERAL>(call, i / call.heads, i % call.heads, initial, to, scratch);
  }
}

}  // namespace
