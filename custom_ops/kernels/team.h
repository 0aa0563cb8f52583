// SPDX-License-Identifier: Apache-2.0
// Threads that share the work of a call.
//
// All workers run the same program, a sequence of `ForEach` phases, and claim the items of each phase a few at a time.
// The caller is a worker and could finish everything alone; the other workers, its helpers, may join at any phase or
// never. At the end of a phase a worker only waits for items that a running thread has claimed, so no thread pool can
// deadlock.
#ifndef KERAS_SEQ_KERNELS_TEAM_H_
#define KERAS_SEQ_KERNELS_TEAM_H_

#include <atomic>
#include <cstdint>
#include <functional>

#include "recurrence.h"

namespace keras_seq {

class Team;

// Items that a worker has claimed: `size` of them from `first` on, upwards or, in a backward phase, downwards.
struct ItemRange {
  int64_t first, size;
};

class Worker {
 public:
  explicit Worker(Team* team = nullptr, int index = 0) : team_(team), index_(index) {}

  // Runs function(item) for every item below `count` and returns when all workers together are done. Each worker starts
  // with its own range, the same one in every phase of that count, so that its data stay in its cache. `backward` goes
  // through the ranges from their ends, where the data are that an upward phase used last.
  template <class Function>
  void ForEach(int64_t count, Function&& function, bool backward = false) {
    if (team_ == nullptr) {
      for (int64_t item = 0; item < count; ++item) function(backward ? count - 1 - item : item);
      return;
    }
    ++phase_;
    total_ += count;
    if (Finished(total_)) return;  // this worker joined late, after the phase
    int64_t completed = 0;
    for (ItemRange range = Claim(count, backward); range.size > 0; range = Claim(count, backward)) {
      for (int64_t i = 0; i < range.size; ++i) function(range.first + (backward ? -i : i));
      completed += range.size;
    }
    Complete(completed, total_);
  }

 private:
  bool Finished(int64_t total) const;
  ItemRange Claim(int64_t count, bool backward);
  void Complete(int64_t completed, int64_t total);

  Team* team_;
  int index_;
  uint64_t phase_ = 0;
  int64_t total_ = 0;  // items of all phases up to this one
};

// Runs `program` on the calling thread and on up to `workers - 1` helpers.
void RunTeam(const Executor& executor, int workers, const std::function<void(Worker&)>& program);

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_TEAM_H_
