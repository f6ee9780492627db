// What this processor can do at most: multiply-adds from registers, for benchmarks to compare with.
#include "vector.h"

// `rounds` times 20 independent chains of one multiply-add each, per thread: 40 * W operations a round. out [threads] keeps the loop alive.
EXPORT void multiply_add_rounds(float* out, int64_t rounds, int64_t threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t thread = 0; thread < threads; thread++) {
    vec chain[20];
    for (int64_t i = 0; i < 20; i++) chain[i] = fill(1.f + i);
    const vec factor = fill(0.999f), term = fill(1e-3f);
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 20
      for (int64_t i = 0; i < 20; i++) chain[i] = chain[i] * factor + term;
    vec total{};
    for (int64_t i = 0; i < 20; i++) total += chain[i];
    out[thread] = sum(total);
  }
}

EXPORT int64_t lanes() { return W; }
