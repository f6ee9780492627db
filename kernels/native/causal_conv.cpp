// out_t = bias + sum_j weight_j u_{t-j}, each channel and sequence for itself, with SiLU behind it where it is wanted. Steps before the first are
// the rows of a state. A task is a run of steps of one sequence and a part of its channels; it works on a copy of the rows that it reads, state
// and inputs alike, in the first-level cache.
#include <algorithm>
#include <memory>
#include <vector>
#include "sequences.h"
#include "vector.h"

namespace {

constexpr int64_t PART = 128;   // channels of a task
constexpr int64_t BLOCK = 256;  // steps of a task: never depends on threads
constexpr int64_t STEPS = 16;   // steps between two copies

// Geometry of one call: rows of `channels` numbers each. The state of a sequence is the `memory` rows before its first.
struct Shape : Sequences {
  int64_t channels, taps, silu;
  int64_t memory() const { return taps - 1; }
  int64_t parts() const { return (channels + PART - 1) / PART; }
};

struct Block {
  int64_t s, begin;  // a sequence and the first of its steps
};

// All blocks, one for an empty sequence too: it hands its state on.
std::vector<Block> blocks_of(const Shape& shape) {
  std::vector<Block> blocks;
  for (int64_t s = 0; s < shape.sequences; s++)
    for (int64_t t = 0; t == 0 || t < shape.length(s); t += BLOCK) blocks.push_back({s, t});
  return blocks;
}

// One thread's share: steps [begin, end) of a sequence, channels [first, first + count). Steps count in the direction of the run.
struct Task {
  const Shape& shape;
  int64_t s, begin, end, first, count, length;
  Task(const Shape& shape, const Block& block, int64_t part) : shape(shape), s(block.s), begin(block.begin), first(part * PART) {
    length = shape.length(s);
    end = std::min(begin + BLOCK, length);
    count = std::min(PART, shape.channels - first);
  }
  int64_t row(int64_t t) const {  // where step t >= 0 stands
    return shape.row(s, t) * shape.channels + first;
  }
  int64_t state_row(int64_t i) const { return (s * shape.memory() + i) * shape.channels + first; }
};

void copy_row(float* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += W) store(to + i, load_part(from + i, count - i));
}

// Steps [from, to) as rows of PART numbers, of which the vectors that have channels are filled, with zeros behind the last. Step t < 0 is row
// memory + t of the state.
void copy_steps(const Task& task, const float* u, const float* state, int64_t from, int64_t to, float* rows) {
  for (int64_t t = from; t < to; t++, rows += PART)
    copy_row(rows, t < 0 ? state + task.state_row(task.shape.memory() + t) : u + task.row(t), task.count);
}

// [taps + 1][PART]: the taps of the channels of a task, then the bias.
void copy_weights(const Task& task, const float* weight, const float* bias, float* rows) {
  for (int64_t j = 0; j < task.shape.taps; j++) copy_row(rows + j * PART, weight + j * task.shape.channels + task.first, task.count);
  float* last = rows + task.shape.taps * PART;
  if (bias) copy_row(last, bias + task.first, task.count);
  else memset(last, 0, PART * sizeof(float));
}

// The sum over the taps for the step at `row`; the steps before it stand in the rows before.
template <int64_t TAPS>
INLINE vec filter(const float* weights, const float* row, int64_t number) {
  const int64_t taps = TAPS ? TAPS : number;
  vec out = load(weights + taps * PART);
  for (int64_t j = 0; j < taps; j++) out += load(weights + j * PART) * load(row - j * PART);
  return out;
}

template <int64_t TAPS>
void forward_task(const Task& task, const float* u, const float* weight, const float* bias, const float* state, float* out, float* final) {
  const Shape& shape = task.shape;
  const int64_t memory = shape.memory();
  Scratch scratch((memory + STEPS + shape.taps + 1) * PART);
  float *window = scratch.take((memory + STEPS) * PART), *weights = scratch.take((shape.taps + 1) * PART);
  copy_weights(task, weight, bias, weights);
  for (int64_t t = task.begin; t < task.end; t += STEPS) {
    const int64_t stop = std::min(t + STEPS, task.end);
    copy_steps(task, u, state, t - memory, stop, window);
    for (int64_t k = 0; k < stop - t; k++) {
      float* to = out + task.row(t + k);
      for (int64_t i = 0; i < task.count; i += W) {
        const vec value = filter<TAPS>(weights + i, window + (memory + k) * PART + i, shape.taps);
        store_part(to + i, shape.silu ? value * sigmoid(value) : value, task.count - i);
      }
    }
  }
  if (task.end < task.length) return;
  for (int64_t i = 0; i < memory; i++) {  // the last `memory` steps, those of the state among them where the sequence is shorter
    const int64_t t = task.length - memory + i;
    const float* from = t < 0 ? state + task.state_row(memory + t) : u + task.row(t);
    memcpy(final + task.state_row(i), from, task.count * sizeof(float));
  }
}

// Gradients before the activation of the steps [from, to), rows of PART; zeros at steps beyond the sequence. window: those steps and the memory
// before them.
template <int64_t TAPS>
void before_activation(const Task& task, const float* dout, const float* weights, const float* window, int64_t from, int64_t to, float* rows) {
  const Shape& shape = task.shape;
  for (int64_t t = from; t < to; t++, rows += PART) {
    if (t >= task.length) {
      memset(rows, 0, PART * sizeof(float));
      continue;
    }
    copy_row(rows, dout + task.row(t), task.count);
    if (!shape.silu) continue;
    for (int64_t i = 0; i < task.count; i += W) {
      const vec value = filter<TAPS>(weights + i, window + (shape.memory() + t - from) * PART + i, shape.taps), s = sigmoid(value);
      store(rows + i, load(rows + i) * (s + value * s * (1.f - s)));
    }
  }
}

// Gradient of the input at the step whose own gradient stands at `row`, those of later steps behind it.
template <int64_t TAPS>
INLINE vec gather(const float* weights, const float* row, int64_t number) {
  const int64_t taps = TAPS ? TAPS : number;
  vec du = load(weights) * load(row);
  for (int64_t j = 1; j < taps; j++) du += load(weights + j * PART) * load(row + j * PART);
  return du;
}

// Adds to sums [taps + 1][PART], of weights and bias, the terms of `steps` steps, four taps at a time.
template <int64_t TAPS>
INLINE void add_terms(const float* window, const float* rows, int64_t steps, int64_t number, float* sums) {
  const int64_t taps = TAPS ? TAPS : number;
  const float* present = window + (taps - 1) * PART;
  for (int64_t first = 0; first < taps; first += 4) {
    const int64_t group = std::min<int64_t>(4, taps - first);
    vec sum[4] = {}, total = {};
    for (int64_t k = 0; k < steps; k++) {
      const vec g = load(rows + k * PART);
      total += g;
      for (int64_t j = 0; j < 4; j++)
        if (j < group) sum[j] += g * load(present + (k - first - j) * PART);
    }
    for (int64_t j = 0; j < group; j++) store(sums + (first + j) * PART, load(sums + (first + j) * PART) + sum[j]);
    if (first == 0) store(sums + taps * PART, load(sums + taps * PART) + total);
  }
}

struct Gradients {
  float *u, *state;
};

void add_row(float* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += W) store_part(to + i, load_part(to + i, count - i) + load_part(from + i, count - i), count - i);
}

// What the state receives: steps -memory .. -1, whose own gradient is zero. rows: those of the steps 0 .. memory - 1.
template <int64_t TAPS>
void state_gradient(const Task& task, const float* weights, float* rows, float* dstate) {
  const int64_t memory = task.shape.memory();
  memmove(rows + memory * PART, rows, memory * PART * sizeof(float));
  memset(rows, 0, memory * PART * sizeof(float));
  for (int64_t r = 0; r < memory; r++)
    for (int64_t i = 0; i < task.count; i += W)
      store_part(dstate + task.state_row(r) + i, gather<TAPS>(weights + i, rows + r * PART + i, task.shape.taps), task.count - i);
}

// sums: [taps + 1][channels], this block's part of the gradients of weights and bias.
template <int64_t TAPS>
void backward_task(const Task& task, const float* u, const float* weight, const float* bias, const float* state, const float* dout,
                   const float* dfinal, const Gradients& grad, float* sums) {
  const Shape& shape = task.shape;
  const int64_t memory = shape.memory(), span = std::max(STEPS, memory) + memory;
  Scratch scratch((2 * span + 2 * (shape.taps + 1)) * PART);
  float *window = scratch.take(span * PART), *rows = scratch.take(span * PART);
  float *weights = scratch.take((shape.taps + 1) * PART), *terms = scratch.take((shape.taps + 1) * PART);
  copy_weights(task, weight, bias, weights);
  memset(terms, 0, (shape.taps + 1) * PART * sizeof(float));
  copy_steps(task, u, state, task.end - memory, std::min(task.end + memory, task.length), window);
  before_activation<TAPS>(task, dout, weights, window, task.end, task.end + memory, rows);  // of the steps behind this block
  for (int64_t stop = task.end; stop > task.begin;) {
    const int64_t t = std::max(task.begin, (stop - 1) / STEPS * STEPS), steps = stop - t;
    memmove(rows + steps * PART, rows, memory * PART * sizeof(float));
    copy_steps(task, u, state, t - memory, stop, window);
    before_activation<TAPS>(task, dout, weights, window, t, stop, rows);
    for (int64_t i = 0; i < task.count; i += W) {
      for (int64_t k = 0; k < steps; k++)
        store_part(grad.u + task.row(t + k) + i, gather<TAPS>(weights + i, rows + k * PART + i, shape.taps), task.count - i);
      add_terms<TAPS>(window + i, rows + i, steps, shape.taps, terms + i);
    }
    stop = t;
  }
  if (task.begin == 0) state_gradient<TAPS>(task, weights, rows, grad.state);
  for (int64_t i = 0; i < memory; i++) {  // the final state is a copy of the last steps
    const int64_t t = task.length - memory + i;
    if (t >= 0 ? t >= task.begin && t < task.end : task.begin == 0)
      add_row(t < 0 ? grad.state + task.state_row(memory + t) : grad.u + task.row(t), dfinal + task.state_row(i), task.count);
  }
  for (int64_t j = 0; j <= shape.taps; j++) memcpy(sums + j * shape.channels + task.first, terms + j * PART, task.count * sizeof(float));
}

}  // namespace

// u, out [rows, C]; weight [taps, C]; bias [C] or null; state, final [S, taps - 1, C], the latest step last
EXPORT void causal_conv_forward(const float* u, const float* weight, const float* bias, const float* state, const int64_t* starts, float* out,
                                float* final, int64_t sequences, int64_t channels, int64_t taps, int64_t reverse, int64_t silu, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, channels, taps, silu};
  const std::vector<Block> blocks = blocks_of(shape);
  const int64_t parts = shape.parts(), tasks = (int64_t)blocks.size() * parts;
  const auto run = taps == 4 ? forward_task<4> : forward_task<0>;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks; i++) run(Task(shape, blocks[i / parts], i % parts), u, weight, bias, state, out, final);
}

// dsums [taps + 1, C]: gradients of the taps, then of the bias
EXPORT void causal_conv_backward(const float* u, const float* weight, const float* bias, const float* state, const float* dout,
                                 const float* dfinal, const int64_t* starts, float* du, float* dsums, float* dstate, int64_t sequences,
                                 int64_t channels, int64_t taps, int64_t reverse, int64_t silu, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, channels, taps, silu};
  const std::vector<Block> blocks = blocks_of(shape);
  const int64_t parts = shape.parts(), number = blocks.size(), size = (taps + 1) * channels;
  const std::unique_ptr<float[]> sums(new float[number * size]);
  const auto run = taps == 4 ? backward_task<4> : backward_task<0>;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < number * parts; i++)
    run(Task(shape, blocks[i / parts], i % parts), u, weight, bias, state, dout, dfinal, {du, dstate}, &sums[i / parts * size]);
#pragma omp parallel for num_threads(threads)
  for (int64_t from = 0; from < size; from += PART) {
    const int64_t to = std::min(from + PART, size);
    std::fill(dsums + from, dsums + to, 0.f);
    for (int64_t b = 0; b < number; b++)
      for (int64_t i = from; i < to; i++) dsums[i] += sums[b * size + i];
  }
}
