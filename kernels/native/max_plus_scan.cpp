// m_t = max(log_decay_t + m_{t-1}, x_t): the running maximum that keeps exponential gates in range. Lanes are heads.
#include <algorithm>
#include "sequences.h"
#include "vector.h"

// x, log_decay, m [rows, H]; initial, final [S, H]
EXPORT void max_plus_scan(const float* x, const float* log_decay, const float* initial, const int64_t* starts, float* m, float* final,
                          int64_t sequences, int64_t heads, int64_t reverse, int64_t threads) {
  const Sequences all{starts, sequences, reverse};
  const int64_t vectors = (heads + W - 1) / W;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < sequences * vectors; i++) {
    const int64_t s = i / vectors, first = i % vectors * W, lanes = std::min(W, heads - first);
    const int64_t length = all.length(s), step = all.step() * heads;
    int64_t at = all.row(s, 0) * heads + first;
    vec running = load_part(initial + s * heads + first, lanes);
    for (int64_t t = 0; t < length; t++, at += step) {
      running = vmax(load_part(log_decay + at, lanes) + running, load_part(x + at, lanes));
      store_part(m + at, running, lanes);
    }
    store_part(final + s * heads + first, running, lanes);
  }
}
