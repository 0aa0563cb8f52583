// SPDX-License-Identifier: Apache-2.0
// Threads that share the phases of a program without ever waiting for a thread that may not have started.
//
// All workers run the same program, a sequence of `ForEach` phases. Items of a phase are claimed one by one, so that
// the caller alone can finish everything; whoever waits at the end of a phase waits only for items that a running
// thread has claimed. A helper may join at any phase, or never: no thread pool can deadlock on this.
#ifndef KERAS_SEQ_KERNELS_TEAM_H_
#define KERAS_SEQ_KERNELS_TEAM_H_

#include <atomic>
#include <cstdint>
#include <functional>

#include "recurrence.h"

namespace keras_seq {

class Team;

// Items that a worker has claimed: `size` of them from `first` on, upwards or, in a backward phase, downwards.
struct Run {
  int64_t first, size;
};

class Worker {
 public:
  explicit Worker(Team* team = nullptr, int index = 0) : team_(team), index_(index) {}

  // Runs function(item) for every item below `count`, and returns when all are done, whoever did them. Each worker
  // starts with a range of its own, the same one in every phase of that count, so that its data stay in its cache.
  // `backward` goes through the ranges from their ends: what the phase before left in the cache comes first.
  template <class Function>
  void ForEach(int64_t count, Function&& function, bool backward = false) {
    if (team_ == nullptr) {
      for (int64_t item = 0; item < count; ++item) function(backward ? count - 1 - item : item);
      return;
    }
    ++phase_;
    total_ += count;
    if (Finished(total_)) return;  // joined late: the others are past this phase
    int64_t completed = 0;
    for (Run run = Claim(count, backward); run.size > 0; run = Claim(count, backward)) {
      for (int64_t i = 0; i < run.size; ++i) function(run.first + (backward ? -i : i));
      completed += run.size;
    }
    Complete(completed, total_);
  }

 private:
  bool Finished(int64_t total) const;
  Run Claim(int64_t count, bool backward);
  void Complete(int64_t completed, int64_t total);

  Team* team_;
  int index_;
  uint64_t phase_ = 0;
  int64_t total_ = 0;  // items of all phases up to this one
};

// Runs `program` on the calling thread and on as many as `workers - 1` helpers.
void RunTeam(const Executor& executor, int workers, const std::function<void(Worker&)>& program);

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_TEAM_H_
