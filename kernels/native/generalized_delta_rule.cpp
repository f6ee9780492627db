// The delta rule in general form (RWKV-7); see delta_block.h.
#include "delta_backward.h"
#include "delta_forward.h"

// q, k, a, b, log_decay [tokens, H, K]; v, o, residual [tokens, H, V]; initial, final [S, H, K, V];
// kept [tokens / CHUNK + S, H, K, V] or null
EXPORT void generalized_delta_rule_forward(const float* q, const float* k, const float* v, const float* a, const float* b,
                                           const float* log_decay, const float* initial, const int64_t* starts, float* o, float* final,
                                           float* kept, float* residual, double scale, int64_t sequences, int64_t heads, int64_t key,
                                           int64_t value, int64_t reverse, int64_t threads) {
  const Call call{{starts, sequences, reverse}, q, k, v, nullptr, a, b, log_decay, heads, key, value, 1, 2, (float)scale};
  forward<true>(call, initial, {o, final, kept, residual}, threads);
}

EXPORT void generalized_delta_rule_backward(const float* q, const float* k, const float* v, const float* a, const float* b,
                                            const float* log_decay, const int64_t* starts, const float* kept, const float* residual,
                                            const float* d_o, const float* d_final, float* dq, float* dk, float* dv, float* da,
                                            float* db, float* dlog_decay, float* dinitial, double scale, int64_t sequences,
                                            int64_t heads, int64_t key, int64_t value, int64_t reverse, int64_t threads) {
  const Call call{{starts, sequences, reverse}, q, k, v, nullptr, a, b, log_decay, heads, key, value, 1, 2, (float)scale};
  backward<true>(call, kept, residual, d_o, d_final, {dq, dk, dv, nullptr, da, db, dlog_decay, dinitial}, threads);
}
