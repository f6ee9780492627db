// Mamba's selective scan: h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = h_t . C_t. Lanes are channels; the states of a block of
// channels stay in registers. The backward recomputes the states of CHUNK steps from the state kept before them.
#include <algorithm>
#include "vector.h"

namespace {

constexpr int64_t CHUNK = 32, STATES = 16;  // steps between kept states; states handled at a time

// Geometry of one call. Sequence s is rows [starts[s], starts[s + 1]); channels of a group share B and C; a part is a run of channel vectors
// of one group that one thread walks together.
struct Shape {
  const int64_t* starts;
  int64_t sequences, channels, groups, states, reverse;
  int64_t width() const { return channels / groups; }                 // channels of a group
  int64_t vectors() const { return (width() + W - 1) / W; }           // of a group
  int64_t part() const { return std::max<int64_t>(64 / W, (vectors() + 7) / 8); }  // vectors of a part: never depends on threads
  int64_t parts() const { return (vectors() + part() - 1) / part(); }  // of a group
  int64_t slot(int64_t s) const { return starts[s] / CHUNK + s; }     // of the first kept state of a sequence
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
    length = shape.starts[s + 1] - shape.starts[s];
    row = shape.reverse ? shape.starts[s + 1] - 1 : shape.starts[s];  // of the first step
    step = shape.reverse ? -1 : 1;
  }
};

// A of a block of states, times log2(e), as [STATES][W]; states and channels that are not there are zero.
INLINE void load_A(const Shape& shape, const float* A, int64_t channel, int64_t lanes, int64_t n0, vec* a) {
  for (int64_t n = 0; n < STATES; n++) {
    alignas(64) float value[W] = {};
    if (n0 + n < shape.states)
      for (int64_t lane = 0; lane < lanes; lane++) value[lane] = A[(channel + lane) * shape.states + n0 + n] * LOG2E;
    a[n] = load(value);
  }
}

// B and C of a chunk as [steps][STATES], zero where there is no state.
INLINE void pack(const Shape& shape, const Task& task, const float* from, int64_t t0, int64_t steps, int64_t n0, float* to) {
  const int64_t width = std::min(STATES, shape.states - n0);
  for (int64_t k = 0; k < steps; k++) {
    const float* source = from + ((task.row + (t0 + k) * task.step) * shape.groups + task.g) * shape.states + n0;
    for (int64_t n = 0; n < STATES; n++) to[k * STATES + n] = n < width ? source[n] : 0.f;
  }
}

INLINE void load_state(const Shape& shape, const float* from, int64_t channel, int64_t lanes, int64_t n0, vec* h) {  // from [D, N]
  for (int64_t n = 0; n < STATES; n++) {
    alignas(64) float value[W] = {};
    if (n0 + n < shape.states)
      for (int64_t lane = 0; lane < lanes; lane++) value[lane] = from[(channel + lane) * shape.states + n0 + n];
    h[n] = load(value);
  }
}
INLINE void store_state(const Shape& shape, float* to, int64_t channel, int64_t lanes, int64_t n0, const vec* h) {
  for (int64_t n = 0; n < std::min(STATES, shape.states - n0); n++)
    for (int64_t lane = 0; lane < lanes; lane++) to[(channel + lane) * shape.states + n0 + n] = h[n][lane];
}

// One chunk of one channel vector and block of states: y += ..., states advance.
template <bool PLAIN>  // PLAIN: all lanes are channels, so rows can be read and written whole
INLINE void forward_chunk(const Task& task, int64_t stride, const float* u, const float* delta, const float* b, const float* c, const vec* a, vec* h,
                          float* y, int64_t t0, int64_t steps, int64_t lanes, bool add) {
  vec state[STATES];
  for (int64_t n = 0; n < STATES; n++) state[n] = h[n];
  for (int64_t k = 0; k < steps; k++) {
    const int64_t at = (task.row + (t0 + k) * task.step) * stride;
    const vec d = PLAIN ? load(delta + at) : load_part(delta + at, lanes);
    const vec x = d * (PLAIN ? load(u + at) : load_part(u + at, lanes));
    vec even{}, odd{};
#pragma GCC unroll 16
    for (int64_t n = 0; n < STATES; n += 2) {
      state[n] = exp2(d * a[n]) * state[n] + x * b[k * STATES + n];
      state[n + 1] = exp2(d * a[n + 1]) * state[n + 1] + x * b[k * STATES + n + 1];
      even += state[n] * c[k * STATES + n];
      odd += state[n + 1] * c[k * STATES + n + 1];
    }
    vec out = even + odd;
    if (add) out += PLAIN ? load(y + at) : load_part(y + at, lanes);
    if (PLAIN) store(y + at, out); else store_part(y + at, out, lanes);
  }
  for (int64_t n = 0; n < STATES; n++) h[n] = state[n];
}

void forward_task(const Shape& shape, const Task& task, const float* u, const float* delta, const float* A, const float* B, const float* C,
                  const float* initial, float* y, float* final, float* kept) {
  const int64_t count = task.last - task.first;
  Scratch scratch(2 * CHUNK * STATES + 2 * count * STATES * W + 64);
  float *b = scratch.take(CHUNK * STATES), *c = scratch.take(CHUNK * STATES);
  vec *a = (vec*)scratch.take(count * STATES * W), *h = (vec*)scratch.take(count * STATES * W);
  const int64_t base = task.g * shape.width();
  for (int64_t n0 = 0; n0 < shape.states; n0 += STATES) {
    const int64_t real = std::min(STATES, shape.states - n0);
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at);
      load_A(shape, A, base + at, lanes, n0, a + i * STATES);
      load_state(shape, initial + task.s * shape.channels * shape.states, base + at, lanes, n0, h + i * STATES);
    }
    for (int64_t t0 = 0; t0 < task.length; t0 += CHUNK) {
      const int64_t steps = std::min(CHUNK, task.length - t0);
      pack(shape, task, B, t0, steps, n0, b);
      pack(shape, task, C, t0, steps, n0, c);
      for (int64_t i = 0; i < count; i++) {
        const int64_t vector = task.first + i, at = base + vector * W, lanes = std::min(W, shape.width() - vector * W);
        if (kept) {
          float* to = kept + ((shape.slot(task.s) + t0 / CHUNK) * shape.states + n0) * shape.channels + at;
          for (int64_t n = 0; n < real; n++) store_part(to + n * shape.channels, h[i * STATES + n], lanes);
        }
        auto run = lanes == W ? forward_chunk<true> : forward_chunk<false>;
        run(task, shape.channels, u + at, delta + at, b, c, a + i * STATES, h + i * STATES, y + at, t0, steps, lanes, n0 > 0);
      }
    }
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at);
      store_state(shape, final + task.s * shape.channels * shape.states, base + at, lanes, n0, h + i * STATES);
    }
  }
}

// Where the gradients go. dA: [sequences, D, N], summed over sequences by the caller; dB, dC: [parts, rows, G, N], summed over parts.
struct Gradients {
  float *u, *delta, *A, *B, *C, *initial;
};

void backward_task(const Shape& shape, const Task& task, const float* u, const float* delta, const float* A, const float* B, const float* C,
                   const float* kept, const float* dy, const float* dfinal, const Gradients& grad) {
  const int64_t count = task.last - task.first, rows = shape.starts[shape.sequences];
  Scratch scratch((2 + 2 * W) * CHUNK * STATES + (3 * count + 2 * CHUNK + 1) * STATES * W + 256);
  float *b = scratch.take(CHUNK * STATES), *c = scratch.take(CHUNK * STATES);
  vec *sum_b = (vec*)scratch.take(CHUNK * STATES * W), *sum_c = (vec*)scratch.take(CHUNK * STATES * W);
  vec *a = (vec*)scratch.take(count * STATES * W), *carry = (vec*)scratch.take(count * STATES * W), *da = (vec*)scratch.take(count * STATES * W);
  vec *states = (vec*)scratch.take((CHUNK + 1) * STATES * W), *decays = (vec*)scratch.take(CHUNK * STATES * W);
  const int64_t base = task.g * shape.width();
  for (int64_t n0 = 0; n0 < shape.states; n0 += STATES) {
    const int64_t real = std::min(STATES, shape.states - n0);
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at);
      load_A(shape, A, base + at, lanes, n0, a + i * STATES);
      load_state(shape, dfinal + task.s * shape.channels * shape.states, base + at, lanes, n0, carry + i * STATES);
      for (int64_t n = 0; n < STATES; n++) da[i * STATES + n] = vec{};
    }
    for (int64_t chunk = (task.length + CHUNK - 1) / CHUNK - 1; chunk >= 0; chunk--) {
      const int64_t t0 = chunk * CHUNK, steps = std::min(CHUNK, task.length - t0);
      pack(shape, task, B, t0, steps, n0, b);
      pack(shape, task, C, t0, steps, n0, c);
      memset((void*)sum_b, 0, steps * STATES * sizeof(vec));
      memset((void*)sum_c, 0, steps * STATES * sizeof(vec));
      for (int64_t i = 0; i < count; i++) {
        const int64_t vector = task.first + i, at = base + vector * W, lanes = std::min(W, shape.width() - vector * W);
        const float* from = kept + ((shape.slot(task.s) + chunk) * shape.states + n0) * shape.channels + at;
        vec h[STATES];
        for (int64_t n = 0; n < STATES; n++) states[n] = h[n] = n < real ? load_part(from + n * shape.channels, lanes) : vec{};
        for (int64_t k = 0; k < steps; k++) {
          const int64_t place = (task.row + (t0 + k) * task.step) * shape.channels + at;
          const vec d = load_part(delta + place, lanes), x = d * load_part(u + place, lanes);
#pragma GCC unroll 16
          for (int64_t n = 0; n < STATES; n++) {
            const vec e = exp2(d * a[i * STATES + n]);
            h[n] = e * h[n] + x * b[k * STATES + n];
            decays[k * STATES + n] = e;
            states[(k + 1) * STATES + n] = h[n];
          }
        }
        vec dh[STATES];
        for (int64_t n = 0; n < STATES; n++) dh[n] = carry[i * STATES + n];
        for (int64_t k = steps - 1; k >= 0; k--) {
          const int64_t place = (task.row + (t0 + k) * task.step) * shape.channels + at;
          const vec d = load_part(delta + place, lanes), uu = load_part(u + place, lanes), g = load_part(dy + place, lanes), x = d * uu;
          vec dx{}, dexponent{};
#pragma GCC unroll 16
          for (int64_t n = 0; n < STATES; n++) {
            sum_c[k * STATES + n] += states[(k + 1) * STATES + n] * g;
            const vec q = dh[n] + g * c[k * STATES + n];
            sum_b[k * STATES + n] += q * x;
            dx += q * b[k * STATES + n];
            dh[n] = q * decays[k * STATES + n];
            const vec w = dh[n] * states[k * STATES + n];  // d loss / d (delta A)
            dexponent += w * a[i * STATES + n];
            da[i * STATES + n] += w * d;
          }
          vec du = dx * d, ddelta = dx * uu + dexponent * LN2;
          if (n0 > 0) {
            du += load_part(grad.u + place, lanes);
            ddelta += load_part(grad.delta + place, lanes);
          }
          store_part(grad.u + place, du, lanes);
          store_part(grad.delta + place, ddelta, lanes);
        }
        for (int64_t n = 0; n < STATES; n++) carry[i * STATES + n] = dh[n];
      }
      for (int64_t k = 0; k < steps; k++) {
        const int64_t to = ((task.p * rows + task.row + (t0 + k) * task.step) * shape.groups + task.g) * shape.states + n0;
        for (int64_t n = 0; n < real; n++) {
          grad.B[to + n] = sum(sum_b[k * STATES + n]);
          grad.C[to + n] = sum(sum_c[k * STATES + n]);
        }
      }
    }
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = (task.first + i) * W, lanes = std::min(W, shape.width() - at), state = task.s * shape.channels * shape.states;
      store_state(shape, grad.initial + state, base + at, lanes, n0, carry + i * STATES);
      store_state(shape, grad.A + state, base + at, lanes, n0, da + i * STATES);
    }
  }
}

}  // namespace

EXPORT int64_t selective_scan_parts(int64_t channels, int64_t groups) { return Shape{nullptr, 0, channels, groups, 0, 0}.parts(); }

// u, delta, y [rows, D]; A [D, N]; B, C [rows, G, N]; initial, final [S, D, N]; kept [rows / CHUNK + S, N, D] or null
EXPORT void selective_scan_forward(const float* u, const float* delta, const float* A, const float* B, const float* C, const float* initial,
                                   const int64_t* starts, float* y, float* final, float* kept, int64_t sequences, int64_t channels, int64_t groups,
                                   int64_t states, int64_t reverse, int64_t threads) {
  const Shape shape{starts, sequences, channels, groups, states, reverse};
  const int64_t tasks = sequences * groups * shape.parts();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks; i++) forward_task(shape, Task(shape, i), u, delta, A, B, C, initial, y, final, kept);
}

EXPORT void selective_scan_backward(const float* u, const float* delta, const float* A, const float* B, const float* C, const float* kept,
                                    const float* dy, const float* dfinal, const int64_t* starts, float* du, float* ddelta, float* dA, float* dB,
                                    float* dC, float* dinitial, int64_t sequences, int64_t channels, int64_t groups, int64_t states,
                                    int64_t reverse, int64_t threads) {
  const Shape shape{starts, sequences, channels, groups, states, reverse};
  const Gradients grad{du, ddelta, dA, dB, dC, dinitial};
  const int64_t tasks = sequences * groups * shape.parts();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks; i++) backward_task(shape, Task(shape, i), u, delta, A, B, C, kept, dy, dfinal, grad);
}
