// The backward of mlstm_forward.cpp: chunks from the last to the first. What they need of the forward is computed again from their inputs and
// the states before them; those come from the kept ones. Maxima count as constants, since h does not depend on them, except beside eps and in
// final states: `drift` is the gradient of m_t that this leaves out. The gradient of a log forget gate is the sum of all flows across its
// step (state or key before → query or state behind): no differences.
#include <vector>
#include "mlstm.h"

namespace {

constexpr int64_t SUMS = 3 * TURNS + 6;  // rows of sums: weights turned, biases, then gain, shift, skip

struct Gradients {
  const float *kept, *y, *last_C, *last_n, *last_m;  // states that the forward kept; given gradients, those of states may be null
  float *q, *k, *v, *gates;                   // with blocks q and v are the gradients of c and u, and k is null
  float *C, *n, *m;                           // of initial states, or null
  float *z, *out, *sums;                      // with a gain: of z, the output once more, and [S, SUMS, H K] of the weights
};

double wide_sum(vec v) {
  float lanes[W];
  double wide[W];
  store(lanes, v);
  for (int64_t i = 0; i < W; i++) wide[i] = lanes[i];
  for (int64_t step = W / 2; step; step /= 2)
    for (int64_t i = 0; i < step; i++) wide[i] += wide[i + step];
  return wide[0];
}

struct Backward {
  const Call& call;
  const Gradients& grad;
  const int64_t s, h, K, V, Kp, Vp, length, chunks;
  Scratch scratch;
  float* memory;
  float *states, *turned_state, *G, *turned_G, *dn, *dO, *dP, *dq, *dk, *dv, *sums;
  bool behind;  // whether there is a gradient of the state behind the chunk
  double drift;  // gradient of m behind the current step
  alignas(64) float dsum[LENGTH], dm[LENGTH];
  double past[LENGTH], coming[LENGTH];  // flows from the state before the chunk to queries, from keys to the gradient behind
  Chunk chunk;

  static int64_t size(const Call& call) {
    const int64_t Kp = call.padded_keys(), Vp = call.padded_values();
    return call.keep / LENGTH * (Kp * Vp + Kp) + 3 * Kp * Vp + Kp + LENGTH * (2 * Vp + 2 * Kp + LENGTH) + SUMS * Kp + Chunk::size(call);
  }
  float* take(int64_t floats) { float* part = memory; memory += floats; return part; }

  Backward(const Call& call, const Gradients& grad, int64_t s, int64_t h)
      : call(call), grad(grad), s(s), h(h), K(call.keys), V(call.values), Kp(call.padded_keys()), Vp(call.padded_values()),
        length(call.length(s)), chunks(call.keep / LENGTH), scratch(size(call)), memory(scratch.take(size(call))),
        chunk(call, s, h, take(Chunk::size(call))) {
    states = take(chunks * (Kp * Vp + Kp));
    for (float** part : {&turned_state, &G, &turned_G}) *part = take(Kp * Vp);
    dn = take(Kp);
    for (float** part : {&dO, &dv}) *part = take(LENGTH * Vp);
    for (float** part : {&dq, &dk}) *part = take(LENGTH * Kp);
    dP = take(LENGTH * LENGTH);
    sums = take(SUMS * Kp);
    memset(sums, 0, SUMS * Kp * sizeof(float));
  }

  State state(int64_t i) { return {states + i * (Kp * Vp + Kp), states + i * (Kp * Vp + Kp) + Kp * Vp, 0, true}; }

  void whole_sequence() {
    const int64_t at = s * call.heads + h;
    State last{G, dn, 0, true};
    load_state(call, last, grad.last_C ? grad.last_C + at * K * V : nullptr, grad.last_n + at * K, 0);
    behind = !last.empty;
    drift = grad.last_m && call.running ? grad.last_m[at] : 0;
    std::vector<State> before;
    for (int64_t end = length; end > 0; end = (end - 1) / call.keep * call.keep) {
      const int64_t begin = (end - 1) / call.keep * call.keep, number = (end - begin + LENGTH - 1) / LENGTH;
      before.clear();
      for (int64_t i = 0; i < number; i++) before.push_back(state(i));
      load_before(begin, before[0]);
      for (int64_t i = 0; i + 1 < number; i++) {
        chunk.load(begin + i * LENGTH, before[i].m);
        chunk.advance(before[i], before[i + 1]);
      }
      for (int64_t i = number - 1; i >= 0; i--) {
        chunk.load(begin + i * LENGTH, before[i].m);
        chunk.attend(before[i]);
        if (behind && end == length && i == number - 1) add_last_drift(before[i]);
        walk_back(before[i], begin + i * LENGTH);
      }
    }
    if (grad.C) {
      State first{states, states + Kp * Vp, 0, true};
      initial_state(call, first, s, h);
      if (!behind) memset(G, 0, Kp * Vp * sizeof(float)), memset(dn, 0, Kp * sizeof(float));
      copy_rows(grad.C + at * K * V, V, G, Vp, K, V);
      copy(grad.n + at * K, dn, K);
      if (call.running) grad.m[at] = (float)(drift + (length ? products_with(first.S) + Chunk::dot(first.n, dn, Kp) : 0));
    }
    for (int64_t i = 0; i < SUMS && grad.sums; i++) copy(grad.sums + ((s * SUMS + i) * call.heads + h) * K, sums + i * Kp, K);
  }

  void load_before(int64_t begin, State& state) {
    if (begin == 0) return initial_state(call, state, s, h);
    const float* from = grad.kept + (call.slot(s, begin) * call.heads + h) * call.state_size();
    load_state(call, state, from, from + K * V, from[call.state_size() - 1]);
  }

  // <S, G>, whose sum nearly cancels against others.
  double products_with(const float* S) const {
    double total = 0;
    for (int64_t i = 0; i < K; i++) {
      vec row{};
      for (int64_t c = i * Vp; c < (i + 1) * Vp; c += W) row += load(S + c) * load(G + c);
      total += wide_sum(row);
    }
    return total;
  }

  // The last states are scaled by e^{-m}.
  void add_last_drift(const State& from) {
    if (!call.running) return;
    State behind_all{turned_state, turned_G, 0, true};
    chunk.advance(from, behind_all);
    drift -= products_with(turned_state) + Chunk::dot(turned_G, dn, Kp);
  }

  void walk_back(const State& before, int64_t t0) {
    const int64_t rows = chunk.rows;
    for (int64_t t = 0; t < rows; t++) to_output(t);
    inside();
    // queries and the state before the chunk
    std::fill(past, past + rows, 0.);
    if (!before.empty) {
      transpose(turned_state, before.S, Kp, Vp);
      gemm(dq, Kp, 0, dO, Vp, 1, turned_state, Kp, rows, Kp, V);
      scale_and_dot(dq, chunk.now, dsum, before.n, chunk.q, past);
    }
    // keys and the gradient behind the chunk
    std::fill(coming, coming + rows, 0.);
    if (behind) {
      alignas(64) float ones[LENGTH];
      std::fill(ones, ones + rows, 1.f);
      transpose(turned_G, G, Kp, Vp);
      gemm(dk, Kp, 0, chunk.v, Vp, 1, turned_G, Kp, rows, Kp, V);
      scale_and_dot(dk, chunk.end, ones, dn, chunk.k, coming);
      Chunk::scale_rows(chunk.k_end, chunk.k, chunk.end, Kp, rows);
      gemm(dv, Vp, 0, chunk.k_end, Kp, 1, G, Vp, rows, Vp, K);
    }
    for (int64_t r = 0; r < rows; r += GROUP) {
      const int64_t diagonal = r * LENGTH + r, left = rows - r;
      gemm(dq + r * Kp, Kp, before.empty ? 0 : 1, chunk.E + r * LENGTH, LENGTH, 1, chunk.k, Kp, GROUP, Kp, r + GROUP);
      gemm(dk + r * Kp, Kp, behind ? 1 : 0, chunk.E + diagonal, 1, LENGTH, chunk.q + r * Kp, Kp, GROUP, Kp, left);
      gemm(dv + r * Vp, Vp, behind ? 1 : 0, chunk.P + diagonal, 1, LENGTH, dO + r * Vp, Vp, GROUP, Vp, left);
    }
    const double through = behind && !before.empty ? chunk.total * (products_with(before.S) + Chunk::dot(before.n, dn, Kp)) : 0;
    write_gates(through, before.m);
    if (call.weight) to_channels();
    else write_rows();
    if (t0 > 0 || call.C) to_state_before();
  }

  // dO, and the gradients of the sum that divides and of eps, from the gradient of the output at step t.
  void to_output(int64_t t) {
    float* d = dO + t * Vp;
    dsum[t] = dm[t] = 0;
    if (t >= chunk.steps) {
      memset(d, 0, Vp * sizeof(float));
      return;
    }
    for (int64_t c = 0; c < Vp; c += W) store(d + c, load_part(chunk.value_row(grad.y, t) + c, V - c));
    const float* out = chunk.h_out + t * Vp;
    if (call.gain) through_gate(t, d, out);
    const float inverse = chunk.inverse[t];
    if (call.divide) {
      const float of_divisor = -Chunk::dot(d, out, Vp) * inverse, total = chunk.sums[t];
      if (call.eps * inverse != 0) dm[t] = call.eps * of_divisor;
      alignas(64) float floor[W] = {-chunk.m[t]};
      store(floor, exp(load(floor)));
      if (std::fabs(total) >= floor[0]) dsum[t] = total > 0 ? of_divisor : -of_divisor;
    }
    for (int64_t c = 0; c < Vp; c += W) store(d + c, load(d + c) * inverse);
  }

  // d: gradient of the output → of h. Writes what is that of z and of c through the skip connection, and the output itself.
  void through_gate(int64_t t, float* d, const float* out) {
    const int64_t first_channel = h * V;
    const Moments moments(out, V, call.norm_eps);
    const float *c = chunk.value_row(call.q, t), *z = chunk.value_row(call.z, t);
    float *dz = chunk.value_row(grad.z, t), *dc = chunk.value_row(grad.q, t), *y = chunk.value_row(grad.out, t);
    float *of_gain = sums + 3 * (TURNS + 1) * Kp, *of_shift = of_gain + Kp, *of_skip = of_shift + Kp;
    vec mean{}, product{};
    for (int64_t i = 0; i < V; i += W) {
      const int64_t lanes = V - i;
      const vec normal = first((load(out + i) - moments.mean) * moments.inverse, lanes), gain = load_part(call.gain + first_channel + i, lanes);
      const vec skip = load_part(call.skip + first_channel + i, lanes), from = load_part(c + i, lanes);
      vec value = normal * gain;
      if (call.shift) value += load_part(call.shift + first_channel + i, lanes);
      value += skip * from;
      const vec gate = load_part(z + i, lanes), open = sigmoid(gate), dy = load(d + i), inner = dy * (gate * open);
      store_part(y + i, value * (gate * open), lanes);
      store_part(dz + i, dy * value * (open * (1.f + gate * (1.f - open))), lanes);
      store_part(dc + i, inner * skip, lanes);
      store(of_gain + i, load(of_gain + i) + inner * normal);
      store(of_shift + i, load(of_shift + i) + inner);
      store(of_skip + i, load(of_skip + i) + inner * from);
      const vec of_normal = inner * gain;
      mean += of_normal;
      product += of_normal * normal;
      store(d + i, of_normal);
    }
    const float of_mean = sum(mean) / V, of_product = sum(product) / V;
    for (int64_t i = 0; i < V; i += W) {
      const vec normal = (load(out + i) - moments.mean) * moments.inverse;
      store(d + i, first((load(d + i) - of_mean - normal * of_product) * moments.inverse, V - i));
    }
  }

  // E ← gradient of q·k; dP ← flow from every key to every query.
  void inside() {
    transpose(chunk.turned, chunk.v, chunk.rows, Vp);
    for (int64_t r = 0; r < chunk.rows; r += GROUP) {
      const int64_t columns = r + GROUP;
      gemm(dP + r * LENGTH, LENGTH, 0, dO + r * Vp, Vp, 1, chunk.turned, chunk.rows, GROUP, columns, V);
      for (int64_t t = r; t < columns; t++)
        for (int64_t j = 0; j < columns; j += W) {
          const int64_t at = t * LENGTH + j;
          const vec d = load(dP + at) + dsum[t];
          store(dP + at, d * load(chunk.P + at));
          store(chunk.E + at, d * load(chunk.E + at));
        }
    }
  }

  // d_t ← factor_t (d_t + weight_t vector), and its product with with_t
  void scale_and_dot(float* d, const float* factor, const float* weight, const float* vector, const float* with, double* products) const {
    for (int64_t t = 0; t < chunk.rows; t++) {
      vec total{};
      for (int64_t c = 0; c < Kp; c += W) {
        const vec value = factor[t] * (load(d + t * Kp + c) + weight[t] * load(vector + c));
        store(d + t * Kp + c, value);
        total += value * load(with + t * Kp + c);
      }
      products[t] = wide_sum(total);
    }
  }

  void write_gates(double through, float before) {
    const int64_t steps = chunk.steps;
    alignas(64) float flow[LENGTH], column[LENGTH] = {};  // across a step inside the chunk; from a key to the queries at and behind t
    double of_input[LENGTH], of_forget[LENGTH], later = 0;  // sums of large terms that nearly cancel
    for (int64_t t = steps - 1; t >= 0; t--) {
      vec total{};
      for (int64_t j = 0; j <= t; j += W) {
        const vec sum_here = load(column + j) + load(dP + t * LENGTH + j);
        store(column + j, sum_here);
        total += first(sum_here, t - j);
      }
      of_forget[t] = sum(total) + (later += past[t]);
    }
    for (int64_t t = 0; t < steps; t++) {
      of_forget[t] += through;
      of_input[t] = column[t] + coming[t];
      through += coming[t];
    }
    for (int64_t t = steps - 1; t >= 0 && call.running; t--) {
      drift += dm[t];
      const bool carried = chunk.log_forget[t] + (t ? chunk.m[t - 1] : before) >= chunk.input[t];
      (carried ? of_forget : of_input)[t] += drift;
      if (!carried) drift = 0;
    }
    for (int64_t t = 0; t < chunk.rows; t++) flow[t] = t < steps ? of_forget[t] : 0, column[t] = t < steps ? of_input[t] : 0;
    for (int64_t t = 0; t < chunk.rows; t += W) {
      store(flow + t, load(flow + t) * sigmoid(-load(chunk.forget + t)));
      if (!call.running) store(column + t, load(column + t) * sigmoid(-load(chunk.input + t)));
    }
    for (int64_t t = 0; t < steps; t++) {
      float* to = grad.gates + chunk.at[t] * 2 * call.heads + h;
      to[0] = column[t];
      to[call.heads] = flow[t];
    }
  }

  void write_rows() {
    for (int64_t t = 0; t < chunk.steps; t++) {
      copy(grad.q + (chunk.at[t] * call.heads + h) * K, dq + t * Kp, K);
      copy(grad.k + (chunk.at[t] * call.heads + h) * K, dk + t * Kp, K);
      copy(grad.v + (chunk.at[t] * call.heads + h) * V, dv + t * Vp, V);
    }
  }

  // Back through the blocks: gradients of c (added), of u, and of the weights.
  void to_channels() {
    for (int64_t c = 0; c < Kp; c += W) {
      const int64_t lanes = K - c;
      vec w[3][TURNS], of_weight[3][TURNS] = {}, of_bias[3] = {};
      for (int i = 0; i < 3; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TURNS; j++) w[i][j] = load(chunk.weight + (i * TURNS + j) * Kp + c);
      for (int64_t t = 0; t < chunk.steps; t++) {
        const vec a = load(dq + t * Kp + c), b = load(dk + t * Kp + c), d = load(dv + t * Vp + c);
        float *dc = chunk.value_row(grad.q, t) + c, *du = chunk.value_row(grad.v, t) + c;
        const vec from_c = w[0][0] * a + w[1][0] * b + turn<1>(w[0][3] * a + w[1][3] * b) + turn<2>(w[0][2] * a + w[1][2] * b) +
                           turn<3>(w[0][1] * a + w[1][1] * b);
        store_part(dc, load_part(dc, lanes) + from_c, lanes);
        store_part(du, w[2][0] * d + turn<1>(w[2][3] * d) + turn<2>(w[2][2] * d) + turn<3>(w[2][1] * d), lanes);
      }
      for (int64_t t = 0; t < chunk.steps; t++) {
        const vec x = load_part(chunk.value_row(call.q, t) + c, lanes), u = load_part(chunk.value_row(call.v, t) + c, lanes);
        const vec d[3] = {load(dq + t * Kp + c), load(dk + t * Kp + c), load(dv + t * Vp + c)};
        const vec turns[2][TURNS] = {{x, turn<1>(x), turn<2>(x), turn<3>(x)}, {u, turn<1>(u), turn<2>(u), turn<3>(u)}};
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) {
          of_bias[i] += d[i];
#pragma GCC unroll 4
          for (int j = 0; j < TURNS; j++) of_weight[i][j] += d[i] * turns[i == 2][j];
        }
      }
      for (int i = 0; i < 3; i++) {
        float* to = sums + (3 * TURNS + i) * Kp + c;
        store(to, load(to) + of_bias[i]);
        for (int j = 0; j < TURNS; j++) {
          to = sums + (i * TURNS + j) * Kp + c;
          store(to, load(to) + of_weight[i][j]);
        }
      }
    }
  }

  // G, dn ← gradients of the memory before the chunk.
  void to_state_before() {
    Chunk::scale_rows(chunk.q_now, chunk.q, chunk.now, Kp, chunk.rows);
    const float decay = behind ? chunk.total : 0;
    gemm(G, Vp, decay, chunk.q_now, 1, Kp, dO, Vp, Kp, Vp, chunk.rows);
    for (int64_t c = 0; c < Kp; c += W) {
      vec total = behind ? load(dn + c) * decay : vec{};
      for (int64_t t = 0; t < chunk.steps; t++) total += load(chunk.q_now + t * Kp + c) * dsum[t];
      store(dn + c, total);
    }
    behind = true;
  }
};

}  // namespace

// As in the forward. kept as it left it; last_C to last_m, the gradients of final states, may be null; dC, dn, dm are null without initial ones.
// With blocks dq and dv are the gradients of c and u, and dk is null; dz, y and sums [S, 3 TURNS + 6, H K] are null without.
EXPORT void mlstm_backward(const float* q, const float* k, const float* v, const float* gates, const int64_t* order, const float* weight,
                           const float* bias, const float* gain, const float* shift, const float* skip, const float* z, const float* C,
                           const float* n, const float* m, const int64_t* starts, const float* kept, const float* dy, const float* last_C,
                           const float* last_n, const float* last_m, float* dq, float* dk, float* dv, float* dgates, float* dC, float* dn,
                           float* dm, float* dz, float* y, float* sums, double scale, double eps, double norm_eps, int64_t sequences,
                           int64_t heads, int64_t keys, int64_t values, int64_t period, int64_t keep, int64_t running, int64_t divide,
                           int64_t reverse, int64_t threads) {
  const Call call{{starts, sequences, reverse}, heads, keys, values, period, keep, running != 0, divide != 0, (float)scale, (float)eps,
                  (float)norm_eps, q, k, v, gates, order, weight, bias, gain, shift, skip, z, C, n, m};
  const Gradients grad{kept, dy, last_C, last_n, last_m, dq, dk, dv, dgates, dC, dn, dm, dz, y, sums};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < sequences * heads; i++) {
    Backward task(call, grad, i / heads, i % heads);
    task.whole_sequence();
  }
}
