// What the forward and the backward of gated linear recurrences share: the geometry of a call, and the preparation of a chunk.
#pragma once
#include "tiles.h"

namespace {

constexpr int64_t KEEP = 64, PART = 64;  // steps between kept states; columns of v that one thread walks with (up to 1.5 times as many)

// Geometry of one call. Sequence s is rows [starts[s], starts[s + 1]). decays: numbers per step and head, 0, 1 or keys.
struct Shape {
  const int64_t* starts;
  int64_t sequences, heads, keys, values, decays, reverse;
  int64_t rows() const { return starts[sequences]; }
  int64_t parts() const { return std::max<int64_t>(1, (values + PART / 2 - 1) / PART); }
  int64_t slot(int64_t s) const { return starts[s] / KEEP + s; }  // of the first kept state of a sequence
};

// One thread's share: a sequence, a head, and a run of columns of v.
struct Task {
  int64_t s, h, p, first, width, length, row, step;
  int64_t Kp, Vp;  // widths of key and value in whole vectors
  Task(const Shape& shape, int64_t task) {
    p = task % shape.parts();
    h = task / shape.parts() % shape.heads;
    s = task / shape.parts() / shape.heads;
    first = p * PART;
    width = (p + 1 == shape.parts() ? shape.values : first + PART) - first;
    length = shape.starts[s + 1] - shape.starts[s];
    row = shape.reverse ? shape.starts[s + 1] - 1 : shape.starts[s];  // of the first step
    step = shape.reverse ? -1 : 1;
    Kp = round_up(shape.keys, W);
    Vp = round_up(width, W);
  }
  int64_t at(const Shape& shape, int64_t t) const { return (row + t * step) * shape.heads + h; }  // row of [rows · H, ...]
};

// STEPS steps in padded rows; steps behind the end leave the state as it is (decay 1, everything else 0).
struct Chunk {
  float *q, *k, *a, *v;  // [STEPS, Kp] three times, a = e^log_decay; [STEPS, Vp]
  float *from_start, *to_end, *total;  // q decayed since the start, k decayed to the end: [STEPS, Kp]; the chunk's decay [Kp]
};

inline void pack(const Shape& shape, const Task& task, const float* from, int64_t width, int64_t padded, int64_t t0, int64_t steps, float* to) {
  for (int64_t t = 0; t < steps; t++) memcpy(to + t * padded, from + task.at(shape, t0 + t) * width, width * sizeof(float));
  if (steps < STEPS) memset(to + steps * padded, 0, (STEPS - steps) * padded * sizeof(float));
}

// Columns of this task, [STEPS, Vp]
inline void pack_columns(const Shape& shape, const Task& task, const float* from, int64_t t0, int64_t steps, float* to) {
  for (int64_t t = 0; t < steps; t++)
    memcpy(to + t * task.Vp, from + task.at(shape, t0 + t) * shape.values + task.first, task.width * sizeof(float));
  if (steps < STEPS) memset(to + steps * task.Vp, 0, (STEPS - steps) * task.Vp * sizeof(float));
}

// Asks for the rows of a later chunk, of which every step lies in another page: no hardware prefetcher finds them.
template <int WRITE = 0>
INLINE void prefetch(const Shape& shape, const Task& task, const float* from, int64_t stride, int64_t width, int64_t t0) {
  for (int64_t t = t0; t < std::min(t0 + STEPS, task.length); t++)
    for (int64_t i = 0; i < width; i += 16) __builtin_prefetch(from + task.at(shape, t) * stride + i, WRITE);
}

// DECAYS: 0 none, 1 one per head, 2 one per channel. BONUS: the output of a step reads the state before it.
template <int DECAYS, bool BONUS>
void prepare(const Shape& shape, const Task& task, const float* q, const float* k, const float* v, const float* log_decay, int64_t t0,
                    int64_t steps, const Chunk& chunk) {
  pack(shape, task, q, shape.keys, task.Kp, t0, steps, chunk.q);
  pack(shape, task, k, shape.keys, task.Kp, t0, steps, chunk.k);
  pack_columns(shape, task, v, t0, steps, chunk.v);
  if (DECAYS == 2) pack(shape, task, log_decay, shape.keys, task.Kp, t0, steps, chunk.a);
  alignas(64) float one[STEPS + W] = {};
  if (DECAYS == 1) {
    for (int64_t t = 0; t < steps; t++) one[t] = log_decay[task.at(shape, t0 + t)];
    for (int64_t t = 0; t < STEPS; t += W) store(one + t, exp(load(one + t)));
  }
  for (int64_t c = 0; c < task.Kp; c += W) {
    vec a[STEPS], decay = fill(1.f);
#pragma GCC unroll 8
    for (int64_t t = 0; t < STEPS; t++) {
      a[t] = DECAYS == 2 ? exp(load(chunk.a + t * task.Kp + c)) : DECAYS == 1 ? fill(one[t]) : fill(1.f);
      if (!BONUS) decay *= a[t];
      store(chunk.a + t * task.Kp + c, a[t]);
      store(chunk.from_start + t * task.Kp + c, load(chunk.q + t * task.Kp + c) * decay);
      if (BONUS) decay *= a[t];
    }
    store(chunk.total + c, decay);
    decay = fill(1.f);
#pragma GCC unroll 8
    for (int64_t t = STEPS - 1; t >= 0; t--) {
      store(chunk.to_end + t * task.Kp + c, load(chunk.k + t * task.Kp + c) * decay);
      decay *= a[t];
    }
  }
}

// dots[pair(u, S)], u ≥ S: vectors that sum to  sum_i left_u,i right_S,i (decay between)_i.  decay and bonus may be null.
template <int S> INLINE void dots_of(const float* left, const float* right, const float* decay, const float* bonus, int64_t width, vec* dots) {
  vec acc[STEPS] = {};
  for (int64_t c = 0; c < width; c += W) {
    vec x = load(right + S * width + c);
    acc[S] += load(left + S * width + c) * (bonus ? x * load(bonus + c) : x);
#pragma GCC unroll 8
    for (int u = S + 1; u < STEPS; u++) {
      if (decay && !bonus) x *= load(decay + u * width + c);
      acc[u] += load(left + u * width + c) * x;
      if (decay && bonus) x *= load(decay + u * width + c);
    }
  }
#pragma GCC unroll 8
  for (int u = S / HALF * HALF; u < STEPS; u++) dots[pair(u, S)] = u < S ? vec{} : acc[u];
}
template <int... S> INLINE void dots_of_all(const float* left, const float* right, const float* decay, const float* bonus, int64_t width, vec* dots,
                                            std::integer_sequence<int, S...>) {
  (dots_of<S>(left, right, decay, bonus, width, dots), ...);
}
// scores[pair(u, s)]: how much step u sees of step s ≤ u; zeros in the blocks' other triangles
inline void pair_scores(const float* left, const float* right, const float* decay, const float* bonus, int64_t width, float* scores) {
  vec dots[PAIRS];
  dots_of_all(left, right, decay, bonus, width, dots, std::make_integer_sequence<int, STEPS>{});
  for (int64_t i = 0; i < PAIRS; i += W) store(scores + i, sums(dots + i));
}

}  // namespace
