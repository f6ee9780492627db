// mLSTM, from the first chunk of a sequence to the last; a task is a head of a sequence. See mlstm.h.
#include "mlstm.h"

namespace {

struct Outputs {
  float *y, *C, *n, *m, *kept;  // C, n, m: states behind the last step, or null; kept [rows / keep, H, state_size] or null
};

// Rows of h_out, or with a gain  ((norm(h) gain + shift) + skip c) z sigma(z).
void write(const Call& call, const Chunk& chunk, float* y) {
  const int64_t V = chunk.V, first = chunk.h * V;
  for (int64_t t = 0; t < chunk.steps; t++) {
    const float* h = chunk.h_out + t * chunk.Vp;
    float* to = chunk.value_row(y, t);
    if (!call.gain) {
      copy(to, h, V);
      continue;
    }
    const Moments moments(h, V, call.norm_eps);
    const float *c = chunk.value_row(call.q, t), *z = chunk.value_row(call.z, t);
    for (int64_t i = 0; i < V; i += W) {
      const int64_t lanes = V - i;
      vec value = (load(h + i) - moments.mean) * moments.inverse * load_part(call.gain + first + i, lanes);
      if (call.shift) value += load_part(call.shift + first + i, lanes);
      value += load_part(call.skip + first + i, lanes) * load_part(c + i, lanes);
      const vec gate = load_part(z + i, lanes);
      store_part(to + i, value * (gate * sigmoid(gate)), lanes);
    }
  }
}

void store_state(const Call& call, const State& state, float* C, float* n, float* m) {
  copy_rows(C, call.values, state.S, call.padded_values(), call.keys, call.values);
  copy(n, state.n, call.keys);
  if (m) *m = state.m;
}

void forward_task(const Call& call, int64_t s, int64_t h, const Outputs& out) {
  const int64_t Kp = call.padded_keys(), Vp = call.padded_values(), size = call.state_size(), length = call.length(s), K = call.keys;
  Scratch scratch(Kp * Vp + Kp + Chunk::size(call));
  float* memory = scratch.take(Kp * Vp + Kp + Chunk::size(call));
  State state{memory, memory + Kp * Vp, 0, true};
  initial_state(call, state, s, h);
  Chunk chunk(call, s, h, memory + Kp * Vp + Kp);
  for (int64_t t0 = 0; t0 < length; t0 += LENGTH) {
    if (out.kept && t0 && t0 % call.keep == 0) {
      float* to = out.kept + (call.slot(s, t0) * call.heads + h) * size;
      store_state(call, state, to, to + K * call.values, to + size - 1);
    }
    chunk.load(t0, state.m);
    chunk.attend(state);
    write(call, chunk, out.y);
    if (out.C || t0 + LENGTH < length) chunk.advance(state, state);
  }
  const int64_t at = s * call.heads + h;
  if (out.C) store_state(call, state, out.C + at * K * call.values, out.n + at * K, out.m ? out.m + at : nullptr);
  if (!out.kept) return;
  const int64_t used = call.starts[s] / call.keep + (length ? (length - 1) / call.keep : 0);
  for (int64_t slot = used; slot < call.starts[s + 1] / call.keep; slot++)  // slots that no sequence needs
    memset(out.kept + (slot * call.heads + h) * size, 0, size * sizeof(float));
}

}  // namespace

// q, k [rows, H, K]; v, y, z [rows, H, V]; gates [rows, 2 H]; everything else as in mlstm.h. C, n, m and order, weight to z, kept may be null.
EXPORT void mlstm_forward(const float* q, const float* k, const float* v, const float* gates, const int64_t* order, const float* weight,
                          const float* bias, const float* gain, const float* shift, const float* skip, const float* z, const float* C,
                          const float* n, const float* m, const int64_t* starts, float* y, float* last_C, float* last_n, float* last_m,
                          float* kept, double scale, double eps, double norm_eps, int64_t sequences, int64_t heads, int64_t keys,
                          int64_t values, int64_t period, int64_t keep, int64_t running, int64_t divide, int64_t reverse, int64_t threads) {
  const Call call{{starts, sequences, reverse}, heads, keys, values, period, keep, running != 0, divide != 0, (float)scale, (float)eps,
                  (float)norm_eps, q, k, v, gates, order, weight, bias, gain, shift, skip, z, C, n, m};
  const Outputs out{y, last_C, last_n, last_m, kept};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < sequences * heads; i++) forward_task(call, i / heads, i % heads, out);
}
