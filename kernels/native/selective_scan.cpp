// Mamba's selective scan: h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = h_t . C_t. Lanes are channels; the states of a block of
// channels stay in registers. The backward recomputes the states of CHUNK steps from the state kept before them.
#include <algorithm>
#include "lanes.h"
#include "sequences.h"

namespace {

constexpr int64_t CHUNK = 32;  // steps between kept states

// Geometry of one call. Channels of a group share B and C; a part is a run of channel vectors of one group that one thread walks together.
struct Shape : Sequences {
  int64_t channels, groups, states;
  int64_t width() const { return channels / groups; }                 // channels of a group
  int64_t vectors() const { return (width() + W - 1) / W; }           // of a group
  int64_t part() const { return std::max<int64_t>(64 / W, (vectors() + 7) / 8); }  // vectors of a part: never depends on threads
  int64_t parts() const { return (vectors() + part() - 1) / part(); }  // of a group
};

// One thread's share: a sequence, a group, and the channel vectors [first, last) of it.
struct Task {
  int64_t s, g, p, first, last, length, row, step;
  Task(const Shape& shape, int64_t task) {
    p = task % shape.parts();
    g = task / shape.parts() % shape.groups;
    s = task / shape.parts() / shape.groups;
    first = p * shape.part();
    last = std::min(first + shape.part(), shape.vectors());
    length = shape.length(s);
    row = shape.row(s, 0);
    step = shape.step();
  }
};

// Everything below handles N states at a time: 16 forward, 8 backward (whose buffers then fit into the first-level cache), fewer when
// there are fewer.

// A of a block of states, times log2(e), as [N][W]; states and channels that are not there are zero.
template <int64_t N>
INLINE void load_A(const Shape& shape, const float* A, int64_t channel, int64_t lanes, int64_t n0, vec* a) {
  for (int64_t n = 0; n < N; n++) {
    alignas(64) float value[W] = {};
    if (n0 + n < shape.states)
      for (int64_t lane = 0; lane < lanes; lane++) value[lane] = A[(channel + lane) * shape.states + n0 + n] * LOG2E;
    a[n] = load(value);
  }
}

// B and C of a chunk as [steps][N], zero where there is no state.
template <int64_t N>
INLINE void pack(const Shape& shape, const Task& task, const float* from, int64_t t0, int64_t steps, int64_t n0, float* to) {
  const int64_t width = std::min(N, shape.states - n0);
  for (int64_t k = 0; k < steps; k++) {
    const float* source = from + ((task.row + (t0 + k) * task.step) * shape.groups + task.g) * shape.states + n0;
    for (int64_t n = 0; n < N; n++) to[k * N + n] = n < width ? source[n] : 0.f;
  }
}

template <int64_t N>
INLINE void load_state(const Shape& shape, const float* from, int64_t channel, int64_t lanes, int64_t n0, vec* h) {  // from [D, states]
  for (int64_t n = 0; n < N; n++) {
    alignas(64) float value[W] = {};
    if (n0 + n < shape.states)
      for (int64_t lane = 0; lane < lanes; lane++) value[lane] = from[(channel + lane) * shape.states + n0 + n];
    h[n] = load(value);
  }
}
template <int64_t N>
INLINE void store_state(const Shape& shape, float* to, int64_t channel, int64_t lanes, int64_t n0, const vec* h) {
  for (int64_t n = 0; n < std::min(N, shape.states - n0); n++)
    for (int64_t lane = 0; lane < lanes; lane++) to[(channel + lane) * shape.states + n0 + n] = h[n][lane];
}

// Rows of one channel vector. PLAIN: all lanes are channels, so rows can be read and written whole.
template <bool PLAIN>
struct Rows {
  int64_t first, stride, lanes;  // place of the chunk's first step, distance of steps
  INLINE int64_t at(int64_t k) const { return first + k * stride; }
  INLINE vec read(const float* p, int64_t place) const { return PLAIN ? load(p + place) : load_part(p + place, lanes); }
  INLINE void write(float* p, int64_t place, vec v) const {
    if (PLAIN) store(p + place, v); else store_part(p + place, v, lanes);
  }
};

// One chunk of one channel vector and block of states: y += ..., states advance.
template <bool PLAIN, int64_t N>
INLINE void forward_chunk(const Rows<PLAIN>& rows, int64_t steps, const float* u, const float* delta, const float* b, const float* c, const vec* a,
                          vec* h, float* y, bool add) {
  vec state[N];
  for (int64_t n = 0; n < N; n++) state[n] = h[n];
  for (int64_t k = 0; k < steps; k++) {
    const int64_t at = rows.at(k);
    const vec d = rows.read(delta, at), x = d * rows.read(u, at);
    vec even{}, odd{};
#pragma GCC unroll 16
    for (int64_t n = 0; n < N; n += 2) {
      state[n] = exp2(d * a[n]) * state[n] + x * b[k * N + n];
      state[n + 1] = exp2(d * a[n + 1]) * state[n + 1] + x * b[k * N + n + 1];
      even += state[n] * c[k * N + n];
      odd += state[n + 1] * c[k * N + n + 1];
    }
    vec out = even + odd;
    if (add) out += rows.read(y, at);
    rows.write(y, at, out);
  }
  for (int64_t n = 0; n < N; n++) h[n] = state[n];
}

template <int64_t N>
void forward_task(const Shape& shape, const Task& task, const float* u, const float* delta, const float* A, const float* B, const float* C,
                  const float* initial, float* y, float* final, float* kept) {
  const int64_t count = task.last - task.first, base = task.g * shape.width(), state = task.s * shape.channels * shape.states;
  Scratch scratch(2 * CHUNK * N + 2 * count * N * W + 64);
  float *b = scratch.take(CHUNK * N), *c = scratch.take(CHUNK * N);
  vec *a = (vec*)scratch.take(count * N * W), *h = (vec*)scratch.take(count * N * W);
  for (int64_t n0 = 0; n0 < shape.states; n0 += N) {
    const int64_t real = std::min(N, shape.states - n0);
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at);
      load_A<N>(shape, A, base + at, lanes, n0, a + i * N);
      load_state<N>(shape, initial + state, base + at, lanes, n0, h + i * N);
    }
    for (int64_t t0 = 0; t0 < task.length; t0 += CHUNK) {
      const int64_t steps = std::min(CHUNK, task.length - t0);
      pack<N>(shape, task, B, t0, steps, n0, b);
      pack<N>(shape, task, C, t0, steps, n0, c);
      for (int64_t i = 0; i < count; i++) {
        const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at);
        if (kept) {
          float* to = kept + (shape.slot(task.s, t0, CHUNK) * shape.states + n0) * shape.channels + base + at;
          for (int64_t n = 0; n < real; n++) store_part(to + n * shape.channels, h[i * N + n], lanes);
        }
        const int64_t first = (task.row + t0 * task.step) * shape.channels + base + at, stride = task.step * shape.channels;
        if (lanes == W)
          forward_chunk<true, N>({first, stride, W}, steps, u, delta, b, c, a + i * N, h + i * N, y, n0 > 0);
        else
          forward_chunk<false, N>({first, stride, lanes}, steps, u, delta, b, c, a + i * N, h + i * N, y, n0 > 0);
      }
    }
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at);
      store_state<N>(shape, final + state, base + at, lanes, n0, h + i * N);
    }
  }
}

// Where the gradients go. dA: [sequences, D, states], summed over sequences by the caller; dB, dC: [parts, rows, G, states], summed over parts.
struct Gradients {
  float *u, *delta, *A, *B, *C, *initial;
};

// What the backward of one chunk works on. states: [CHUNK + 1][N], decays: [CHUNK][N]; sums: [CHUNK][2 N], the terms of dB and dC lane by lane.
struct Chunk {
  int64_t steps;
  const float *u, *delta, *dy, *b, *c;
  vec *states, *decays, *sums;
};

// The states of a chunk, from the one in states[0 .. N).
template <bool PLAIN, int64_t N>
INLINE void recompute(const Rows<PLAIN>& rows, const Chunk& chunk, const vec* a) {
  vec h[N];
  for (int64_t n = 0; n < N; n++) h[n] = chunk.states[n];
  for (int64_t k = 0; k < chunk.steps; k++) {
    const vec d = rows.read(chunk.delta, rows.at(k)), x = d * rows.read(chunk.u, rows.at(k));
#pragma GCC unroll 8
    for (int64_t n = 0; n < N; n++) {
      const vec e = exp2(d * a[n]);
      h[n] = e * h[n] + x * chunk.b[k * N + n];
      chunk.decays[k * N + n] = e;
      chunk.states[(k + 1) * N + n] = h[n];
    }
  }
}

// Back through a chunk of one channel vector: carry is the gradient of the state after it, then of the state before it.
template <bool PLAIN, int64_t N>
INLINE void backward_chunk(const Rows<PLAIN>& rows, const Chunk& chunk, const vec* a, vec* carry, vec* dA, const Gradients& grad, bool add) {
  recompute<PLAIN, N>(rows, chunk, a);
  vec dh[N], da[N];
  for (int64_t n = 0; n < N; n++) dh[n] = carry[n], da[n] = dA[n];
  for (int64_t k = chunk.steps - 1; k >= 0; k--) {
    const int64_t at = rows.at(k);
    const vec d = rows.read(chunk.delta, at), u = rows.read(chunk.u, at), g = rows.read(chunk.dy, at), x = d * u;
    vec dx{}, dexponent{}, *sum_b = chunk.sums + 2 * k * N, *sum_c = sum_b + N;
#pragma GCC unroll 8
    for (int64_t n = 0; n < N; n++) {
      sum_c[n] += chunk.states[(k + 1) * N + n] * g;
      const vec q = dh[n] + g * chunk.c[k * N + n];
      sum_b[n] += q * x;
      dx += q * chunk.b[k * N + n];
      dh[n] = q * chunk.decays[k * N + n];
      const vec w = dh[n] * chunk.states[k * N + n];  // d loss / d (delta A)
      dexponent += w * a[n];
      da[n] += w * d;
    }
    vec du = dx * d, ddelta = dx * u + dexponent * LN2;
    if (add) {
      du += rows.read(grad.u, at);
      ddelta += rows.read(grad.delta, at);
    }
    rows.write(grad.u, at, du);
    rows.write(grad.delta, at, ddelta);
  }
  for (int64_t n = 0; n < N; n++) carry[n] = dh[n], dA[n] = da[n];
}

// dB and dC of a chunk and block of states, summed over lanes.
template <int64_t N>
INLINE void store_sums_of_chunk(const Shape& shape, const Task& task, const Chunk& chunk, int64_t t0, int64_t n0, const Gradients& grad) {
  const int64_t rows = shape.total(), real = std::min(N, shape.states - n0);
  for (int64_t k = 0; k < chunk.steps; k++) {
    const int64_t to = ((task.p * rows + task.row + (t0 + k) * task.step) * shape.groups + task.g) * shape.states + n0;
    alignas(64) float summed[2 * N + W];
    store_sums<2 * N>(chunk.sums + 2 * k * N, summed);
    for (int64_t n = 0; n < real; n++) {
      grad.B[to + n] = summed[n];
      grad.C[to + n] = summed[N + n];
    }
  }
}

template <int64_t N>
void backward_task(const Shape& shape, const Task& task, const float* u, const float* delta, const float* A, const float* B, const float* C,
                   const float* kept, const float* dy, const float* dfinal, const Gradients& grad) {
  const int64_t count = task.last - task.first, base = task.g * shape.width(), state = task.s * shape.channels * shape.states;
  Scratch scratch(2 * CHUNK * N + (3 * count + 4 * CHUNK + 1) * N * W + 128);
  float *b = scratch.take(CHUNK * N), *c = scratch.take(CHUNK * N);
  vec *a = (vec*)scratch.take(count * N * W), *carry = (vec*)scratch.take(count * N * W), *da = (vec*)scratch.take(count * N * W);
  vec *states = (vec*)scratch.take((CHUNK + 1) * N * W), *decays = (vec*)scratch.take(CHUNK * N * W), *sums = (vec*)scratch.take(2 * CHUNK * N * W);
  for (int64_t n0 = 0; n0 < shape.states; n0 += N) {
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at);
      load_A<N>(shape, A, base + at, lanes, n0, a + i * N);
      load_state<N>(shape, dfinal + state, base + at, lanes, n0, carry + i * N);
      for (int64_t n = 0; n < N; n++) da[i * N + n] = vec{};
    }
    for (int64_t t0 = (task.length - 1) / CHUNK * CHUNK; t0 >= 0 && task.length; t0 -= CHUNK) {
      const Chunk chunk{std::min(CHUNK, task.length - t0), u, delta, dy, b, c, states, decays, sums};
      pack<N>(shape, task, B, t0, chunk.steps, n0, b);
      pack<N>(shape, task, C, t0, chunk.steps, n0, c);
      memset((void*)sums, 0, 2 * chunk.steps * N * sizeof(vec));
      for (int64_t i = 0; i < count; i++) {
        const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at);
        const float* from = kept + (shape.slot(task.s, t0, CHUNK) * shape.states + n0) * shape.channels + base + at;
        for (int64_t n = 0; n < N; n++) states[n] = n0 + n < shape.states ? load_part(from + n * shape.channels, lanes) : vec{};
        const int64_t first = (task.row + t0 * task.step) * shape.channels + base + at, stride = task.step * shape.channels;
        if (lanes == W)
          backward_chunk<true, N>({first, stride, W}, chunk, a + i * N, carry + i * N, da + i * N, grad, n0 > 0);
        else
          backward_chunk<false, N>({first, stride, lanes}, chunk, a + i * N, carry + i * N, da + i * N, grad, n0 > 0);
      }
      store_sums_of_chunk<N>(shape, task, chunk, t0, n0, grad);
    }
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at);
      store_state<N>(shape, grad.initial + state, base + at, lanes, n0, carry + i * N);
      store_state<N>(shape, grad.A + state, base + at, lanes, n0, da + i * N);
    }
  }
}

}  // namespace

EXPORT int64_t selective_scan_parts(int64_t channels, int64_t groups) { return Shape{{}, channels, groups, 0}.parts(); }

// u, delta, y [rows, D]; A [D, N]; B, C [rows, G, N]; initial, final [S, D, N]; kept [rows / CHUNK + S, N, D] or null
EXPORT void selective_scan_forward(const float* u, const float* delta, const float* A, const float* B, const float* C, const float* initial,
                                   const int64_t* starts, float* y, float* final, float* kept, int64_t sequences, int64_t channels, int64_t groups,
                                   int64_t states, int64_t reverse, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, channels, groups, states};
  const int64_t tasks = sequences * groups * shape.parts();
  const auto run = states > 8 ? forward_task<16> : states > 4 ? forward_task<8> : forward_task<4>;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks; i++) run(shape, Task(shape, i), u, delta, A, B, C, initial, y, final, kept);
  if (kept) shape.clear_unused_slots(kept, CHUNK, states * channels);
}

EXPORT void selective_scan_backward(const float* u, const float* delta, const float* A, const float* B, const float* C, const float* kept,
                                    const float* dy, const float* dfinal, const int64_t* starts, float* du, float* ddelta, float* dA, float* dB,
                                    float* dC, float* dinitial, int64_t sequences, int64_t channels, int64_t groups, int64_t states,
                                    int64_t reverse, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, channels, groups, states};
  const Gradients grad{du, ddelta, dA, dB, dC, dinitial};
  const int64_t tasks = sequences * groups * shape.parts();
  const auto run = states > 4 ? backward_task<8> : backward_task<4>;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks; i++) run(shape, Task(shape, i), u, delta, A, B, C, kept, dy, dfinal, grad);
}
