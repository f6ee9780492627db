// The backward of gated_linear_forward.cpp. The states of KEEP steps are recomputed from the kept one, then walked back. Lanes are channels of
// the key: states and their gradients are held transposed, [V, K], so that the sums over V that dq, dk and the decay need are products of
// matrices too. The gradient of log_decay_t is the sum of all flows (state or key before t → query or state from t on): no differences.
#include "gated_linear.h"

namespace {

constexpr int64_t CHUNKS = KEEP / STEPS;  // between kept states

// Where the gradients go. q, k, log_decay: one slice for each part of v's columns; bonus: one row for each sequence and part.
struct Gradients {
  float *q, *k, *v, *log_decay, *bonus, *initial;
};

// What one chunk of the walk back reads and writes, padded.
struct Walk {
  const float *bonus, *dout;        // [Kp]; [STEPS, Vp]
  float *scores, *weights;          // q·k and do·v of the pairs, [STEPS, STEPS]
  float *dq, *dk, *ddecay, *dv;     // [STEPS, Kp] three times, [STEPS, Vp]
  float *through, *dbonus;          // [Kp]: flow from the state before the chunk to the gradient behind it; summed over all chunks
};

// One vector of key channels of a chunk. dq and dk arrive as the products with the state before the chunk and the gradient behind it.
template <int DECAYS, bool BONUS> void inner(const Chunk& chunk, const Walk& walk, int64_t Kp, int64_t c) {
  vec dq[STEPS], flow[STEPS], a[STEPS], decay = fill(1.f), sum;
#pragma GCC unroll 8
  for (int u = 0; u < STEPS; u++) {
    a[u] = DECAYS ? load(chunk.a + u * Kp + c) : fill(1.f);
    if (!BONUS) decay *= a[u];
    dq[u] = decay * load(walk.dq + u * Kp + c);
    if (BONUS) decay *= a[u];
  }
  sum = decay * load(walk.through + c);
#pragma GCC unroll 8
  for (int u = STEPS - 1; u >= 0; u--) {  // from the state before the chunk to the queries at and behind u
    const vec x = dq[u] * load(chunk.q + u * Kp + c);
    if (!BONUS) sum += x;
    flow[u] = sum;
    if (BONUS) sum += x;
  }
  decay = fill(1.f);
#pragma GCC unroll 8
  for (int s = STEPS - 1; s >= 0; s--) {
    store(walk.dk + s * Kp + c, decay * load(walk.dk + s * Kp + c));
    decay *= a[s];
  }
  sum = vec{};
#pragma GCC unroll 8
  for (int s = 0; s < STEPS; s++) {  // from the keys before s to the state behind the chunk
    flow[s] += sum;
    sum += load(walk.dk + s * Kp + c) * load(chunk.k + s * Kp + c);
  }
#pragma GCC unroll 8
  for (int s = 0; s < STEPS; s++) {
    const vec k = load(chunk.k + s * Kp + c), q = load(chunk.q + s * Kp + c);
    vec own = fill(walk.weights[s * STEPS + s]), passed[STEPS];
    if (BONUS) {
      store(walk.dbonus + c, load(walk.dbonus + c) + own * q * k);
      own *= load(walk.bonus + c);
    }
    dq[s] += own * k;
    vec dk = load(walk.dk + s * Kp + c) + own * q;
    decay = fill(1.f);
#pragma GCC unroll 8
    for (int u = s + 1; u < STEPS; u++) {
      if (!BONUS) decay *= a[u];
      const vec weight = decay * walk.weights[u * STEPS + s], x = weight * load(chunk.q + u * Kp + c);
      dq[u] += weight * k;
      dk += x;
      passed[u] = x * k;
      if (BONUS) decay *= a[u];
    }
    store(walk.dk + s * Kp + c, dk);
    sum = vec{};
#pragma GCC unroll 8
    for (int u = STEPS - 1; u > s; u--) {
      if (!BONUS) sum += passed[u];
      flow[u] += sum;
      if (BONUS) sum += passed[u];
    }
  }
#pragma GCC unroll 8
  for (int u = 0; u < STEPS; u++) {
    store(walk.dq + u * Kp + c, dq[u]);
    store(walk.ddecay + u * Kp + c, flow[u]);
  }
}

// [columns] of the product of two [rows, columns], summed over rows.
void column_sums(float* to, const float* a, const float* b, int64_t columns, int64_t rows) {
  for_column_tiles(columns, [=](auto width, int64_t c) {
    constexpr int N = decltype(width)::value;
    vec acc[2][N] = {};
    for (int64_t j = 0; j < rows; j += 2)
#pragma GCC unroll 2
      for (int r = 0; r < 2; r++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) acc[r][n] += load(a + (j + r) * columns + c + n * W) * load(b + (j + r) * columns + c + n * W);
    for (int n = 0; n < N; n++) store(to + c + n * W, acc[0][n] + acc[1][n]);
  });
}

void write_rows(const Shape& shape, const Task& task, const float* from, int64_t t0, int64_t steps, float scale, float* to) {
  for (int64_t t = 0; t < steps; t++) {
    float* row = to + (task.p * shape.rows() * shape.heads + task.at(shape, t0 + t)) * shape.keys;
    for (int64_t i = 0; i < shape.keys; i++) row[i] = from[t * task.Kp + i] * scale;
  }
}

// Memory of one thread: all chunks between two kept states, the states before them, and the gradient behind the current one.
struct Memory {
  Scratch scratch;
  float* next;
  Chunk chunk[CHUNKS];
  float *dout[CHUNKS], *states[CHUNKS];  // [STEPS, Vp]; transposed, [Vp, Kp]
  float *gradient, *matrix;              // [Vp, Kp]; [Kp, Vp]
  Walk walk;
  static int64_t size(int64_t Kp, int64_t Vp) {
    return CHUNKS * (5 * STEPS * Kp + Kp + 2 * STEPS * Vp + Vp * Kp) + 2 * Kp * Vp + STEPS * (3 * Kp + Vp) + 3 * Kp + 2 * STEPS * STEPS;
  }
  float* take(int64_t floats) {
    float* part = next;
    next += floats;
    return part;
  }
  Memory(const Task& task) : scratch(size(task.Kp, task.Vp)) {
    const int64_t Kp = task.Kp, Vp = task.Vp;
    next = scratch.take(size(Kp, Vp));
    memset(next, 0, size(Kp, Vp) * sizeof(float));
    for (int64_t i = 0; i < CHUNKS; i++) {
      Chunk& c = chunk[i];
      for (float** part : {&c.q, &c.k, &c.a, &c.from_start, &c.to_end}) *part = take(STEPS * Kp);
      c.total = take(Kp);
      c.v = take(STEPS * Vp);
      dout[i] = take(STEPS * Vp);
      states[i] = take(Vp * Kp);
    }
    gradient = take(Vp * Kp);
    matrix = take(Kp * Vp);
    for (float** part : {&walk.dq, &walk.dk, &walk.ddecay}) *part = take(STEPS * Kp);
    walk.dv = take(STEPS * Vp);
    walk.through = take(Kp);
    walk.dbonus = take(Kp);
    walk.bonus = take(Kp);
    walk.scores = take(STEPS * STEPS);
    walk.weights = take(STEPS * STEPS);
  }
};

template <int DECAYS, bool BONUS>
void backward_task(const Shape& shape, const Task& task, const float* q, const float* k, const float* v, const float* log_decay, const float* bonus,
                   const float* kept, const float* dout, const float* dfinal, float scale, const Gradients& grad) {
  const int64_t K = shape.keys, V = shape.values, Kp = task.Kp, Vp = task.Vp, at = (task.s * shape.heads + task.h) * K * V + task.first;
  Memory m(task);
  Walk& walk = m.walk;
  if (BONUS) memcpy((float*)walk.bonus, bonus + task.h * K, K * sizeof(float));
  copy_rows(m.matrix, Vp, dfinal + at, V, K, task.width);
  transpose(m.gradient, m.matrix, Kp, Vp);
  for (int64_t begin = (task.length - 1) / KEEP * KEEP; begin >= 0 && task.length; begin -= KEEP) {
    const int64_t chunks = (std::min(KEEP, task.length - begin) + STEPS - 1) / STEPS;
    copy_rows(m.matrix, Vp, kept + ((shape.slot(task.s) + begin / KEEP) * shape.heads + task.h) * K * V + task.first, V, K, task.width);
    transpose(m.states[0], m.matrix, Kp, Vp);
    for (int64_t i = 0; i < chunks; i++) {
      const int64_t t0 = begin + i * STEPS, steps = std::min(STEPS, task.length - t0);
      const Chunk& c = m.chunk[i];
      prepare<DECAYS, BONUS>(shape, task, q, k, v, log_decay, scale, t0, steps, c);
      pack_columns(shape, task, dout, t0, steps, m.dout[i]);
      if (i + 1 < chunks) update<false>(m.states[i + 1], m.states[i], c.total, c.v, Vp, c.to_end, Kp, round_up(task.width, TILE_ROWS));
    }
    for (int64_t i = chunks - 1; i >= 0; i--) {
      const int64_t t0 = begin + i * STEPS, steps = std::min(STEPS, task.length - t0), rows = round_up(task.width, TILE_ROWS);
      const Chunk& c = m.chunk[i];
      pair_scores(c.q, c.k, DECAYS ? c.a : nullptr, BONUS ? walk.bonus : nullptr, Kp, walk.scores);
      pair_scores(m.dout[i], c.v, nullptr, nullptr, Vp, walk.weights);
      transpose(m.matrix, m.gradient, Vp, Kp);
      product_with<true>(walk.dv, c.to_end, Kp, m.matrix, Vp, K, walk.scores, m.dout[i]);
      product(walk.dq, m.dout[i], Vp, m.states[i], Kp, task.width);
      product(walk.dk, c.v, Vp, m.gradient, Kp, task.width);
      column_sums(walk.through, m.states[i], m.gradient, Kp, rows);
      for (int64_t j = 0; j < Kp; j += W) inner<DECAYS, BONUS>(c, walk, Kp, j);
      update<false>(m.gradient, m.gradient, c.total, m.dout[i], Vp, c.from_start, Kp, rows);
      write_rows(shape, task, walk.dq, t0, steps, scale, grad.q);
      write_rows(shape, task, walk.dk, t0, steps, 1.f, grad.k);
      if (DECAYS == 2) write_rows(shape, task, walk.ddecay, t0, steps, 1.f, grad.log_decay);
      for (int64_t t = 0; t < steps; t++) {
        memcpy(grad.v + task.at(shape, t0 + t) * V + task.first, walk.dv + t * Vp, task.width * sizeof(float));
        if (DECAYS == 1) {
          vec total{};
          for (int64_t j = 0; j < Kp; j += W) total += load(walk.ddecay + t * Kp + j);
          grad.log_decay[task.p * shape.rows() * shape.heads + task.at(shape, t0 + t)] = sum(total);
        }
      }
    }
  }
  transpose(m.matrix, m.gradient, Vp, Kp);
  copy_rows(grad.initial + at, V, m.matrix, Vp, K, task.width);
  if (BONUS) memcpy(grad.bonus + ((task.s * shape.parts() + task.p) * shape.heads + task.h) * K, walk.dbonus, K * sizeof(float));
}

}  // namespace

// As in the forward; kept as it left it. dq, dk, dlog_decay have a leading axis of parts, dbonus [S, parts, H, K]: to be summed by the caller.
EXPORT void gated_linear_backward(const float* q, const float* k, const float* v, const float* log_decay, const float* bonus, const float* kept,
                                  const float* dout, const float* dfinal, const int64_t* starts, float* dq, float* dk, float* dv,
                                  float* dlog_decay, float* dbonus, float* dinitial, double scale, int64_t sequences, int64_t heads, int64_t keys,
                                  int64_t values, int64_t decays, int64_t reverse, int64_t threads) {
  const Shape shape{starts, sequences, heads, keys, values, decays, reverse};
  const Gradients grad{dq, dk, dv, dlog_decay, dbonus, dinitial};
  const int64_t tasks = sequences * heads * shape.parts();
  auto run = bonus ? (!log_decay ? backward_task<0, true> : decays == 1 ? backward_task<1, true> : backward_task<2, true>)
                   : (!log_decay ? backward_task<0, false> : decays == 1 ? backward_task<1, false> : backward_task<2, false>);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks; i++) run(shape, Task(shape, i), q, k, v, log_decay, bonus, kept, dout, dfinal, (float)scale, grad);
}
