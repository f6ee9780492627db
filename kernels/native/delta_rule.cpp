// Delta rule with any number of steps per token and with decays; see delta_block.h.
#include "delta_backward.h"
#include "delta_forward.h"

EXPORT int64_t delta_rule_chunk() { return CHUNK; }

// q [tokens, H, K]; k [tokens * steps, H, K]; v, residual [tokens * steps, H, V]; beta [tokens * steps, H]; o [tokens, H, V];
// log_decay [tokens, H] (decays 1) or [tokens, H, K] (2) or null (0); initial, final [S, H, K, V];
// kept [tokens * steps / CHUNK + S, H, K, V] or null
EXPORT void delta_rule_forward(const float* q, const float* k, const float* v, const float* beta, const float* log_decay,
                               const float* initial, const int64_t* starts, float* o, float* final, float* kept, float* residual,
                               double scale, int64_t sequences, int64_t heads, int64_t key, int64_t value, int64_t steps, int64_t decays,
                               int64_t reverse, int64_t threads) {
  const Call call{{starts, sequences, reverse}, q, k, v, beta, nullptr, nullptr, log_decay, heads, key, value, steps, decays, (float)scale};
  forward<false>(call, initial, {o, final, kept, residual}, threads);
}

EXPORT void delta_rule_backward(const float* q, const float* k, const float* v, const float* beta, const float* log_decay,
                                const int64_t* starts, const float* kept, const float* residual, const float* d_o, const float* d_final,
                                float* dq, float* dk, float* dv, float* dbeta, float* dlog_decay, float* dinitial, double scale,
                                int64_t sequences, int64_t heads, int64_t key, int64_t value, int64_t steps, int64_t decays,
                                int64_t reverse, int64_t threads) {
  const Call call{{starts, sequences, reverse}, q, k, v, beta, nullptr, nullptr, log_decay, heads, key, value, steps, decays, (float)scale};
  backward<false>(call, kept, residual, d_o, d_final, {dq, dk, dv, dbeta, nullptr, nullptr, dlog_decay, dinitial}, threads);
}
