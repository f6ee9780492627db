// Where the sequences of a call lie: packed one behind the other, in tensors whose first axis is rows.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

// Sequence s is rows [starts[s], starts[s + 1]), the last of which is its first step when `reverse`.
struct Sequences {
  const int64_t* starts;
  int64_t sequences, reverse;
  int64_t total() const { return starts[sequences]; }  // rows
  int64_t length(int64_t s) const { return starts[s + 1] - starts[s]; }
  int64_t row(int64_t s, int64_t t) const { return reverse ? starts[s + 1] - 1 - t : starts[s] + t; }  // of step t
  int64_t step() const { return reverse ? -1 : 1; }  // from the row of a step to the row of the next

  // States are kept before every `chunk` steps of a sequence, in total / chunk + sequences slots: where the one before step t lies.
  int64_t slot(int64_t s, int64_t t, int64_t chunk) const { return starts[s] / chunk + s + t / chunk; }
  // Zeros in the slots, of `size` numbers each, that no sequence needs, so that what is returned is the same in every run.
  void clear_unused_slots(float* kept, int64_t chunk, int64_t size) const {
    for (int64_t s = 0; s < sequences; s++) {
      const int64_t used = slot(s, length(s) + chunk - 1, chunk);
      memset(kept + used * size, 0, (slot(s + 1, 0, chunk) - used) * size * sizeof(float));
    }
  }
};

}  // namespace
