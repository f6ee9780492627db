// Delta rules in blocks of N steps. With S the state before a block, everything inside it is linear in S: all reads of S are done in one
// pass, small triangular sums add what the block itself has written, and one more pass writes. Decays only enter as products over
// stretches of steps from a write to a read, so nothing is divided.
//   delta rule:    S <- d S, then S <- S + k x^T with x = beta (v - S^T k), then o = q^T S (after the last step of a token)
//   general form:  x = S^T a, then S <- d S + b x^T + k v^T, then o = q^T S
#pragma once
#include "delta_tiles.h"
#include "sequences.h"

namespace {

constexpr int N = 4;            // steps of a block
constexpr int64_t CHUNK = 64;   // steps between the states that the forward keeps
constexpr int64_t BLOCKS = CHUNK / N;

// One call. A row of q, o and log_decay is a token, of the others a step; sequences are counted in tokens.
struct Call : Sequences {
  const float *q, *k, *v, *beta, *a, *b, *log_decay;
  int64_t heads, key, value, steps, decays;  // decays: 0 none, 1 per head, 2 per key channel
  float scale;
  int64_t key_vectors() const { return (key + W - 1) / W; }
  int64_t value_vectors() const { return (value + W - 1) / W; }
  // the state before step n
  int64_t kept(int64_t s, int64_t h, int64_t n) const { return ((starts[s] * steps / CHUNK + s + n / CHUNK) * heads + h) * key * value; }
};

// Where the numbers of step j against write l of a block stand: what a reads of it (l < j), and q (l <= j); `per` writes per step.
constexpr int by_a(int j, int l, int per) { return (j * j + l) * per; }
constexpr int by_q(int j, int l, int per) { return (j * j + j + l) * per; }

template <bool GENERAL>
struct Block {
  static constexpr int PER = GENERAL ? 2 : 1, WRITES = N * PER;  // writes of a step, of the block
  int64_t count, outputs;                  // steps that are there, outputs among them
  int64_t token[N], step[N], output[N];    // rows; output: which of the outputs, or -1
  bool begins[N];                          // the first step of its token, where the decay is
  float beta[N];
  alignas(64) float pairs[N * N * PER];    // reads of the block's own writes
  // [2N, keys] a's rows, then those of the outputs; [WRITES, keys] until the block's end; [N, keys]; [keys]
  float *reads, *writes, *decays, *total;

  static int64_t size(const Call& call) { return (2 * N + WRITES + N + 1) * call.key_vectors() * W; }
  void place(const Call& call, float* memory) {
    const int64_t keys = call.key_vectors() * W;
    reads = memory;
    writes = reads + 2 * N * keys;
    decays = writes + WRITES * keys;
    total = decays + N * keys;
  }
  int64_t there(int j, int64_t lanes) const { return j < count ? lanes : 0; }
  void find(const Call& call, int64_t s, int64_t n, int64_t length);
  void prepare(const Call& call, int64_t h);
};

// Rows of one head lie far apart, which hardware does not foresee.
template <int LEVEL>
INLINE void prefetch(const float* row, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(row + i, 0, LEVEL == 1 ? 3 : 2);
}
INLINE void prefetch_to_write(const float* row, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(row + i, 1, 2);
}
template <bool GENERAL, int LEVEL>  // inlined: GCC drops calls of functions that do nothing else
INLINE void prefetch_steps(const Call& call, const Block<GENERAL>& block, int64_t h) {
  for (int64_t j = 0; j < block.count; j++) {
    const int64_t head = block.token[j] * call.heads + h, row = block.step[j] * call.heads + h;
    prefetch<LEVEL>(call.k + row * call.key, call.key);
    prefetch<LEVEL>(call.v + row * call.value, call.value);
    if (block.output[j] >= 0) prefetch<LEVEL>(call.q + head * call.key, call.key);
    if (call.decays == 2) prefetch<LEVEL>(call.log_decay + head * call.key, call.key);
    if (GENERAL) {
      prefetch<LEVEL>(call.a + row * call.key, call.key);
      prefetch<LEVEL>(call.b + row * call.key, call.key);
    }
  }
}

// The rows of the steps n, n + 1, ... of a sequence that has `length` of them.
template <bool GENERAL>
void Block<GENERAL>::find(const Call& call, int64_t s, int64_t n, int64_t length) {
  count = std::min<int64_t>(N, length - n);
  outputs = 0;
  int64_t t = n / call.steps, inside = n % call.steps;
  for (int j = 0; j < N; j++) {
    token[j] = call.row(s, t);
    step[j] = token[j] * call.steps + inside;
    begins[j] = inside == 0;
    output[j] = j < count && inside == call.steps - 1 ? outputs++ : -1;
    if (++inside == call.steps) inside = 0, t++;
  }
}

template <bool GENERAL>
void Block<GENERAL>::prepare(const Call& call, int64_t h) {
  const int64_t keys = call.key_vectors() * W;
  for (int j = 0; j < N; j++) beta[j] = !GENERAL && j < count ? call.beta[step[j] * call.heads + h] : 0.f;
  vec dots[N * N * PER];
#pragma GCC unroll 32
  for (int i = 0; i < N * N * PER; i++) dots[i] = vec{};
  for (int64_t c = 0; c < keys; c += W) {
    const int64_t lanes = call.key - c;
    vec all = fill(1.f), w[WRITES];
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) {
      const int64_t row = (step[j] * call.heads + h) * call.key + c;
      if (GENERAL) {
        const vec a = load_part(call.a + row, there(j, lanes));
        store(reads + j * keys + c, a * all);
#pragma GCC unroll 8
        for (int l = 0; l < j * PER; l++) dots[by_a(j, 0, PER) + l] += a * w[l];
      }
      if (call.decays && begins[j] && j < count) {
        const int64_t place = token[j] * call.heads + h;
        const vec log = call.decays == 1 ? fill(call.log_decay[place]) : load_part(call.log_decay + place * call.key + c, lanes);
        const vec d = exp(log);
        store(decays + j * keys + c, d);
        all *= d;
#pragma GCC unroll 8
        for (int l = 0; l < j * PER; l++) w[l] *= d;
      } else {
        store(decays + j * keys + c, fill(1.f));
      }
      const vec k = load_part(call.k + row, there(j, lanes));
      if (GENERAL) {
        w[j * PER] = load_part(call.b + row, there(j, lanes));
      } else {
        store(reads + j * keys + c, k * all);
#pragma GCC unroll 8
        for (int l = 0; l < j * PER; l++) dots[by_a(j, 0, PER) + l] += k * w[l];
      }
      w[j * PER + PER - 1] = k;
      if (output[j] >= 0) {
        const vec q = load_part(call.q + (token[j] * call.heads + h) * call.key + c, lanes) * call.scale;
        store(reads + (N + output[j]) * keys + c, q * all);
#pragma GCC unroll 8
        for (int l = 0; l < (j + 1) * PER; l++) dots[by_q(j, 0, PER) + l] += q * w[l];
      }
    }
#pragma GCC unroll 8
    for (int l = 0; l < WRITES; l++) store(writes + l * keys + c, w[l]);
    store(total + c, all);
  }
  store_sums<N * N * PER>(dots, pairs);
}

// read_panel and write_panel for N + outputs rows.
template <int P>
INLINE void read_rows(int64_t outputs, const float* panel, int64_t rows, const float* coefficient, int64_t stride, vec* out) {
  switch (outputs) {
    case 0: return read_panel<N, P>(panel, rows, coefficient, stride, out);
    case 1: return read_panel<N + 1, P>(panel, rows, coefficient, stride, out);
    case 2: return read_panel<N + 2, P>(panel, rows, coefficient, stride, out);
    case 3: return read_panel<N + 3, P>(panel, rows, coefficient, stride, out);
    default: return read_panel<N + 4, P>(panel, rows, coefficient, stride, out);
  }
}
template <int P, Scaling SCALING>
INLINE void write_rows(int64_t outputs, float* panel, int64_t rows, const float* coefficient, int64_t stride, const vec* value,
                       const float* factors) {
  switch (outputs) {
    case 0: return write_panel<N, P, SCALING>(panel, panel, rows, coefficient, stride, value, factors);
    case 1: return write_panel<N + 1, P, SCALING>(panel, panel, rows, coefficient, stride, value, factors);
    case 2: return write_panel<N + 2, P, SCALING>(panel, panel, rows, coefficient, stride, value, factors);
    case 3: return write_panel<N + 3, P, SCALING>(panel, panel, rows, coefficient, stride, value, factors);
    default: return write_panel<N + 4, P, SCALING>(panel, panel, rows, coefficient, stride, value, factors);
  }
}

}  // namespace
