// TTT-Linear: a linear map W, b takes one gradient step per mini-batch. With z_j = W^T k_j + b, g_j = d/dz_j 1/2 |LN(z_j) - (v_j - k_j)|^2
//   y_i = W^T q_i + b - sum over j <= i of score_ij g_j,   score_ij = query_rate_i key_rate_j (q_i . k_j + 1)
//   o_i = q_i (or y_i) + LN(y_i)
//   W <- W - sum over j of state_rate_j k_j g_j^T, b likewise.
// Forward lanes are value channels; in the backward they are key channels for W, so that gradients of q and k need no sums over lanes.
#include <cmath>
#include <initializer_list>
#include "delta_tiles.h"
#include "sequences.h"

namespace {

constexpr int64_t CHUNK = 64;  // at least so many steps lie between the states that the forward keeps
constexpr int GROUP = 8;       // rows that go through a matrix together

struct Call : Sequences {
  const float *q, *k, *v, *rate, *gain, *shift, *scale;
  int64_t heads, width, size, late;  // size: of a mini-batch; late: the rate is the query's, and o_i = y_i + LN(y_i)
  float eps;
  int64_t vectors() const { return (width + W - 1) / W; }
  int64_t stride() const { return vectors() * W; }
  int64_t rows() const { return round_up(size, GROUP); }
  int64_t together() const { return (CHUNK + size - 1) / size; }  // mini-batches between kept states
};

// A mini-batch of one head: `count` steps; rows [rows, stride] behind them are zero.
struct Batch {
  const Call& call;
  int64_t h, count = 0, rows, stride;
  int64_t token[3] = {};  // first, step
  float *q, *k, *gradient, *normal, *slope, *scaled_k;       // [rows, stride]
  float *key_rate, *query_rate, *state_rate, *inverse, *scores;  // [rows], scores [rows, rows] of q_i . k_j + 1
  float *gain, *shift, *mask;                                // [stride]

  static int64_t floats(const Call& call) {
    return 6 * call.rows() * call.stride() + call.rows() * (call.rows() + 4) + 3 * call.stride() + 512;
  }
  Batch(const Call& call, int64_t h, Scratch& scratch) : call(call), h(h), rows(call.rows()), stride(call.stride()) {
    for (float** matrix : {&q, &k, &gradient, &normal, &slope, &scaled_k}) *matrix = scratch.take(rows * stride);
    for (float** row : {&key_rate, &query_rate, &state_rate, &inverse}) *row = scratch.take(rows);
    for (float** row : {&gain, &shift, &mask}) *row = scratch.take(stride);
    scores = scratch.take(rows * rows);
    for (int64_t c = 0; c < stride; c++) {
      mask[c] = c < call.width;
      gain[c] = c < call.width ? call.gain[h * call.width + c] : 0.f;
      shift[c] = c < call.width ? call.shift[h * call.width + c] : 0.f;
    }
  }
  int64_t head(int64_t j) const { return (token[0] + j * token[1]) * call.heads + h; }
  vec part(const float* from, int64_t j, int64_t c) const { return load_part(from + head(j) * call.width + c, call.width - c); }
  void put(float* to, int64_t j, int64_t c, vec x) const { store_part(to + head(j) * call.width + c, x, call.width - c); }
  float mean(vec total) const { return sum(total) / call.width; }

  void lay(const float* from, float* to) const {
    for (int64_t j = 0; j < rows; j++)
      for (int64_t c = 0; c < stride; c += W) store(to + j * stride + c, j < count ? part(from, j, c) : vec{});
  }
  void begin(int64_t s, int64_t n) {
    token[0] = call.row(s, n);
    token[1] = call.step();
    count = std::min(call.size, call.length(s) - n);
    lay(call.q, q);
    lay(call.k, k);
    for (int64_t j = 0; j < rows; j++) {
      const bool there = j < count;
      const float rate = there ? call.rate[head(j)] : 0.f, last = call.scale[count - 1];
      key_rate[j] = there ? (call.late ? 1.f : rate) : 0.f;
      query_rate[j] = there ? (call.late ? call.scale[j] * rate : call.scale[j]) : 0.f;
      state_rate[j] = there ? last * (call.late ? call.rate[head(count - 1)] : rate) : 0.f;
      for (int64_t c = 0; c < stride; c += W) store(scaled_k + j * stride + c, load(k + j * stride + c) * -state_rate[j]);
    }
  }
  // Asks for the rows of the mini-batch at step n: those of one head lie far apart, which hardware does not foresee.
  INLINE void fetch(int64_t s, int64_t n, std::initializer_list<const float*> tensors) const {
    const int64_t steps = std::min(call.size, call.length(s) - n);
    for (const float* tensor : tensors)
      for (int64_t j = 0; tensor && j < steps; j++) {
        const float* row = tensor + (call.row(s, n + j) * call.heads + h) * call.width;
        for (int64_t c = 0; c < call.width; c += 16) __builtin_prefetch(row + c, 0, 2);
      }
  }
  // x, a row, becomes (x - mean) / deviation; returns 1 / deviation.
  float normalise(float* x) const {
    vec total{}, square{};
    for (int64_t c = 0; c < stride; c += W) total += load(x + c);
    const float middle = mean(total);
    for (int64_t c = 0; c < stride; c += W) {
      const vec centred = (load(x + c) - middle) * load(mask + c);
      square += centred * centred;
      store(x + c, centred);
    }
    const float inverse = 1.f / std::sqrt(mean(square) + call.eps);
    for (int64_t c = 0; c < stride; c += W) store(x + c, load(x + c) * inverse);
    return inverse;
  }
  // to = factor * (x without what is along the constant row and along `normal`), and how much there was of them.
  void project_out(const float* x, const float* normal, float factor, float* to, float* along_one, float* along_normal) const {
    vec total{}, with_normal{};
    for (int64_t c = 0; c < stride; c += W) {
      total += load(x + c);
      with_normal += load(x + c) * load(normal + c);
    }
    *along_one = mean(total);
    *along_normal = mean(with_normal);
    for (int64_t c = 0; c < stride; c += W)
      store(to + c, (load(x + c) - *along_one - load(normal + c) * *along_normal) * factor * load(mask + c));
  }
  // From z in `normal` to the inner gradients; along [rows]: mean of slope * normal.
  void inner_gradients(float* along = nullptr) {
    for (int64_t j = 0; j < rows; j++) {
      float *x = normal + j * stride, one, part_along = 0;
      if (j < count) {
        inverse[j] = normalise(x);
        for (int64_t c = 0; c < stride; c += W) {
          const vec error = load(gain + c) * load(x + c) + load(shift + c) - part(call.v, j, c) + load(k + j * stride + c);
          store(slope + j * stride + c, error * load(gain + c));
        }
        project_out(slope + j * stride, x, inverse[j], gradient + j * stride, &one, &part_along);
      } else {
        memset((void*)(gradient + j * stride), 0, stride * sizeof(float));
      }
      if (along) along[j] = part_along;
    }
  }
  // to[i][j] = a_i . b_j + more for j <= i < count (above the diagonal, whatever fills the vector).
  void products(const float* a, const float* b, float more, float* to) const {
    for (int64_t i = 0; i < count; i++)
      for (int64_t j = 0; j <= i; j += GROUP) {
        vec total[GROUP] = {};
        for (int64_t c = 0; c < stride; c += W) {
          const vec x = load(a + i * stride + c);
#pragma GCC unroll 8
          for (int r = 0; r < GROUP; r++) total[r] += x * load(b + (j + r) * stride + c);
        }
        alignas(64) float found[GROUP + W];
        store_sums<GROUP>(total, found);
        for (int r = 0; r < GROUP; r++) to[i * rows + j + r] = found[r] + more;
      }
  }
  float score(int64_t i, int64_t j) const { return scores[i * rows + j] * query_rate[i] * key_rate[j]; }
};

// out [rows, stride] = rows of coefficients times the matrix (rows `depth`).
void read_all(const Panels& shape, const float* matrix, int64_t depth, const float* rows, int64_t count, int64_t stride, float* out) {
  for (int64_t first = 0; first < shape.vectors; first += PANEL)
    for (int64_t j = 0; j < count; j += GROUP) {
      vec got[GROUP * PANEL];
      const int64_t width = shape.width(first);
      if (width == PANEL)
        read_panel<GROUP, PANEL>(matrix + shape.panel(first), depth, rows + j * stride, stride, got);
      else
        read_panel<GROUP, 1>(matrix + shape.panel(first), depth, rows + j * stride, stride, got);
      for (int64_t r = 0; r < GROUP; r++)
        for (int64_t p = 0; p < width; p++) store(out + (j + r) * stride + (first + p) * W, got[r * width + p]);
    }
}

// to = from + sum over rows of coefficient row (down the matrix) times value row (lanes).
void write_all(const Panels& shape, const float* from, float* to, int64_t depth, const float* rows, const float* values, int64_t count,
               int64_t stride) {
  for (int64_t first = 0; first < shape.vectors; first += PANEL)
    for (int64_t j = 0; j < count; j += GROUP) {
      vec value[GROUP * PANEL];
      const int64_t width = shape.width(first), at = shape.panel(first);
      for (int64_t r = 0; r < GROUP; r++)
        for (int64_t p = 0; p < width; p++) value[r * width + p] = load(values + (j + r) * stride + (first + p) * W);
      const float* source = j ? to : from;
      if (width == PANEL)
        write_panel<GROUP, PANEL, NOT>(source + at, to + at, depth, rows + j * stride, stride, value, nullptr);
      else
        write_panel<GROUP, 1, NOT>(source + at, to + at, depth, rows + j * stride, stride, value, nullptr);
    }
}

struct Outputs {
  float *o, *weight, *bias, *kept, *z, *y;  // kept, z and y may be null
};

void forward_task(const Call& call, int64_t s, int64_t h, const float* weight, const float* bias, const Outputs& to, Scratch& scratch) {
  char* const mark = scratch.next;
  const int64_t D = call.width, length = call.length(s), at = s * call.heads + h, stride = call.stride();
  const Panels shape{D, call.vectors()};
  Batch batch(call, h, scratch);
  float *state = scratch.take(shape.size()), *b = scratch.take(stride), *y = scratch.take(batch.rows * stride);
  load_panels(shape, weight + at * D * D, D, state);
  for (int64_t c = 0; c < stride; c += W) store(b + c, load_part(bias + at * D + c, D - c));
  for (int64_t n = 0; n < length; n += call.size) {
    const int64_t group = call.together() * call.size;
    if (to.kept && n % group == 0) store_panels(shape, state, D, to.kept + (call.slot(s, n, group) * call.heads + h) * D * D);
    batch.begin(s, n);
    if (n + call.size < length) batch.fetch(s, n + call.size, {call.q, call.k, call.v, to.o, to.z, to.y});
    read_all(shape, state, D, batch.k, batch.count, stride, batch.normal);
    read_all(shape, state, D, batch.q, batch.count, stride, y);
    for (int64_t j = 0; j < batch.count; j++)
      for (int64_t c = 0; c < stride; c += W) {
        const vec z = load(batch.normal + j * stride + c) + load(b + c);
        store(batch.normal + j * stride + c, z);
        store(y + j * stride + c, load(y + j * stride + c) + load(b + c));
        if (to.z) batch.put(to.z, j, c, z);
      }
    batch.inner_gradients();
    batch.products(batch.q, batch.k, 1.f, batch.scores);
    for (int64_t i = 0; i < batch.count; i++) {
      float *row = batch.normal + i * stride, *score = batch.scores + i * batch.rows;
      for (int64_t j = 0; j <= i; j++) score[j] = batch.score(i, j);
      for (int64_t c = 0; c < stride; c += W) {
        vec out = load(y + i * stride + c);
        for (int64_t j = 0; j <= i; j++) out -= load(batch.gradient + j * stride + c) * score[j];
        if (to.y) batch.put(to.y, i, c, out);
        store(row + c, out);
        if (call.late) store(batch.q + i * stride + c, out);  // the residual
      }
      batch.normalise(row);
      for (int64_t c = 0; c < stride; c += W)
        batch.put(to.o, i, c, load(batch.q + i * stride + c) + load(row + c) * load(batch.gain + c) + load(batch.shift + c));
    }
    write_all(shape, state, state, D, batch.scaled_k, batch.gradient, batch.count, stride);
    for (int64_t j = 0; j < batch.count; j++)
      for (int64_t c = 0; c < stride; c += W) store(b + c, load(b + c) - load(batch.gradient + j * stride + c) * batch.state_rate[j]);
  }
  store_panels(shape, state, D, to.weight + at * D * D);
  for (int64_t c = 0; c < stride; c += W) store_part(to.bias + at * D + c, load(b + c), D - c);
  scratch.next = mark;
}

struct Gradients {
  float *q, *k, *v, *rate, *gain, *shift, *scale, *weight, *bias;  // gain, shift [S, H, D], scale [S, H, size]: a part per sequence
};

// The walk back over one head of a sequence.
struct Backward {
  const Call& call;
  const Gradients& grad;
  Batch batch;
  Panels shape;  // transposed: rows are value channels
  int64_t rows, stride;
  float *states, *dW, *db, *dgain, *dshift, *dscale;
  float *dy, *dz, *back, *scratch_row, *dscores, *along, *dquery, *dkey, *dstate, *column;

  static int64_t floats(const Call& call) {
    const int64_t matrix = round_up(call.width, 4) * call.stride();
    return Batch::floats(call) + (call.together() + 1) * (matrix + 16) +
           call.rows() * (5 * call.stride() + call.rows() + 6) + 5 * call.stride() + 512;
  }
  Backward(const Call& call, const Gradients& grad, int64_t h, Scratch& scratch)
      : call(call),
        grad(grad),
        batch(call, h, scratch),
        shape{round_up(call.width, 4), call.vectors()},
        rows(call.rows()),
        stride(call.stride()) {
    states = scratch.take(call.together() * shape.size());
    dW = scratch.take(shape.size());
    memset((void*)dW, 0, shape.size() * sizeof(float));
    for (float** row : {&db, &dgain, &dshift, &scratch_row}) *row = scratch.take(stride);
    for (float** row : {&dscale, &along, &dquery, &dkey, &dstate, &column}) *row = scratch.take(rows);
    for (float** matrix : {&dy, &dz, &back}) {
      *matrix = scratch.take(rows * stride);
      memset((void*)*matrix, 0, rows * stride * sizeof(float));
    }
    dscores = scratch.take(rows * rows);
    for (int64_t c = 0; c < stride; c++) dgain[c] = dshift[c] = 0.f;
    for (int64_t j = 0; j < rows; j++) dscale[j] = 0.f;
  }
  void outer_norm(const float* y, const float* d_o);
  void inner_products();
  void inner_norm();
  void finish(const float* W_before, const float* d_o);
  void rates();
};

// dy from the gradient of o; gradients of gain and shift from there.
void Backward::outer_norm(const float* y, const float* d_o) {
  for (int64_t i = 0; i < rows; i++) {
    float *out = dy + i * stride, *normal = scratch_row, one, two;
    if (i >= batch.count) {
      memset((void*)out, 0, stride * sizeof(float));
      continue;
    }
    for (int64_t c = 0; c < stride; c += W) store(normal + c, batch.part(y, i, c));
    const float inverse = batch.normalise(normal);
    for (int64_t c = 0; c < stride; c += W) {
      const vec g = batch.part(d_o, i, c);
      store(dgain + c, load(dgain + c) + g * load(normal + c));
      store(dshift + c, load(dshift + c) + g);
      store(out + c, g * load(batch.gain + c));
    }
    batch.project_out(out, normal, inverse, out, &one, &two);
    if (call.late)
      for (int64_t c = 0; c < stride; c += W) store(out + c, load(out + c) + batch.part(d_o, i, c));
  }
}

// Gradients of the scores (in dscores: of q_i . k_j), of the rates, and of the inner gradients (in dz).
void Backward::inner_products() {
  for (int64_t j = 0; j < batch.count; j += GROUP) project<GROUP>(shape, dW, batch.k + j * stride, stride, dz + j * stride, stride);
  batch.products(batch.q, batch.k, 1.f, batch.scores);
  batch.products(dy, batch.gradient, 0.f, dscores);
  for (int64_t j = 0; j < rows; j++) dquery[j] = dkey[j] = dstate[j] = 0.f;
  for (int64_t j = 0; j < batch.count; j++) {
    float* row = dz + j * stride;
    vec total{};
    for (int64_t c = 0; c < stride; c += W) {
      const vec step = (load(row + c) + load(db + c)) * load(batch.mask + c);
      total += step * load(batch.gradient + j * stride + c);
      store(row + c, step * -batch.state_rate[j]);
    }
    dstate[j] = -sum(total);
    for (int64_t i = j; i < batch.count; i++) {
      const float weight = batch.scores[i * rows + j], d = -dscores[i * rows + j];
      column[i] = batch.score(i, j);
      dquery[i] += d * weight * batch.key_rate[j];
      dkey[j] += d * weight * batch.query_rate[i];
      dscores[i * rows + j] = d * batch.query_rate[i] * batch.key_rate[j];
    }
    for (int64_t c = 0; c < stride; c += W) {
      vec out = load(row + c);
      for (int64_t i = j; i < batch.count; i++) out -= load(dy + i * stride + c) * column[i];
      store(row + c, out);
    }
  }
}

// From the gradient of the inner gradient to that of z, both in dz; v is done, and what k gets through the target lies in `back`.
void Backward::inner_norm() {
  for (int64_t j = 0; j < batch.count; j++) {
    float *g = dz + j * stride, *ds = scratch_row, *normal = batch.normal + j * stride, *slope = batch.slope + j * stride, one, two;
    const float inverse = batch.inverse[j], width = (float)call.width;
    batch.project_out(g, normal, inverse, ds, &one, &two);
    vec through_inverse{}, with_normal{}, total{};
    for (int64_t c = 0; c < stride; c += W) {
      const vec x = load(normal + c), gain = load(batch.gain + c), d = load(ds + c);
      const vec error = gain * x + load(batch.shift + c) + load(batch.k + j * stride + c) - batch.part(call.v, j, c);
      const vec de = gain * d;
      store(dgain + c, load(dgain + c) + d * error + de * x);
      store(dshift + c, load(dshift + c) + de);
      batch.put(grad.v, j, c, -de);
      store(back + j * stride + c, de);
      const vec dx = gain * de - (load(g + c) * along[j] + load(slope + c) * two) * inverse;
      through_inverse += load(g + c) * load(batch.gradient + j * stride + c);
      with_normal += x * dx;
      store(g + c, dx);
    }
    const float both = (sum(through_inverse) + sum(with_normal)) / width;
    for (int64_t c = 0; c < stride; c += W) {
      const vec dc = (load(g + c) - load(normal + c) * both) * inverse * load(batch.mask + c);
      total += dc;
      store(g + c, dc);
    }
    const float middle = batch.mean(total);
    for (int64_t c = 0; c < stride; c += W) store(g + c, (load(g + c) - middle) * load(batch.mask + c));
  }
  for (int64_t j = batch.count; j < rows; j++) memset((void*)(dz + j * stride), 0, stride * sizeof(float));
}

// Gradients of q and k, and dW, db of the state before the mini-batch.
void Backward::finish(const float* W_before, const float* d_o) {
  const int64_t D = call.width, count = batch.count;
  float *by_gradient = batch.normal, *by_z = batch.slope, *by_y = batch.gradient;  // used up, the last one by the first of these reads
  read_all(shape, dW, D, batch.gradient, count, stride, by_gradient);
  read_all(shape, W_before, D, dz, count, stride, by_z);
  read_all(shape, W_before, D, dy, count, stride, by_y);
  for (int64_t j = 0; j < count; j++)
    for (int64_t c = 0; c < stride; c += W) {
      vec dk = load(back + j * stride + c) + load(by_z + j * stride + c) - load(by_gradient + j * stride + c) * batch.state_rate[j];
      for (int64_t i = j; i < count; i++) dk += load(batch.q + i * stride + c) * dscores[i * rows + j];
      vec dq = load(by_y + j * stride + c);
      for (int64_t i = 0; i <= j; i++) dq += load(batch.k + i * stride + c) * dscores[j * rows + i];
      if (!call.late) dq += batch.part(d_o, j, c);
      batch.put(grad.k, j, c, dk);
      batch.put(grad.q, j, c, dq);
      store(db + c, load(db + c) + load(dz + j * stride + c) + load(dy + j * stride + c));
    }
  write_all(shape, dW, dW, D, dz, batch.k, count, stride);
  write_all(shape, dW, dW, D, dy, batch.q, count, stride);
}

void Backward::rates() {
  const int64_t last = batch.count - 1;
  float state = 0.f, state_rate = 0.f;  // sums over steps, of the gradient and with each one's own rate
  for (int64_t j = 0; j <= last; j++) {
    const float rate = call.rate[batch.head(j)];
    state += dstate[j];
    state_rate += dstate[j] * rate;
    grad.rate[batch.head(j)] = call.late ? dquery[j] * call.scale[j] : dkey[j] + dstate[j] * call.scale[last];
    dscale[j] += call.late ? dquery[j] * rate : dquery[j];
  }
  if (call.late) grad.rate[batch.head(last)] += state * call.scale[last];
  dscale[last] += call.late ? state * call.rate[batch.head(last)] : state_rate;
}

void backward_task(const Call& call, int64_t s, int64_t h, const float* kept, const float* z, const float* y, const float* d_o,
                   const float* d_weight, const float* d_bias, const Gradients& grad, Scratch& scratch) {
  char* const mark = scratch.next;
  Backward walk(call, grad, h, scratch);
  Batch& batch = walk.batch;
  const Panels& shape = walk.shape;
  const int64_t D = call.width, length = call.length(s), at = s * call.heads + h, stride = call.stride();
  const int64_t group = call.together() * call.size;
  load_transposed(shape, d_weight + at * D * D, D, D, walk.dW);
  for (int64_t c = 0; c < stride; c += W) store(walk.db + c, load_part(d_bias + at * D + c, D - c));
  auto begin = [&](int64_t n) {
    batch.begin(s, n);
    batch.lay(z, batch.normal);
    batch.inner_gradients(walk.along);
  };
  for (int64_t n = length ? (length - 1) / group * group : -1; n >= 0; n -= group) {
    load_transposed(shape, kept + (call.slot(s, n, group) * call.heads + h) * D * D, D, D, walk.states);
    const int64_t batches = (std::min(group, length - n) + call.size - 1) / call.size;
    for (int64_t b = 0; b + 1 < batches; b++) {
      begin(n + b * call.size);
      float* from = walk.states + b * shape.size();
      write_all(shape, from, from + shape.size(), D, batch.gradient, batch.scaled_k, batch.count, stride);
    }
    for (int64_t b = batches - 1; b >= 0; b--) {
      begin(n + b * call.size);
      const int64_t next = n + (b - 1) * call.size;
      if (next >= 0) batch.fetch(s, next, {call.q, call.k, call.v, z, y, d_o, grad.q, grad.k, grad.v});
      walk.outer_norm(y, d_o);
      walk.inner_products();
      walk.inner_norm();
      walk.finish(walk.states + b * shape.size(), d_o);
      walk.rates();
    }
  }
  store_transposed(shape, walk.dW, D, D, grad.weight + at * D * D);
  for (int64_t c = 0; c < stride; c += W) {
    store_part(grad.bias + at * D + c, load(walk.db + c), D - c);
    store_part(grad.gain + at * D + c, load(walk.dgain + c), D - c);
    store_part(grad.shift + at * D + c, load(walk.dshift + c), D - c);
  }
  memcpy(grad.scale + at * call.size, walk.dscale, call.size * sizeof(float));
  scratch.next = mark;
}

}  // namespace

// q, k, v, o, z, y [tokens, H, D]; rate [tokens, H]; gain, shift [H, D]; scale [size]; weight [S, H, D, D]; bias [S, H, D]
// kept [tokens / (size * ceil(64 / size)) + S, H, D, D], z and y or null
EXPORT void ttt_linear_forward(const float* q, const float* k, const float* v, const float* rate, const float* gain, const float* shift,
                               const float* scale, const float* weight, const float* bias, const int64_t* starts, float* o,
                               float* final_weight, float* final_bias, float* kept, float* z, float* y, double eps, int64_t sequences,
                               int64_t heads, int64_t width, int64_t size, int64_t late, int64_t reverse, int64_t threads) {
  const Call call{{starts, sequences, reverse}, q, k, v, rate, gain, shift, scale, heads, width, size, late, (float)eps};
  const int64_t memory = Batch::floats(call) + (width + call.rows() + 1) * call.stride() + 64;
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(memory);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < sequences * heads; i++)
      forward_task(call, i / heads, i % heads, weight, bias, {o, final_weight, final_bias, kept, z, y}, scratch);
  }
}

EXPORT void ttt_linear_backward(const float* q, const float* k, const float* v, const float* rate, const float* gain, const float* shift,
                                const float* scale, const int64_t* starts, const float* kept, const float* z, const float* y,
                                const float* d_o, const float* d_weight, const float* d_bias, float* dq, float* dk, float* dv,
                                float* drate, float* dgain, float* dshift, float* dscale, float* weight, float* bias, double eps,
                                int64_t sequences, int64_t heads, int64_t width, int64_t size, int64_t late, int64_t reverse,
                                int64_t threads) {
  const Call call{{starts, sequences, reverse}, q, k, v, rate, gain, shift, scale, heads, width, size, late, (float)eps};
  const Gradients grad{dq, dk, dv, drate, dgain, dshift, dscale, weight, bias};
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(Backward::floats(call));
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < sequences * heads; i++)
      backward_task(call, i / heads, i % heads, kept, z, y, d_o, d_weight, d_bias, grad, scratch);
  }
}
