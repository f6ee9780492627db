// What the forward and the backward of mLSTM share. A chunk of steps is a few products of matrices:
//   h_t = (sum_{s <= t} P_ts v_s + g_t q_t S) / (max(|sum_s P_ts + g_t q_t n|, e^{-m_t}) + eps) ,   P_ts = scale q_t·k_s e^{F_t - F_s + i_s - m_t}
// with S, n the memory before the chunk, F the sum of the log forget gates in it, and g_t = scale e^{F_t + m_0 - m_t}. F is a double: its
// differences stay exact where gates are large. With blocks, q, k and v of a head are made from its channels of other rows, in cache; with a
// gain, the norm, skip connection and output gate that follow the memory are in the same pass.
#pragma once
#include <cmath>
#include "gemm.h"
#include "sequences.h"

namespace {

constexpr int64_t LENGTH = 64, GROUP = 16;  // steps of a chunk; rows of its triangle that are computed together
constexpr int64_t TURNS = 4;                // width of a block; turned by 0 .. 3 channels, a row meets every weight of its blocks

// One call. Tensors are [rows, ...]; null where a call does without.
struct Call : Sequences {
  int64_t heads, keys, values, period, keep;  // period: length of `order`; keep: steps between kept states, a multiple of LENGTH
  bool running, divide;                       // exponential gates, with a running maximum; divided by the normaliser
  float scale, eps, norm_eps;
  const float *q, *k, *v, *gates;             // with blocks, what they read: c, c, u; gates [rows, 2 H], input gates first
  const int64_t* order;                       // [period]: the row that every step of a period reads
  const float *weight, *bias;                 // [3, TURNS, H K] turned; [3, H K]
  const float *gain, *shift, *skip, *z;       // [H V]; z [rows, H V]. skip is of the rows of q
  const float *C, *n, *m;                     // states before the first step, [S, H, K, V], [S, H, K], [S, H]
  int64_t row_of(int64_t s, int64_t t) const {
    const int64_t at = row(s, t);
    return order ? at / period * period + order[at % period] : at;
  }
  int64_t padded_keys() const { return round_up(keys, std::max<int64_t>(W, 8)); }
  int64_t padded_values() const { return round_up(values, std::max<int64_t>(W, 8)); }
  int64_t state_size() const { return keys * values + keys + 1; }  // of a head: C, n, m
  int64_t slot(int64_t s, int64_t t) const { return starts[s] / keep + t / keep - 1; }  // of the state before step t > 0, t a multiple of keep
};

// The memory of a head before some step: S in padded rows, n, m; `empty` before a sequence that has no past.
struct State {
  float *S, *n;
  float m;
  bool empty;
};

// Memory of one thread, and the chunk that it works on.
struct Chunk {
  const Call& call;
  const int64_t s, h, K, V, Kp, Vp;
  int64_t steps = 0, rows = 0;  // rows: steps, filled up to whole groups
  float *q, *k, *v;             // [LENGTH, Kp] twice, [LENGTH, Vp]; zeros behind the last step
  float *q_now, *k_end;         // q decayed since the start of the chunk and scaled, k decayed to its end
  float *turned;                // keys or values transposed [Kp or Vp, rows]
  float *E, *P, *h_out;         // [LENGTH, LENGTH] twice: decays with scale, and times q·k; [LENGTH, Vp]
  float *weight, *bias;         // [3, TURNS, Kp], [3, Kp]: this head's
  int64_t at[LENGTH];           // rows of the steps
  double since[LENGTH], until[LENGTH];  // F_t - m_t; i_s - F_s
  alignas(64) float input[LENGTH], forget[LENGTH], log_forget[LENGTH], m[LENGTH], now[LENGTH], end[LENGTH], scale[LENGTH], sums[LENGTH], inverse[LENGTH];
  float total, last;            // the chunk's whole decay; m behind it

  static int64_t size(const Call& call) {
    const int64_t Kp = call.padded_keys(), Vp = call.padded_values();
    return LENGTH * (4 * Kp + 2 * Vp + std::max(Kp, Vp) + 2 * LENGTH) + 3 * (TURNS + 1) * Kp;
  }
  Chunk(const Call& call, int64_t s, int64_t h, float* memory)
      : call(call), s(s), h(h), K(call.keys), V(call.values), Kp(call.padded_keys()), Vp(call.padded_values()) {
    auto take = [&](int64_t floats) { float* part = memory; memory += floats; return part; };
    for (float** part : {&q, &k, &q_now, &k_end}) *part = take(LENGTH * Kp);
    for (float** part : {&v, &h_out}) *part = take(LENGTH * Vp);
    for (float** part : {&E, &P}) *part = take(LENGTH * LENGTH);
    turned = take(LENGTH * std::max(Kp, Vp));
    weight = take(3 * TURNS * Kp);
    bias = take(3 * Kp);
    memset(weight, 0, 3 * (TURNS + 1) * Kp * sizeof(float));
    if (!call.weight) return;
    for (int64_t i = 0; i < 3 * TURNS; i++) copy(weight + i * Kp, call.weight + (i * call.heads + h) * K, K);
    for (int64_t i = 0; i < 3 && call.bias; i++) copy(bias + i * Kp, call.bias + (i * call.heads + h) * K, K);
  }
  const float* key_row(const float* from, int64_t t) const { return from + (at[t] * call.heads + h) * K; }
  const float* value_row(const float* from, int64_t t) const { return from + (at[t] * call.heads + h) * V; }
  float* value_row(float* to, int64_t t) const { return to + (at[t] * call.heads + h) * V; }

  // Steps [t0, t0 + LENGTH) of the sequence, whose memory had m_0 = before.
  void load(int64_t t0, float before) {
    steps = std::min(LENGTH, call.length(s) - t0);
    rows = round_up(steps, GROUP);
    for (int64_t t = 0; t < steps; t++) at[t] = call.row_of(s, t0 + t);
    load_gates(before);
    if (call.weight) return project();
    for (int64_t t = 0; t < rows; t++) {
      const bool there = t < steps;
      for (int64_t c = 0; c < Kp; c += W) store(q + t * Kp + c, there ? load_part(key_row(call.q, t) + c, K - c) : vec{});
      for (int64_t c = 0; c < Kp; c += W) store(k + t * Kp + c, there ? load_part(key_row(call.k, t) + c, K - c) : vec{});
      for (int64_t c = 0; c < Vp; c += W) store(v + t * Vp + c, there ? load_part(value_row(call.v, t) + c, V - c) : vec{});
    }
  }

  // F_t - m_t and i_s - F_s, and what follows from them step by step.
  void load_gates(float before) {
    for (int64_t t = 0; t < rows; t++) {
      const float* gates = call.gates + at[std::min(t, steps - 1)] * 2 * call.heads + h;
      input[t] = gates[0], forget[t] = gates[call.heads];
    }
    for (int64_t t = 0; t < rows; t += W) {
      store(log_forget + t, vmax(-softplus(-::load(forget + t)), fill(-1e9f)));  // of minus infinity there are no differences
      if (!call.running) store(m + t, -softplus(-::load(input + t)));
    }
    double F = 0;
    float scaled = call.scale;  // of what is no number neither the maxima nor `exp` tell
    last = before;
    for (int64_t t = 0; t < steps; t++) {
      const float gate = call.running ? input[t] : m[t];
      if (call.running) last = std::max(log_forget[t] + last, gate);
      F += log_forget[t];
      if (std::isnan(input[t]) || std::isnan(forget[t])) scaled = NAN;
      scale[t] = scaled;
      m[t] = last;
      since[t] = F - last;
      until[t] = gate - F;
    }
    for (int64_t t = 0; t < rows; t++) {
      now[t] = (float)(since[std::min(t, steps - 1)] + before);
      end[t] = (float)(until[std::min(t, steps - 1)] + since[steps - 1]);
    }
    for (int64_t t = 0; t < rows; t += W) {
      store(now + t, exp(::load(now + t)) * call.scale);
      store(end + t, exp(::load(end + t)) + (scaled - scaled));
    }
    for (int64_t t = steps; t < rows; t++) now[t] = end[t] = scale[t] = since[t] = until[t] = m[t] = 0;
    alignas(64) float whole[W] = {(float)(since[steps - 1] + before)};
    store(whole, exp(::load(whole)));
    total = whole[0];
  }

  // q, k from the rows of call.q, v from those of call.v: every channel from the four of its block.
  void project() {
    const int64_t D = call.heads * K;
    for (int64_t c = 0; c < Kp; c += W) {
      vec w[3][TURNS], b[3];
      for (int i = 0; i < 3; i++) {
        b[i] = ::load(bias + i * Kp + c);
#pragma GCC unroll 4
        for (int j = 0; j < TURNS; j++) w[i][j] = ::load(weight + (i * TURNS + j) * Kp + c);
      }
      for (int64_t t = 0; t < rows; t++) {
        vec x = {}, u = {};
        if (t < steps) x = load_part(call.q + at[t] * D + h * K + c, K - c), u = load_part(call.v + at[t] * D + h * K + c, K - c);
        const vec x1 = turn<1>(x), x2 = turn<2>(x), x3 = turn<3>(x);
        vec y[3] = {b[0] + w[0][0] * x + w[0][1] * x1 + w[0][2] * x2 + w[0][3] * x3,
                    b[1] + w[1][0] * x + w[1][1] * x1 + w[1][2] * x2 + w[1][3] * x3,
                    b[2] + w[2][0] * u + w[2][1] * turn<1>(u) + w[2][2] * turn<2>(u) + w[2][3] * turn<3>(u)};
        if (t >= steps) y[0] = y[1] = y[2] = vec{};
        store(q + t * Kp + c, y[0]);
        store(k + t * Kp + c, y[1]);
        store(v + t * Vp + c, y[2]);
      }
    }
  }

  // E and P, zeros above the diagonal of every group of rows; sums of P's rows.
  void weigh() {
    transpose(turned, k, rows, Kp);
    for (int64_t r = 0; r < rows; r += GROUP) {
      const int64_t columns = r + GROUP;
      gemm(P + r * LENGTH, LENGTH, 0, q + r * Kp, Kp, 1, turned, rows, GROUP, columns, K);
      for (int64_t t = r; t < columns; t++) {
        const int64_t seen = t < steps ? t + 1 : 0;
        vec total{};
        for (int64_t j = 0; j < columns; j += W) {
          alignas(64) float exponent[W];
          for (int64_t i = 0; i < W; i++) exponent[i] = (float)(since[t] + until[j + i]);
          const vec e = first(exp(::load(exponent)) * scale[t], seen - j), p = e * ::load(P + t * LENGTH + j);
          store(E + t * LENGTH + j, e);
          store(P + t * LENGTH + j, p);
          total += p;
        }
        sums[t] = sum(total);
      }
    }
  }

  // h_out and the inverse of what divided it.
  void attend(const State& state) {
    weigh();
    for (int64_t r = 0; r < rows; r += GROUP) gemm(h_out + r * Vp, Vp, 0, P + r * LENGTH, LENGTH, 1, v, Vp, GROUP, Vp, r + GROUP);
    if (!state.empty) {
      scale_rows(q_now, q, now, Kp, rows);
      gemm(h_out, Vp, 1, q_now, Kp, 1, state.S, Vp, rows, Vp, K);
      for (int64_t t = 0; t < steps; t++) sums[t] += dot(q_now + t * Kp, state.n, Kp);
    }
    if (!call.divide) return std::fill(inverse, inverse + rows, 1.f);
    for (int64_t t = 0; t < rows; t += W) {
      const vec sum = ::load(sums + t);
      store(inverse + t, 1.f / (vmax(vmax(sum, -sum), exp(-::load(m + t))) + call.eps));
    }
    scale_rows(h_out, h_out, inverse, Vp, steps);
  }

  // state ← the memory behind the chunk
  void advance(const State& from, State& to) {
    scale_rows(k_end, k, end, Kp, rows);
    const float decay = from.empty ? 0 : total;
    if (from.S != to.S && !from.empty) memcpy(to.S, from.S, Kp * Vp * sizeof(float));
    gemm(to.S, Vp, decay, k_end, 1, Kp, v, Vp, Kp, Vp, rows);
    for (int64_t c = 0; c < Kp; c += W) {
      vec n = from.empty ? vec{} : ::load(from.n + c) * decay;
      for (int64_t t = 0; t < steps; t++) n += ::load(k_end + t * Kp + c);
      store(to.n + c, n);
    }
    to.m = last;
    to.empty = false;
  }

  static void scale_rows(float* to, const float* from, const float* factor, int64_t width, int64_t rows) {
    for (int64_t t = 0; t < rows; t++)
      for (int64_t c = 0; c < width; c += W) store(to + t * width + c, ::load(from + t * width + c) * factor[t]);
  }
  static float dot(const float* a, const float* b, int64_t width) {
    vec total{};
    for (int64_t c = 0; c < width; c += W) total += ::load(a + c) * ::load(b + c);
    return sum(total);
  }
};

// Mean and inverse deviation of the V values of a row.
struct Moments {
  float mean, inverse;
  Moments(const float* row, int64_t V, float eps) {
    vec total{}, squares{};
    for (int64_t c = 0; c < V; c += W) total += load_part(row + c, V - c);
    mean = sum(total) / V;
    for (int64_t c = 0; c < V; c += W) {
      const vec x = first(load_part(row + c, V - c) - mean, V - c);
      squares += x * x;
    }
    inverse = 1 / std::sqrt(sum(squares) / V + eps);
  }
};

// The memory of a head and its place in padded rows.
inline void load_state(const Call& call, State& state, const float* C, const float* n, float m) {
  const int64_t Kp = call.padded_keys(), Vp = call.padded_values();
  memset(state.S, 0, Kp * Vp * sizeof(float));
  memset(state.n, 0, Kp * sizeof(float));
  state.m = m;
  state.empty = !C;
  if (!C) return;
  copy_rows(state.S, Vp, C, call.values, call.keys, call.values);
  copy(state.n, n, call.keys);
}
inline void initial_state(const Call& call, State& state, int64_t s, int64_t h) {
  const int64_t at = s * call.heads + h;
  if (call.C) load_state(call, state, call.C + at * call.keys * call.values, call.n + at * call.keys, call.running ? call.m[at] : 0);
  else load_state(call, state, nullptr, nullptr, 0);
}

}  // namespace
