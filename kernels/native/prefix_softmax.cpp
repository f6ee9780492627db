// Prefix softmax: sums of exp(score) and exp(score) value over all steps so far, relative to the running maximum m of the scores.
//   a_t = exp(m_{t-1} + w_t - m_t), p_t = exp(s_t - m_t):   c_t = a_t c_{t-1} + p_t ,   n_t = a_t n_{t-1} + p_t v_t
//   out_t = alpha_t n_{t-1} + beta_t v_t, where alpha and beta are a_t and p_t, or with a bonus those of a step that decays nothing, over the
//   denominator. Per chunk: first everything that a head has one of (lanes are heads), then the values (lanes are values, or heads when V = 1).
// The output does not depend on m, so that a gradient goes through it only from the final state.
#include <algorithm>
#include "sequences.h"
#include "vector.h"

namespace {

constexpr int64_t CHUNK = 32;  // steps between kept states

struct Shape : Sequences {
  int64_t heads, width;
  int64_t part() const { return std::max<int64_t>(1, std::min(heads, 256 / std::max<int64_t>(1, width))); }  // heads that a thread walks together
  int64_t parts() const { return (heads + part() - 1) / part(); }
  int64_t tasks() const { return sequences * parts(); }
  int64_t kept() const { return heads * (width + 2); }  // numbers of a kept state: maxima, denominators, numerators
};

// One thread's share: heads [first, first + heads) of sequence s. The values are rows of `length` numbers, padded to `pitch`.
struct Task {
  int64_t s, first, heads, padded, rows, length, pitch, steps, row, step;
  Task(const Shape& shape, int64_t task) {
    s = task / shape.parts();
    first = task % shape.parts() * shape.part();
    heads = std::min(shape.part(), shape.heads - first);
    padded = round_up(heads, W);
    rows = shape.width > 1 ? heads : 1;
    length = shape.width > 1 ? shape.width : heads;
    pitch = round_up(length, W);
    steps = shape.length(s);
    row = shape.row(s, 0);
    step = shape.step();
  }
  int64_t at(const Shape& shape, int64_t t) const { return (row + t * step) * shape.heads + first; }  // in scores
};

struct State {  // of a part: [padded], [padded], [rows][pitch]
  float *maximum, *denominator, *numerator;
  State(Scratch& scratch, const Task& task)
      : maximum(scratch.take(task.padded)), denominator(scratch.take(task.padded)), numerator(scratch.take(task.rows * task.pitch)) {
    memset(maximum, 0, task.padded * sizeof(float));
    memset(denominator, 0, task.padded * sizeof(float));
    memset(numerator, 0, task.rows * task.pitch * sizeof(float));
  }
  static int64_t floats(const Task& task) { return 2 * task.padded + task.rows * task.pitch + 48; }
  void read(const Task& task, const float* m, const float* c, const float* n) {
    memcpy(maximum, m, task.heads * sizeof(float));
    memcpy(denominator, c, task.heads * sizeof(float));
    for (int64_t r = 0; r < task.rows; r++) memcpy(numerator + r * task.pitch, n + r * task.length, task.length * sizeof(float));
  }
  void write(const Task& task, float* m, float* c, float* n) const {
    memcpy(m, maximum, task.heads * sizeof(float));
    memcpy(c, denominator, task.heads * sizeof(float));
    for (int64_t r = 0; r < task.rows; r++) memcpy(n + r * task.length, numerator + r * task.pitch, task.length * sizeof(float));
  }
};

// What each head has one of, [CHUNK][padded]; `before` is c_{t-1}, `below` the denominator of the output, `won` 1 where m_t is the score.
struct Heads {
  float *a, *p, *alpha, *beta, *below, *before, *won;
  Heads(Scratch& scratch, const Task& task) {
    for (float** field : {&a, &p, &alpha, &beta, &below, &before, &won}) *field = scratch.take(CHUNK * task.padded);
  }
  static int64_t floats(const Task& task) { return 7 * (CHUNK * task.padded + 16); }
};

struct Inputs {
  const float *scores, *values, *log_decay, *bonus;
};

// Walks maxima and denominators through a chunk.
void walk_heads(const Shape& shape, const Task& task, const Inputs& in, int64_t t0, int64_t steps, State& state, const Heads& heads) {
  for (int64_t j = 0; j < task.heads; j += W) {
    const int64_t lanes = task.heads - j;
    vec m = load(state.maximum + j), c = load(state.denominator + j);
    const vec bonus = in.bonus ? load_part(in.bonus + task.first + j, lanes) : vec{};
    for (int64_t k = 0; k < steps; k++) {
      const int64_t at = task.at(shape, t0 + k) + j, to = k * task.padded + j;
      const vec s = load_part(in.scores + at, lanes), old = in.log_decay ? m + load_part(in.log_decay + at, lanes) : m;
      const vec next = vmax(old, s), a = exp(old - next), p = exp(s - next), sum = a * c + p;
      vec above_old = a, above_new = p, below = sum;
      if (in.bonus) {
        const vec level = vmax(m, s + bonus);
        above_old = exp(m - level);
        above_new = exp(s + bonus - level);
        below = above_old * c + above_new;
      }
      below = below == 0.f ? fill(1.f) : below;  // no token yet: the output is 0, not 0 / 0
      store(heads.a + to, a);
      store(heads.p + to, p);
      store(heads.alpha + to, above_old / below);
      store(heads.beta + to, above_new / below);
      store(heads.below + to, below);
      store(heads.before + to, c);
      store(heads.won + to, s >= old ? fill(1.f) : vec{});
      m = next;
      c = sum;
    }
    store(state.maximum + j, m);
    store(state.denominator + j, c);
  }
}

// A head's number for a vector of values: WIDE, the values are those of one head, otherwise of one head each.
template <bool WIDE>
INLINE vec of_head(const float* from, int64_t r, int64_t i) { return WIDE ? fill(from[r]) : load(from + i); }

// Walks numerators through a chunk: writes the outputs to `out`, or the numerators before each step to `before` [CHUNK][rows][pitch].
template <bool WIDE>
void walk_values(const Shape& shape, const Task& task, const Inputs& in, int64_t t0, int64_t steps, const State& state, const Heads& heads,
                 float* out, float* before) {
  for (int64_t k = 0; k < steps; k++) {
    const int64_t at = task.at(shape, t0 + k) * shape.width, head = k * task.padded;
    for (int64_t r = 0; r < task.rows; r++)
      for (int64_t i = 0; i < task.length; i += W) {
        const int64_t place = at + r * task.length + i, lanes = task.length - i;
        float* numerator = state.numerator + r * task.pitch + i;
        const vec n = load(numerator), v = load_part(in.values + place, lanes);
        if (out) store_part(out + place, of_head<WIDE>(heads.alpha + head, r, i) * n + of_head<WIDE>(heads.beta + head, r, i) * v, lanes);
        if (before) store(before + (k * task.rows + r) * task.pitch + i, n);
        store(numerator, of_head<WIDE>(heads.a + head, r, i) * n + of_head<WIDE>(heads.p + head, r, i) * v);
      }
  }
}

template <bool WIDE>
void forward_task(const Shape& shape, const Task& task, const Inputs& in, const float* maximum, const float* denominator, const float* numerator,
                  float* out, float* last_maximum, float* last_denominator, float* last_numerator, float* kept) {
  Scratch scratch(State::floats(task) + Heads::floats(task));
  State state(scratch, task);
  const Heads heads(scratch, task);
  const int64_t at = task.s * shape.heads + task.first;
  state.read(task, maximum + at, denominator + at, numerator + at * shape.width);
  for (int64_t t0 = 0; t0 < task.steps; t0 += CHUNK) {
    const int64_t steps = std::min(CHUNK, task.steps - t0);
    if (kept) {
      float* to = kept + shape.slot(task.s, t0, CHUNK) * shape.kept();
      state.write(task, to + task.first, to + shape.heads + task.first, to + 2 * shape.heads + task.first * shape.width);
    }
    walk_heads(shape, task, in, t0, steps, state, heads);
    walk_values<WIDE>(shape, task, in, t0, steps, state, heads, out, nullptr);
  }
  state.write(task, last_maximum + at, last_denominator + at, last_numerator + at * shape.width);
}

// Gradients; `bonus` is [sequences, H], summed over sequences by the caller. `log_decay` and `bonus` may be null.
struct Gradients {
  float *scores, *values, *log_decay, *bonus, *maximum, *denominator, *numerator;
};

// Products summed over a head's values, [CHUNK][padded]: of the output's gradient, and of the numerator's, with the numerator before and the value.
struct Dots {
  float *out_before, *out_value, *state_before, *state_value;
  Dots(Scratch& scratch, const Task& task) {
    for (float** field : {&out_before, &out_value, &state_before, &state_value}) *field = scratch.take(CHUNK * task.padded);
  }
  static int64_t floats(const Task& task) { return 4 * (CHUNK * task.padded + 16); }
};

// Back through the values of a chunk: dn [rows][pitch] is the gradient of the numerators after it, then before it.
template <bool WIDE>
void values_back(const Shape& shape, const Task& task, const Inputs& in, int64_t t0, int64_t steps, const Heads& heads, const float* before,
                 const float* dout, float* dn, float* dvalues, const Dots& dots) {
  for (int64_t k = steps - 1; k >= 0; k--) {
    const int64_t at = task.at(shape, t0 + k) * shape.width, head = k * task.padded;
    for (int64_t r = 0; r < task.rows; r++) {
      vec sums[4] = {};
      for (int64_t i = 0; i < task.length; i += W) {
        const int64_t place = at + r * task.length + i, lanes = task.length - i;
        const vec n = load(before + (k * task.rows + r) * task.pitch + i), v = load_part(in.values + place, lanes);
        const vec g = load_part(dout + place, lanes), d = load(dn + r * task.pitch + i);
        store_part(dvalues + place, of_head<WIDE>(heads.beta + head, r, i) * g + of_head<WIDE>(heads.p + head, r, i) * d, lanes);
        store(dn + r * task.pitch + i, of_head<WIDE>(heads.alpha + head, r, i) * g + of_head<WIDE>(heads.a + head, r, i) * d);
        sums[0] += g * n, sums[1] += g * v, sums[2] += d * n, sums[3] += d * v;
        if (!WIDE) {
          store(dots.out_before + head + i, sums[0]), store(dots.out_value + head + i, sums[1]);
          store(dots.state_before + head + i, sums[2]), store(dots.state_value + head + i, sums[3]);
          for (vec& value : sums) value = vec{};
        }
      }
      if (WIDE) {
        dots.out_before[head + r] = sum(sums[0]), dots.out_value[head + r] = sum(sums[1]);
        dots.state_before[head + r] = sum(sums[2]), dots.state_value[head + r] = sum(sums[3]);
      }
    }
  }
}

// Back through what each head has one of. dm: the gradient of the final maximum until the step that it comes from is met, [padded]; dstart:
// that of the first maximum through the decay of the first step.
void heads_back(const Shape& shape, const Task& task, const Inputs& in, int64_t t0, int64_t steps, const Heads& heads, const Dots& dots, float* dm,
                float* dc, float* dbonus, float* dstart, const Gradients& grad) {
  for (int64_t j = 0; j < task.heads; j += W) {
    const int64_t lanes = task.heads - j;
    vec to_maximum = load(dm + j), to_sum = load(dc + j), to_bonus = load(dbonus + j);
    for (int64_t k = steps - 1; k >= 0; k--) {
      const int64_t at = task.at(shape, t0 + k) + j, from = k * task.padded + j;
      const vec a = load(heads.a + from), p = load(heads.p + from), alpha = load(heads.alpha + from), beta = load(heads.beta + from);
      const vec before = load(heads.before + from), below = load(heads.below + from), won = load(heads.won + from);
      const vec x = load(dots.out_before + from), y = load(dots.out_value + from);
      const vec dbelow = -(x * alpha + y * beta) / below;
      if (!in.bonus) to_sum += dbelow;  // there `below` is the new denominator itself
      vec ddecay = a * (load(dots.state_before + from) + to_sum * before), dscore = p * (load(dots.state_value + from) + to_sum);
      if (in.bonus) {
        const vec dbonus_t = beta * (y + below * dbelow);
        if (t0 + k == 0) store(dstart + j, ddecay + alpha * (x + below * dbelow * before));
        dscore += dbonus_t;
        to_bonus += dbonus_t;
        to_sum = a * to_sum + alpha * below * dbelow;
      } else {
        ddecay += alpha * x;
        dscore += beta * y;
        if (t0 + k == 0) store(dstart + j, ddecay);
        to_sum = a * to_sum;
      }
      store_part(grad.scores + at, dscore + won * to_maximum, lanes);
      to_maximum *= 1.f - won;
      if (grad.log_decay) store_part(grad.log_decay + at, ddecay + to_maximum, lanes);
    }
    store(dm + j, to_maximum);
    store(dc + j, to_sum);
    store(dbonus + j, to_bonus);
  }
}

// The gradient of the final maximum, to which the final sums are relative too.
void start_maximum(const Shape& shape, const Task& task, const float* maximum, const State& carry, const float* denominator, const float* numerator, float* dm) {
  memset(dm, 0, task.padded * sizeof(float));
  for (int64_t h = 0; h < task.heads; h++) {
    dm[h] = maximum[h];
    if (task.steps == 0) continue;
    dm[h] -= carry.denominator[h] * denominator[h];
    const int64_t from = shape.width > 1 ? h * task.pitch : h;
    for (int64_t v = 0; v < shape.width; v++) dm[h] -= carry.numerator[from + v] * numerator[h * shape.width + v];
  }
}

template <bool WIDE>
void backward_task(const Shape& shape, const Task& task, const Inputs& in, const float* kept, const float* denominator, const float* numerator,
                   const float* dout, const float* dmaximum, const float* ddenominator, const float* dnumerator, const Gradients& grad) {
  const int64_t values = CHUNK * task.rows * task.pitch, at = task.s * shape.heads + task.first;
  Scratch scratch(2 * State::floats(task) + Heads::floats(task) + Dots::floats(task) + values + 2 * task.padded + 64);
  State state(scratch, task), carry(scratch, task);
  const Heads heads(scratch, task);
  const Dots dots(scratch, task);
  float *before = scratch.take(values), *dbonus = scratch.take(task.padded), *dstart = scratch.take(task.padded);
  memset(dbonus, 0, task.padded * sizeof(float));
  memset(dstart, 0, task.padded * sizeof(float));
  carry.read(task, dmaximum + at, ddenominator + at, dnumerator + at * shape.width);
  start_maximum(shape, task, dmaximum + at, carry, denominator + at, numerator + at * shape.width, carry.maximum);
  for (int64_t t0 = (task.steps - 1) / CHUNK * CHUNK; t0 >= 0 && task.steps; t0 -= CHUNK) {
    const int64_t steps = std::min(CHUNK, task.steps - t0);
    const float* from = kept + shape.slot(task.s, t0, CHUNK) * shape.kept();
    state.read(task, from + task.first, from + shape.heads + task.first, from + 2 * shape.heads + task.first * shape.width);
    walk_heads(shape, task, in, t0, steps, state, heads);
    walk_values<WIDE>(shape, task, in, t0, steps, state, heads, nullptr, before);
    values_back<WIDE>(shape, task, in, t0, steps, heads, before, dout, carry.numerator, grad.values, dots);
    heads_back(shape, task, in, t0, steps, heads, dots, carry.maximum, carry.denominator, dbonus, dstart, grad);
  }
  for (int64_t h = 0; h < task.heads; h++) carry.maximum[h] += dstart[h];
  carry.write(task, grad.maximum + at, grad.denominator + at, grad.numerator + at * shape.width);
  if (grad.bonus) memcpy(grad.bonus + at, dbonus, task.heads * sizeof(float));
}

}  // namespace

// scores, log_decay (or null) [rows, H]; values, out [rows, H, V]; bonus (or null) [H]; states [S, H], [S, H], [S, H, V]
// kept [rows / CHUNK + S, H (V + 2)] or null
EXPORT void prefix_softmax_forward(const float* scores, const float* values, const float* log_decay, const float* bonus, const float* maximum,
                                   const float* denominator, const float* numerator, const int64_t* starts, float* out, float* last_maximum,
                                   float* last_denominator, float* last_numerator, float* kept, int64_t sequences, int64_t heads, int64_t width,
                                   int64_t reverse, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, heads, width};
  const Inputs in{scores, values, log_decay, bonus};
  const auto run = width > 1 ? forward_task<true> : forward_task<false>;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < shape.tasks(); i++)
    run(shape, Task(shape, i), in, maximum, denominator, numerator, out, last_maximum, last_denominator, last_numerator, kept);
  if (kept) shape.clear_unused_slots(kept, CHUNK, shape.kept());
}

EXPORT void prefix_softmax_backward(const float* scores, const float* values, const float* log_decay, const float* bonus, const float* kept,
                                    const float* denominator, const float* numerator, const float* dout, const float* dmaximum,
                                    const float* ddenominator, const float* dnumerator, const int64_t* starts, float* dscores, float* dvalues,
                                    float* dlog_decay, float* dbonus, float* dfirst_maximum, float* dfirst_denominator, float* dfirst_numerator,
                                    int64_t sequences, int64_t heads, int64_t width, int64_t reverse, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, heads, width};
  const Inputs in{scores, values, log_decay, bonus};
  const Gradients grad{dscores, dvalues, dlog_decay, dbonus, dfirst_maximum, dfirst_denominator, dfirst_numerator};
  const auto run = width > 1 ? backward_task<true> : backward_task<false>;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < shape.tasks(); i++)
    run(shape, Task(shape, i), in, kept, denominator, numerator, dout, dmaximum, ddenominator, dnumerator, grad);
}
