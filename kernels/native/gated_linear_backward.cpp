// The backward of gated_linear_forward.cpp. The states of KEEP steps are recomputed from the kept one, then walked back. Lanes are channels
// of the key: states and their gradients are held transposed, [V, K], so that the sums over V that dq, dk and the decay need are products
// of matrices too. The gradient of log_decay_t is the sum of all flows (state or key before t → query or state from t on): no differences.
#include "gated_linear.h"

namespace {

constexpr int64_t CHUNKS = KEEP / STEPS, PANEL = 2 * W;  // chunks between kept states; channels of the key that are walked together

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
    vec own = fill(walk.weights[pair(s, s)]), passed[STEPS];
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
      const vec weight = decay * walk.weights[pair(u, s)], x = weight * load(chunk.q + u * Kp + c);
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

// Memory of one thread: all chunks between two kept states, the states before them, and the gradient behind the current one.
struct Memory {
  Scratch scratch;
  float* next;
  Chunk chunk[CHUNKS];
  float *dout[CHUNKS], *states[CHUNKS];  // [STEPS, Vp]; transposed, in panels [Vp, PANEL], the last one narrower
  float *gradient, *matrix;              // as states; a panel transposed, [PANEL, Vp]
  float* bonus;                          // [Kp]
  Walk walk;
  static int64_t size(int64_t Kp, int64_t Vp) {
    return CHUNKS * (5 * STEPS * Kp + Kp + 2 * STEPS * Vp + Vp * Kp) + (Kp + PANEL) * Vp + STEPS * (3 * Kp + Vp) + 3 * Kp + 2 * PAIRS;
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
    matrix = take(PANEL * Vp);
    for (float** part : {&walk.dq, &walk.dk, &walk.ddecay}) *part = take(STEPS * Kp);
    walk.dv = take(STEPS * Vp);
    walk.through = take(Kp);
    walk.dbonus = take(Kp);
    walk.bonus = bonus = take(Kp);
    walk.scores = take(PAIRS);
    walk.weights = take(PAIRS);
  }
};

struct Inputs {
  const float *q, *k, *v, *log_decay, *bonus, *kept, *dout, *dfinal;
  float scale;
};

template <int DECAYS, bool BONUS> struct Backward {
  const Shape& shape;
  const Task task;
  const Inputs& in;
  const Gradients& grad;
  const int64_t K, V, Kp, Vp, slice;  // slice: the first row of this part's dq, dk, dlog_decay
  Memory m;

  Backward(const Shape& shape, int64_t i, const Inputs& in, const Gradients& grad)
      : shape(shape), task(shape, i), in(in), grad(grad), K(shape.keys), V(shape.values), Kp(task.Kp), Vp(task.Vp),
        slice(task.p * shape.total() * shape.heads), m(task) {}

  // Where the columns of this task begin in an array [.., H, K, V].
  int64_t state_at(int64_t slot) const { return (slot * shape.heads + task.h) * K * V + task.first; }
  int64_t steps_from(int64_t t0) const { return std::min(STEPS, task.length - t0); }

  void load_state(const float* from, float* to) {  // [K, V] → panels
    for (int64_t c = 0; c < Kp; c += PANEL) {
      const int64_t width = std::min(PANEL, Kp - c);
      memset(m.matrix, 0, width * Vp * sizeof(float));
      copy_rows(m.matrix, Vp, from + c * V, V, std::min(width, K - c), task.width);
      transpose(to + c * Vp, m.matrix, width, Vp);
    }
  }
  void store_state(const float* from, float* to) {
    for (int64_t c = 0; c < Kp; c += PANEL) {
      const int64_t width = std::min(PANEL, Kp - c);
      transpose(m.matrix, from + c * Vp, Vp, width);
      copy_rows(to + c * V, V, m.matrix, Vp, std::min(width, K - c), task.width);
    }
  }

  // Prepares the chunks [begin, begin + KEEP) and the states before them.
  void recompute(int64_t begin, int64_t chunks) {
    load_state(in.kept + state_at(shape.slot(task.s, begin, KEEP)), m.states[0]);
    for (int64_t i = 0; i < chunks; i++) {
      const int64_t t0 = begin + i * STEPS, steps = steps_from(t0);
      const Chunk& chunk = m.chunk[i];
      prepare<DECAYS, BONUS>(shape, task, in.q, in.k, in.v, in.log_decay, t0, steps, chunk);
      pack_columns(shape, task, in.dout, t0, steps, in.scale, m.dout[i]);
      for (int64_t c = 0; c < Kp && i + 1 < chunks; c += PANEL)
        update<false>(m.states[i + 1] + c * Vp, m.states[i] + c * Vp, std::min(PANEL, Kp - c), task.width, chunk.total + c, chunk.v, Vp,
                      chunk.to_end + c, Kp);
    }
  }

  // One chunk back.
  void walk_back(const Chunk& chunk, const float* dout, const float* state, int64_t t0) {
    const Walk& walk = m.walk;
    pair_scores(chunk.q, chunk.k, DECAYS ? chunk.a : nullptr, BONUS ? walk.bonus : nullptr, Kp, walk.scores);
    pair_scores(dout, chunk.v, nullptr, nullptr, Vp, walk.weights);
    pairs_product<true>(walk.dv, walk.scores, dout, Vp);
    for (int64_t c = 0; c < Kp; c += PANEL) {
      const int64_t width = std::min(PANEL, Kp - c), real = std::min(PANEL, K - c);
      float* gradient = m.gradient + c * Vp;
      ask(t0, c, 0);
      transpose(m.matrix, gradient, Vp, width);
      ask(t0, c, 1);
      product<true>(walk.dv, Vp, chunk.to_end + c, Kp, m.matrix, Vp, real);
      ask(t0, c, 2);
      product<false>(walk.dq + c, Kp, dout, Vp, state + c * Vp, width, task.width);
      ask(t0, c, 3);
      product<false>(walk.dk + c, Kp, chunk.v, Vp, gradient, width, task.width);
      ask(t0, c, 4);
      update<false>(gradient, gradient, width, task.width, chunk.total + c, dout, Vp, chunk.from_start + c, Kp, state + c * Vp,
                    walk.through + c);
      ask(t0, c, 5);
      for (int64_t j = c; j < c + width; j += W) inner<DECAYS, BONUS>(chunk, walk, Kp, j);
    }
    for (int64_t t = 0; t < steps_from(t0); t++) write(t, slice + task.at(shape, t0 + t), task.at(shape, t0 + t));
  }

  // Asks for the memory that the steps t0 - KEEP will need and for the rows that these will write, a little after each product: the
  // processor waits when too much is under way at once. c: the panel, which asks for its channels, and for its share of v's columns.
  INLINE void ask(int64_t t0, int64_t c, int stage) {
    const int64_t early = t0 - KEEP, real = std::min(PANEL, K - c), share = round_up(task.width * PANEL / Kp, 16);
    const int64_t first = c / PANEL * share, columns = std::min(share, task.width - first), at = first + task.first;
    if (stage == 2) prefetch<1>(shape, task, grad.v + at, V, columns, t0);
    if (stage == 3) prefetch<1>(shape, task, grad.q + slice * K + c, K, real, t0);
    if (stage == 4) prefetch<1>(shape, task, grad.k + slice * K + c, K, real, t0);
    if (stage == 5 && DECAYS == 2) prefetch<1>(shape, task, grad.log_decay + slice * K + c, K, real, t0);
    if (early < 0) return;
    if (stage == 0) prefetch(shape, task, in.q + c, K, real, early);
    if (stage == 1) prefetch(shape, task, in.k + c, K, real, early);
    if (stage == 2) prefetch(shape, task, in.v + at, V, columns, early);
    if (stage == 3 && DECAYS == 2) prefetch(shape, task, in.log_decay + c, K, real, early);
    if (stage == 4) prefetch(shape, task, in.dout + at, V, columns, early);
    if (stage == 5)
      for (int64_t i = c + t0 % KEEP / STEPS; i < c + real; i += CHUNKS)
        for (int64_t j = 0; j < task.width; j += 16) __builtin_prefetch(in.kept + state_at(shape.slot(task.s, early, KEEP)) + i * V + j);
  }

  void write(int64_t t, int64_t key_row, int64_t value_row) {
    const Walk& walk = m.walk;
    copy(grad.q + key_row * K, walk.dq + t * Kp, K);
    copy(grad.k + key_row * K, walk.dk + t * Kp, K);
    copy(grad.v + value_row * V + task.first, walk.dv + t * Vp, task.width);
    if (DECAYS == 2) copy(grad.log_decay + key_row * K, walk.ddecay + t * Kp, K);
    if (DECAYS == 1) {
      vec total{};
      for (int64_t j = 0; j < Kp; j += W) total += load(walk.ddecay + t * Kp + j);
      grad.log_decay[key_row] = sum(total);
    }
  }

  static void run(const Shape& shape, int64_t task, const Inputs& in, const Gradients& grad) {
    Backward(shape, task, in, grad).whole_sequence();
  }
  void whole_sequence() {
    if (BONUS) copy(m.bonus, in.bonus + task.h * K, K);
    load_state(in.dfinal + state_at(task.s), m.gradient);
    for (int64_t end = task.length; end > 0; end = (end - 1) / KEEP * KEEP) {
      const int64_t begin = (end - 1) / KEEP * KEEP, chunks = (end - begin + STEPS - 1) / STEPS;
      recompute(begin, chunks);
      for (int64_t i = chunks - 1; i >= 0; i--) walk_back(m.chunk[i], m.dout[i], m.states[i], begin + i * STEPS);
    }
    store_state(m.gradient, grad.initial + state_at(task.s));
    if (BONUS) copy(grad.bonus + ((task.s * shape.parts() + task.p) * shape.heads + task.h) * K, m.walk.dbonus, K);
  }
};

}  // namespace

// As in the forward; kept as it left it. dq, dk and dlog_decay have a leading axis of parts, dbonus is [S, parts, H, K]: the caller sums.
EXPORT void gated_linear_backward(const float* q, const float* k, const float* v, const float* log_decay, const float* bonus,
                                  const float* kept, const float* dout, const float* dfinal, const int64_t* starts, float* dq, float* dk,
                                  float* dv, float* dlog_decay, float* dbonus, float* dinitial, double scale, int64_t sequences,
                                  int64_t heads, int64_t keys, int64_t values, int64_t decays, int64_t reverse, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, heads, keys, values, decays};
  const Inputs in{q, k, v, log_decay, bonus, kept, dout, dfinal, (float)scale};
  const Gradients grad{dq, dk, dv, dlog_decay, dbonus, dinitial};
  const int64_t tasks = sequences * heads * shape.parts();
  auto run = bonus ? (!log_decay ? Backward<0, true>::run : decays == 1 ? Backward<1, true>::run : Backward<2, true>::run)
                   : (!log_decay ? Backward<0, false>::run : decays == 1 ? Backward<1, false>::run : Backward<2, false>::run);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks; i++) run(shape, i, in, grad);
}
