// h_t = a_t h_{t-1} + x_t for every channel by itself, real (a = sign exp(log_decay)) and complex. Bound by memory: a thread walks a run of
// channels through one sequence, with their states in the cache, and each number is read and written once.
#include <algorithm>
#include "sequences.h"
#include "vector.h"

namespace {

constexpr int64_t PART = 512;  // most channels that a thread walks together

// Geometry of one call. Rows have `channels` numbers.
struct Shape : Sequences {
  int64_t channels;
  int64_t part() const { return std::min(PART, round_up(channels / 2 + 1, 64)); }
  int64_t parts() const { return (channels + part() - 1) / part(); }
  int64_t tasks() const { return sequences * parts(); }
};

// One thread's share: channels [first, first + count) of sequence s.
struct Task {
  int64_t s, first, count, length, row, step;
  Task(const Shape& shape, int64_t task) {
    s = task / shape.parts();
    first = task % shape.parts() * shape.part();
    count = std::min(shape.part(), shape.channels - first);
    length = shape.length(s);
    row = shape.row(s, 0);
    step = shape.step();
  }
};

INLINE vec decay_of(const float* log_decay, const float* sign, int64_t at, int64_t lanes) {
  const vec a = exp2(load_part(log_decay + at, lanes) * LOG2E);
  return sign ? a * load_part(sign + at, lanes) : a;
}

void forward_task(const Shape& shape, const Task& task, const float* x, const float* log_decay, const float* sign, const float* initial, float* h,
                  float* final) {
  alignas(64) float state[PART] = {};
  memcpy(state, initial + task.s * shape.channels + task.first, task.count * sizeof(float));
  for (int64_t t = 0; t < task.length; t++) {
    const int64_t at = (task.row + t * task.step) * shape.channels + task.first;
    for (int64_t i = 0; i < task.count; i += W) {
      const int64_t lanes = task.count - i;
      const vec value = decay_of(log_decay, sign, at + i, lanes) * load(state + i) + load_part(x + at + i, lanes);
      store(state + i, value);
      store_part(h + at + i, value, lanes);
    }
  }
  memcpy(final + task.s * shape.channels + task.first, state, task.count * sizeof(float));
}

void backward_task(const Shape& shape, const Task& task, const float* log_decay, const float* sign, const float* initial, const float* h,
                   const float* dh, const float* dfinal, float* dx, float* dlog_decay, float* dinitial) {
  alignas(64) float carry[PART] = {};
  memcpy(carry, dfinal + task.s * shape.channels + task.first, task.count * sizeof(float));
  for (int64_t t = task.length - 1; t >= 0; t--) {
    const int64_t at = (task.row + t * task.step) * shape.channels + task.first;
    const float* before = t ? h + at - task.step * shape.channels : initial + task.s * shape.channels + task.first;
    for (int64_t i = 0; i < task.count; i += W) {
      const int64_t lanes = task.count - i;
      const vec gradient = load_part(dh + at + i, lanes) + load(carry + i);
      const vec passed = decay_of(log_decay, sign, at + i, lanes) * gradient;
      store_part(dx + at + i, gradient, lanes);
      store_part(dlog_decay + at + i, passed * load_part(before + i, lanes), lanes);
      store(carry + i, passed);
    }
  }
  memcpy(dinitial + task.s * shape.channels + task.first, carry, task.count * sizeof(float));
}

// Complex numbers lie as (real, imaginary) pairs; channels count pairs.
void complex_forward_task(const Shape& shape, const Task& task, const float* x, const float* decay, const float* initial, float* h, float* final) {
  float re[PART], im[PART];
  const float* from = initial + 2 * (task.s * shape.channels + task.first);
  for (int64_t i = 0; i < task.count; i++) re[i] = from[2 * i], im[i] = from[2 * i + 1];
  for (int64_t t = 0; t < task.length; t++) {
    const int64_t at = 2 * ((task.row + t * task.step) * shape.channels + task.first);
    const float *x_t = x + at, *a = decay + at;
    float* __restrict__ h_t = h + at;
    for (int64_t i = 0; i < task.count; i++) {
      const float real = a[2 * i] * re[i] - a[2 * i + 1] * im[i] + x_t[2 * i];
      const float imaginary = a[2 * i] * im[i] + a[2 * i + 1] * re[i] + x_t[2 * i + 1];
      h_t[2 * i] = re[i] = real;
      h_t[2 * i + 1] = im[i] = imaginary;
    }
  }
  float* to = final + 2 * (task.s * shape.channels + task.first);
  for (int64_t i = 0; i < task.count; i++) to[2 * i] = re[i], to[2 * i + 1] = im[i];
}

void complex_backward_task(const Shape& shape, const Task& task, const float* decay, const float* initial, const float* h, const float* dh,
                           const float* dfinal, float* dx, float* ddecay, float* dinitial) {
  float re[PART], im[PART];
  const int64_t state = 2 * (task.s * shape.channels + task.first);
  for (int64_t i = 0; i < task.count; i++) re[i] = dfinal[state + 2 * i], im[i] = dfinal[state + 2 * i + 1];
  for (int64_t t = task.length - 1; t >= 0; t--) {
    const int64_t at = 2 * ((task.row + t * task.step) * shape.channels + task.first);
    const float *before = t ? h + at - 2 * task.step * shape.channels : initial + state, *a = decay + at, *dh_t = dh + at;
    float *__restrict__ dx_t = dx + at, *__restrict__ da = ddecay + at;
    for (int64_t i = 0; i < task.count; i++) {
      const float real = dh_t[2 * i] + re[i], imaginary = dh_t[2 * i + 1] + im[i];
      dx_t[2 * i] = real;
      dx_t[2 * i + 1] = imaginary;
      da[2 * i] = real * before[2 * i] + imaginary * before[2 * i + 1];  // gradient times the conjugate
      da[2 * i + 1] = imaginary * before[2 * i] - real * before[2 * i + 1];
      re[i] = real * a[2 * i] + imaginary * a[2 * i + 1];
      im[i] = imaginary * a[2 * i] - real * a[2 * i + 1];
    }
  }
  for (int64_t i = 0; i < task.count; i++) dinitial[state + 2 * i] = re[i], dinitial[state + 2 * i + 1] = im[i];
}

}  // namespace

// x, log_decay, sign (or null), h [rows, D]; initial, final [S, D]
EXPORT void diagonal_scan_forward(const float* x, const float* log_decay, const float* sign, const float* initial, const int64_t* starts, float* h,
                                  float* final, int64_t sequences, int64_t channels, int64_t reverse, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, channels};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < shape.tasks(); i++) forward_task(shape, Task(shape, i), x, log_decay, sign, initial, h, final);
}

EXPORT void diagonal_scan_backward(const float* log_decay, const float* sign, const float* initial, const float* h, const float* dh,
                                   const float* dfinal, const int64_t* starts, float* dx, float* dlog_decay, float* dinitial, int64_t sequences,
                                   int64_t channels, int64_t reverse, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, channels};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < shape.tasks(); i++)
    backward_task(shape, Task(shape, i), log_decay, sign, initial, h, dh, dfinal, dx, dlog_decay, dinitial);
}

// x, decay, h [rows, D, 2]; initial, final [S, D, 2]
EXPORT void complex_diagonal_scan_forward(const float* x, const float* decay, const float* initial, const int64_t* starts, float* h, float* final,
                                          int64_t sequences, int64_t channels, int64_t reverse, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, channels};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < shape.tasks(); i++) complex_forward_task(shape, Task(shape, i), x, decay, initial, h, final);
}

EXPORT void complex_diagonal_scan_backward(const float* decay, const float* initial, const float* h, const float* dh, const float* dfinal,
                                           const int64_t* starts, float* dx, float* ddecay, float* dinitial, int64_t sequences, int64_t channels,
                                           int64_t reverse, int64_t threads) {
  const Shape shape{{starts, sequences, reverse}, channels};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < shape.tasks(); i++)
    complex_backward_task(shape, Task(shape, i), decay, initial, h, dh, dfinal, dx, ddecay, dinitial);
}
