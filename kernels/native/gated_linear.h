// What the forward and the backward of gated linear recurrences share: the geometry of a call, and the preparation of a chunk.
#pragma once
#include "sequences.h"
#include "tiles.h"

namespace {

constexpr int64_t KEEP = 64, PART = 64;  // steps between kept states; columns of v that one thread walks with (up to 1.5 times as many)

// Geometry of one call. decays: numbers per step and head, 0, 1 or keys.
struct Shape : Sequences {
  int64_t heads, keys, values, decays;
  int64_t parts() const { return std::max<int64_t>(1, (values + PART / 2 - 1) / PART); }
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
    length = shape.length(s);
    row = shape.row(s, 0);
    step = shape.step();
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

// The columns of this task, times scale: [STEPS, Vp]
INLINE void pack_columns(const Shape& shape, const Task& task, const float* from, int64_t t0, int64_t steps, float scale, float* to) {
  for (int64_t t = 0; t < STEPS; t++) {
    const float* row = from + task.at(shape, t0 + t) * shape.values + task.first;
    for (int64_t c = 0; c < task.Vp; c += W) store(to + t * task.Vp + c, t < steps ? load_part(row + c, task.width - c) * scale : vec{});
  }
}

// Asks for the rows of a later chunk, of which every step lies in another page: no hardware prefetcher finds them.
template <int WRITE = 0>
INLINE void prefetch(const Shape& shape, const Task& task, const float* from, int64_t stride, int64_t width, int64_t t0) {
  for (int64_t t = t0; t < std::min(t0 + STEPS, task.length); t++)
    for (int64_t i = 0; i < width; i += 16) __builtin_prefetch(from + task.at(shape, t) * stride + i, WRITE);
}

// One vector of key channels of a chunk, those from c on. WHOLE: every step and every lane is there. `one`: the decays of the head.
template <int DECAYS, bool BONUS, bool WHOLE>
void prepare_channels(const float* q, const float* k, const float* log_decay, const float* one, int64_t next, int64_t steps, int64_t lanes,
                             const Chunk& chunk, int64_t Kp, int64_t c) {
  auto at = [=](const float* from, int64_t t) {
    if (WHOLE) return load(from + t * next + c);
    return t < steps ? load_part(from + t * next + c, lanes) : vec{};
  };
  vec a[STEPS], decay = fill(1.f);
#pragma GCC unroll 8
  for (int64_t t = 0; t < STEPS; t++) {
    const vec here = at(q, t);
    a[t] = DECAYS == 2 ? exp(at(log_decay, t)) : fill(DECAYS == 1 ? one[t] : 1.f);
    if (!BONUS) decay *= a[t];
    store(chunk.a + t * Kp + c, a[t]);
    store(chunk.q + t * Kp + c, here);
    store(chunk.from_start + t * Kp + c, here * decay);
    if (BONUS) decay *= a[t];
  }
  store(chunk.total + c, decay);
  decay = fill(1.f);
#pragma GCC unroll 8
  for (int64_t t = STEPS - 1; t >= 0; t--) {
    const vec here = at(k, t);
    store(chunk.k + t * Kp + c, here);
    store(chunk.to_end + t * Kp + c, here * decay);
    decay *= a[t];
  }
}

// DECAYS: 0 none, 1 one per head, 2 one per channel. BONUS: the output of a step reads the state before it.
template <int DECAYS, bool BONUS>
void prepare(const Shape& shape, const Task& task, const float* q, const float* k, const float* v, const float* log_decay, int64_t t0,
             int64_t steps, const Chunk& chunk) {
  pack_columns(shape, task, v, t0, steps, 1.f, chunk.v);
  alignas(64) float one[STEPS + W] = {};
  if (DECAYS == 1) {
    for (int64_t t = 0; t < steps; t++) one[t] = log_decay[task.at(shape, t0 + t)];
    for (int64_t t = 0; t < STEPS; t += W) store(one + t, exp(load(one + t)));
  }
  const int64_t K = shape.keys, first = task.at(shape, t0) * K, next = task.step * shape.heads * K;
  for (int64_t c = 0; c < task.Kp; c += W) {
    auto run = steps == STEPS && c + W <= K ? prepare_channels<DECAYS, BONUS, true> : prepare_channels<DECAYS, BONUS, false>;
    run(q + first, k + first, log_decay + (DECAYS == 2 ? first : 0), one, next, steps, K - c, chunk, task.Kp, c);
  }
}

// dots[pair(u, S)], u ≥ S: vectors that sum to  sum_i left_u,i right_S,i (decay between)_i.  decay and bonus may be null.
template <int S>
INLINE void dots_of(const float* left, const float* right, const float* decay, const float* bonus, int64_t width, vec* dots) {
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
template <int... S>
INLINE void dots_of_all(const float* left, const float* right, const float* decay, const float* bonus, int64_t width, vec* dots,
                        std::integer_sequence<int, S...>) {
  (dots_of<S>(left, right, decay, bonus, width, dots), ...);
}
// scores[pair(u, s)]: how much step u sees of step s ≤ u; zeros in the blocks' other triangles
inline void pair_scores(const float* left, const float* right, const float* decay, const float* bonus, int64_t width, float* scores) {
  vec dots[PAIRS];
  dots_of_all(left, right, decay, bonus, width, dots, std::make_integer_sequence<int, STEPS>{});
  store_sums<PAIRS>(dots, scores);
}

}  // namespace
