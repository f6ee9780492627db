// The elementwise part of each nonlinear cell, ahead and back, for one vector of units. What `ahead` leaves in `cache` is all that `back` needs
// besides the old y.
#pragma once
#include "vector.h"

namespace {

enum Cell : int64_t { ELMAN, GRU, LSTM, SLSTM, SLSTM_FLOOR };

// Numbers of gates in x, in R and in the bias, of states (y first) and of cached vectors. Cache begins with as many vectors as R has gates.
struct Counts {
  int64_t inputs, matrices, biases, states, cached;
};
constexpr Counts counts(int64_t cell) {
  return cell == ELMAN ? Counts{1, 1, 1, 1, 1} : cell == GRU ? Counts{3, 3, 4, 1, 4} : cell == LSTM ? Counts{4, 4, 4, 2, 6} : Counts{4, 4, 4, 4, 7};
}

INLINE vec vabs(vec x) { return vmax(x, -x); }

// log(sigmoid(x)) and sigmoid(-x). log(1 + e) = 2 artanh(e / (2 + e)), a series that keeps small values exact.
INLINE vec log_sigmoid(vec x, vec& complement) {
  const vec e = exp(-vabs(x)), s = e / (2.f + e), q = s * s;
  vec series = fill(1.f / 13);
  series = series * q + 1.f / 11;
  series = series * q + 1.f / 9;
  series = series * q + 1.f / 7;
  series = series * q + 1.f / 5;
  series = series * q + 1.f / 3;
  complement = (x > 0.f ? e : fill(1.f)) / (1.f + e);
  return vmin(x, vec{}) - 2.f * s * (1.f + q * series);
}

// x: gates of the input; rec: R y; b: bias; s: states, old ones in, new ones out.
template <int64_t CELL>
INLINE void ahead(const vec* x, const vec* rec, const vec* b, vec* s, vec* cache) {
  if constexpr (CELL == ELMAN) {
    cache[0] = s[0] = tanh(x[0] + rec[0] + b[0]);
  } else if constexpr (CELL == GRU) {
    const vec candidate = rec[0] + b[0], r = sigmoid(x[0] + rec[1] + b[1]), z = sigmoid(x[1] + rec[2] + b[2]);
    const vec n = tanh(x[2] + b[3] + r * candidate);
    s[0] = n + z * (s[0] - n);
    cache[0] = candidate, cache[1] = r, cache[2] = z, cache[3] = n;
  } else if constexpr (CELL == LSTM) {
    const vec i = sigmoid(x[0] + rec[0] + b[0]), f = sigmoid(x[1] + rec[1] + b[1]), z = tanh(x[2] + rec[2] + b[2]);
    const vec o = sigmoid(x[3] + rec[3] + b[3]), c = f * s[1] + i * z, bounded = tanh(c);
    cache[0] = i, cache[1] = f, cache[2] = z, cache[3] = o, cache[4] = s[1], cache[5] = bounded;
    s[0] = o * bounded, s[1] = c;
  } else {
    const vec i = x[0] + rec[0] + b[0], z = tanh(x[2] + rec[2] + b[2]), o = sigmoid(x[3] + rec[3] + b[3]);
    vec complement;
    const vec old = log_sigmoid(x[1] + rec[1] + b[1], complement) + s[3], e = exp(-vabs(old - i));
    const auto empty = s[2] == 0.f, kept = old > i;
    const vec forget = empty ? vec{} : kept ? fill(1.f) : e, keep = empty ? fill(1.f) : kept ? e : fill(1.f);
    cache[0] = keep, cache[1] = forget, cache[2] = z, cache[3] = o, cache[4] = complement, cache[5] = s[1], cache[6] = s[2];
    s[1] = forget * s[1] + keep * z;
    s[2] = forget * s[2] + keep;
    if (CELL == SLSTM_FLOOR) s[2] = vmax(s[2], fill(1.f));
    s[3] = empty ? i : vmax(old, i);
    s[0] = o * s[1] / s[2];
  }
}

// y: the old one; dy: gradient of the new one; carry: gradients of the states, of the new ones in, of the old ones out, but for what comes
// back through R. dx, drec: gradients of x and of R y.
template <int64_t CELL>
INLINE void back(const vec* cache, vec y, vec dy, vec* carry, vec* dx, vec* drec) {
  carry[0] = vec{};
  if constexpr (CELL == ELMAN) {
    drec[0] = dx[0] = dy * (1.f - cache[0] * cache[0]);
  } else if constexpr (CELL == GRU) {
    const vec candidate = cache[0], r = cache[1], z = cache[2], n = cache[3], dn = dy * (1.f - z) * (1.f - n * n);
    drec[0] = dn * r;
    dx[0] = drec[1] = dn * candidate * r * (1.f - r);
    dx[1] = drec[2] = dy * (y - n) * z * (1.f - z);
    dx[2] = dn;
    carry[0] = dy * z;
  } else if constexpr (CELL == LSTM) {
    const vec i = cache[0], f = cache[1], z = cache[2], o = cache[3], bounded = cache[5];
    const vec dc = carry[1] + dy * o * (1.f - bounded * bounded);
    dx[0] = drec[0] = dc * z * i * (1.f - i);
    dx[1] = drec[1] = dc * cache[4] * f * (1.f - f);
    dx[2] = drec[2] = dc * i * (1.f - z * z);
    dx[3] = drec[3] = dy * bounded * o * (1.f - o);
    carry[1] = dc * f;
  } else {
    const vec keep = cache[0], forget = cache[1], z = cache[2], o = cache[3], c0 = cache[5], n0 = cache[6];
    const vec c = forget * c0 + keep * z, raw = forget * n0 + keep, n = CELL == SLSTM_FLOOR ? vmax(raw, fill(1.f)) : raw;
    const vec h = c / n, dh = dy * o / n, dc = carry[1] + dh;
    vec dn = carry[2] - dh * h;
    if (CELL == SLSTM_FLOOR) dn = raw >= 1.f ? dn : vec{};
    vec old = forget * (dc * c0 + dn * n0), i = keep * (dc * z + dn);  // of the exponents
    const vec dm = carry[3] - old - i;
    // the new m is the old exponent, or i, or at a tie half of each
    const vec half = keep == 1.f ? fill(.5f) : fill(1.f), to_old = forget == 1.f ? half : vec{};
    old += dm * to_old;
    i += dm * (1.f - to_old);
    dx[0] = drec[0] = i;
    dx[1] = drec[1] = old * cache[4];
    dx[2] = drec[2] = dc * keep * (1.f - z * z);
    dx[3] = drec[3] = dy * h * o * (1.f - o);
    carry[1] = dc * forget, carry[2] = dn * forget, carry[3] = old;
  }
}

}  // namespace
