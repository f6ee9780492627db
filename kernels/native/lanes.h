// Exchanges between the lanes of vectors: sums over lanes, and transposition. Every pattern here stays inside groups of four lanes or moves
// whole groups, so that each shuffle is one instruction with a constant on the instruction sets of x86.
#pragma once
#include <utility>
#include "vector.h"

namespace {

// shuffle<Pattern>(a, b): lane i is lane Pattern::at(i) of a followed by b.
template <class Pattern, int... I>
INLINE vec shuffle_lanes(vec a, vec b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Pattern::at(I)...);
#else
  return __builtin_shuffle(a, b, ivec{Pattern::at(I)...});
#endif
}
template <class Pattern>
INLINE vec shuffle(vec a, vec b) { return shuffle_lanes<Pattern>(a, b, std::make_integer_sequence<int, (int)W>()); }

constexpr int L = (int)W;
template <int HIGH> struct AlternateInFours {  // half of each group of four lanes, of a and b lane by lane in turn
  static constexpr int at(int i) { return i / 4 * 4 + i % 4 / 2 + (i % 2) * L + HIGH * 2; }
};
template <int HIGH> struct PairsInFours {  // two neighbouring lanes of a, then of b, inside each group of four
  static constexpr int at(int i) { return i / 4 * 4 + i % 2 + (i % 4 / 2) * L + HIGH * 2; }
};
template <int ODD> struct EverySecondFour {  // every second group of four lanes of a, then of b
  static constexpr int at(int i) { return (i / 4 * 8 % L + i % 4 + (i >= L / 2 ? L : 0) + ODD * 4) % (2 * L); }
};

// Lane i of the result is the sum of the lanes of x[i], i < W. Overwrites x.
INLINE vec sums(vec* x) {
#pragma GCC unroll 8
  for (int i = 0; i < L / 2; i++)
    x[i] = shuffle<AlternateInFours<0>>(x[2 * i], x[2 * i + 1]) + shuffle<AlternateInFours<1>>(x[2 * i], x[2 * i + 1]);
#pragma GCC unroll 4
  for (int i = 0; i < L / 4; i++)
    x[i] = shuffle<PairsInFours<0>>(x[2 * i], x[2 * i + 1]) + shuffle<PairsInFours<1>>(x[2 * i], x[2 * i + 1]);
#pragma GCC unroll 2
  for (int n = L / 8; n > 0; n /= 2)
#pragma GCC unroll 2
    for (int i = 0; i < n; i++)
      x[i] = shuffle<EverySecondFour<0>>(x[2 * i], x[2 * i + 1]) + shuffle<EverySecondFour<1>>(x[2 * i], x[2 * i + 1]);
  return x[0];
}

// to[i] = sum of the lanes of x[i] for COUNT vectors. `to` takes a whole number of vectors.
template <int COUNT>
INLINE void store_sums(const vec* x, float* to) {
  for (int first = 0; first < COUNT; first += L) {
    vec part[W];
    for (int i = 0; i < L; i++) part[i] = first + i < COUNT ? x[first + i] : vec{};
    store(to + first, sums(part));
  }
}

// W × W in place: first blocks of four by four lanes among each other, then the lanes of each block.
INLINE void transpose(vec* x) {
#pragma GCC unroll 2
  for (int n = 1; n < L / 4; n *= 2) {
    vec y[W];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; i++) {
      const int from = i / 4 * 8 + i % 4;
      y[i] = shuffle<EverySecondFour<0>>(x[from], x[from + 4]);
      y[i + L / 2] = shuffle<EverySecondFour<1>>(x[from], x[from + 4]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) x[i] = y[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < L; i += 4) {
    const vec a = shuffle<AlternateInFours<0>>(x[i], x[i + 1]), b = shuffle<AlternateInFours<0>>(x[i + 2], x[i + 3]);
    const vec c = shuffle<AlternateInFours<1>>(x[i], x[i + 1]), d = shuffle<AlternateInFours<1>>(x[i + 2], x[i + 3]);
    x[i] = shuffle<PairsInFours<0>>(a, b), x[i + 1] = shuffle<PairsInFours<1>>(a, b);
    x[i + 2] = shuffle<PairsInFours<0>>(c, d), x[i + 3] = shuffle<PairsInFours<1>>(c, d);
  }
}

}  // namespace
