// Vectors as wide as the instruction set that is compiled for: the same source gives 16, 8 or 4 lanes.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VISIONRNN_LANES 16
#elif defined(__AVX2__)
#define VISIONRNN_LANES 8
#else
#define VISIONRNN_LANES 4
#endif
#define EXPORT extern "C" __attribute__((visibility("default")))
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int64_t W = VISIONRNN_LANES;
typedef float vec __attribute__((vector_size(W * 4)));
typedef int32_t ivec __attribute__((vector_size(W * 4)));
typedef float vec_unaligned __attribute__((vector_size(W * 4), aligned(4)));

INLINE vec load(const float* p) { return *(const vec_unaligned*)p; }
INLINE void store(float* p, vec v) { *(vec_unaligned*)p = v; }
INLINE vec fill(float x) { return vec{} + x; }
#if defined(__AVX512F__)  // GCC makes a comparison and a blend of `a < b ? a : b`, two operations instead of one
INLINE vec vmin(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vec vmax(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
INLINE vec vmin(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vec vmax(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
#else
INLINE vec vmin(vec a, vec b) { return a < b ? a : b; }
INLINE vec vmax(vec a, vec b) { return a > b ? a : b; }
#endif

// The first n lanes, zeros behind: n < 1 gives zeros, n >= W a whole vector. Memory behind them is not touched.
#if defined(__AVX512F__)
INLINE __mmask16 first_lanes(int64_t n) { return (__mmask16)(n < 1 ? 0 : (1u << n) - 1); }
INLINE vec load_part(const float* p, int64_t n) { return n >= W ? load(p) : (vec)_mm512_maskz_loadu_ps(first_lanes(n), p); }
INLINE void store_part(float* p, vec v, int64_t n) {
  if (n >= W) store(p, v); else _mm512_mask_storeu_ps(p, first_lanes(n), (__m512)v);
}
#elif defined(__AVX2__)
INLINE __m256i first_lanes(int64_t n) { return (__m256i)(ivec{0, 1, 2, 3, 4, 5, 6, 7} < (int32_t)n); }
INLINE vec load_part(const float* p, int64_t n) { return n >= W ? load(p) : (vec)_mm256_maskload_ps(p, first_lanes(n)); }
INLINE void store_part(float* p, vec v, int64_t n) {
  if (n >= W) store(p, v); else _mm256_maskstore_ps(p, first_lanes(n), (__m256)v);
}
#else
INLINE vec load_part(const float* p, int64_t n) {
  if (n >= W) return load(p);
  alignas(64) float lanes[W] = {};
  for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
  return load(lanes);
}
INLINE void store_part(float* p, vec v, int64_t n) {
  if (n >= W) { store(p, v); return; }
  alignas(64) float lanes[W];
  store(lanes, v);
  for (int64_t i = 0; i < n; i++) p[i] = lanes[i];
}
#endif
INLINE float sum(vec v) {
  alignas(64) float lanes[W];
  store(lanes, v);
  for (int64_t step = W / 2; step; step /= 2)
    for (int64_t i = 0; i < step; i++) lanes[i] += lanes[i + step];
  return lanes[0];
}

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

// 2^x by a polynomial of degree 6 on [-1/2, 1/2], the best of those with value and slope exact at 0; relative error 6.4e-8, no more than that of
// rounding and without bias, as products of many decays need it. Below 2^-126 the result is 2^-126 or about zero, above 2^126 it is 2^126.
INLINE vec exp2(vec x) {
  x = vmin(vmax(x, fill(-126.f)), fill(126.f));
  vec rounded = x + fill(12582912.f);  // the nearest integer lies in the low bits of the mantissa
  vec f = x - (rounded - fill(12582912.f));
  vec p = fill(1.532431524e-4f);
  p = p * f + 1.339095859e-3f;
  p = p * f + 9.618517561e-3f;
  p = p * f + 5.550359590e-2f;
  p = p * f + 2.402264759e-1f;
  p = p * f + 6.931471825e-1f;
  p = p * f + 1.0f;
  return (vec)((ivec)p + ((ivec)rounded << 23));
}
INLINE vec exp(vec x) { return exp2(x * LOG2E); }
INLINE vec sigmoid(vec x) { return 1.f / (1.f + exp(-x)); }
INLINE vec tanh(vec x) { return 1.f - 2.f / (1.f + exp(x + x)); }

// log(1 + y) for 0 <= y <= 1, to a relative error of 1e-7: 2 artanh(s), s = y / (2 + y) <= 1/3, by its series.
INLINE vec log1p_of_fraction(vec y) {
  const vec s = y / (y + 2.f), q = s * s;
  vec p = fill(1.f / 15);
  p = p * q + 1.f / 13;
  p = p * q + 1.f / 11;
  p = p * q + 1.f / 9;
  p = p * q + 1.f / 7;
  p = p * q + 1.f / 5;
  p = p * q + 1.f / 3;
  p = p * q + 1.f;
  return 2.f * s * p;
}
INLINE vec softplus(vec x) {
  const vec value = vmax(x, vec{}) + log1p_of_fraction(exp(vmin(x, -x)));
  return x == x ? value : x;
}

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Memory of one thread, aligned to a cache line, taken once per parallel region and cut into parts.
struct Scratch {
  char* memory;
  char* next;
  explicit Scratch(int64_t floats) : memory(new char[floats * 4 + 4096]), next(memory) {
    next += 64 - (uintptr_t)next % 64;
  }
  ~Scratch() { delete[] memory; }
  Scratch(const Scratch&) = delete;
  float* take(int64_t floats) {  // of the `floats` that were asked for; each part takes up to 16 more: leave room
    float* part = (float*)next;
    next += round_up(floats, 16) * 4;
    return part;
  }
};

}  // namespace
