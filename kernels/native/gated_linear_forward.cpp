// Gated linear recurrences, S_t = diag(e^w_t) S_{t-1} + k_t v_tᵀ, o_t = q_tᵀ S_t, in chunks of eight steps: enough that the state [K, V]
// is read and written once for several steps and the work is a product of matrices, few enough that the pairs of steps inside a chunk
// cost little. Decays only ever multiply (no division, no sum of logarithms), so gates of any size are safe.
#include "gated_linear.h"

namespace {

template <int DECAYS, bool BONUS>
void forward_task(const Shape& shape, const Task& task, const float* q, const float* k, const float* v, const float* log_decay,
                  const float* bonus, const float* initial, float scale, float* o, float* final, float* kept) {
  const int64_t K = shape.keys, V = shape.values, Kp = task.Kp, Vp = task.Vp;
  const int64_t size = 5 * STEPS * Kp + 2 * Kp + 2 * STEPS * Vp + PAIRS + Kp * Vp;
  Scratch scratch(size);
  float* zero = scratch.take(size);
  memset(zero, 0, size * sizeof(float));
  auto take = [&](int64_t floats) { float* part = zero; zero += floats; return part; };
  float* state = take(Kp * Vp);
  Chunk chunk;
  for (float** part : {&chunk.q, &chunk.k, &chunk.a, &chunk.from_start, &chunk.to_end}) *part = take(STEPS * Kp);
  chunk.total = take(Kp);
  chunk.v = take(STEPS * Vp);
  float *out = take(STEPS * Vp), *extra = take(Kp), *scores = take(PAIRS);
  if (BONUS) copy(extra, bonus + task.h * K, K);
  const int64_t matrix = (task.s * shape.heads + task.h) * K * V + task.first;
  copy_rows(state, Vp, initial + matrix, V, K, task.width);
  for (int64_t t0 = 0; t0 < task.length; t0 += STEPS) {
    const int64_t steps = std::min(STEPS, task.length - t0);
    if (kept && t0 % KEEP == 0)
      copy_rows(kept + (shape.slot(task.s, t0, KEEP) * shape.heads + task.h) * K * V + task.first, V, state, Vp, K, task.width);
    prefetch(shape, task, q, K, K, t0 + STEPS);
    prepare<DECAYS, BONUS>(shape, task, q, k, v, log_decay, t0, steps, chunk);
    prefetch<1>(shape, task, o + task.first, V, task.width, t0);
    pair_scores(chunk.q, chunk.k, DECAYS ? chunk.a : nullptr, BONUS ? extra : nullptr, Kp, scores);
    prefetch(shape, task, k, K, K, t0 + STEPS);
    pairs_product<false>(out, scores, chunk.v, Vp);
    product<true>(out, Vp, chunk.from_start, Kp, state, Vp, K);
    prefetch(shape, task, v + task.first, V, task.width, t0 + STEPS);
    for (int64_t t = 0; t < steps; t++) {
      float* row = o + task.at(shape, t0 + t) * V + task.first;
      for (int64_t c = 0; c < Vp; c += W) store_part(row + c, load(out + t * Vp + c) * scale, task.width - c);
    }
    if (DECAYS == 2) prefetch(shape, task, log_decay, K, K, t0 + STEPS);
    update<true>(state, state, Vp, K, chunk.total, chunk.to_end, Kp, chunk.v, Vp);
  }
  copy_rows(final + matrix, V, state, Vp, K, task.width);
  for (int64_t slot = shape.slot(task.s, task.length + KEEP - 1, KEEP); kept && slot < shape.slot(task.s + 1, 0, KEEP); slot++)
    for (int64_t i = 0; i < K; i++) memset(kept + ((slot * shape.heads + task.h) * K + i) * V + task.first, 0, task.width * sizeof(float));
}

}  // namespace

EXPORT int64_t gated_linear_parts(int64_t values) { return Shape{{}, 0, 0, values, 0}.parts(); }

// q, k [rows, H, K]; v, o [rows, H, V]; log_decay [rows, H, decays], decays 0, 1 or K; bonus [H, K] or null; initial, final [S, H, K, V];
// kept [rows / KEEP + S, H, K, V] or null; slots that no sequence needs become zero
EXPORT void gated_linear_forward(const float* q, const float* k, const float* v, const float* log_decay, const float* bonus,
                                 const float* initial, const int64_t* starts, float* o, float* final, float* kept, double scale,
                                 int64_t sequences, int64_t heads, int64_t keys, int64_t values, int64_t decays, int64_t reverse,
                                 int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, heads, keys, values, decays};
  const int64_t tasks = sequences * heads * shape.parts();
  auto run = bonus ? (!log_decay ? forward_task<0, true> : decays == 1 ? forward_task<1, true> : forward_task<2, true>)
                   : (!log_decay ? forward_task<0, false> : decays == 1 ? forward_task<1, false> : forward_task<2, false>);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks; i++) run(shape, Task(shape, i), q, k, v, log_decay, bonus, initial, (float)scale, o, final, kept);
}
