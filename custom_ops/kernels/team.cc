// SPDX-License-Identifier: Apache-2.0
#include "team.h"

#include <algorithm>
#include <cfenv>
#include <memory>
#include <thread>
#include <vector>

#include "threads.h"
#include "tuning.h"

namespace keras_seq {
namespace {

constexpr int kCountBits = 32;
constexpr uint64_t kCountMask = (uint64_t{1} << kCountBits) - 1;

// Spins first, because the others are running and nearly done. Then yields, in case they share a core with this thread.
template <class Condition>
void WaitUntil(Condition&& condition) {
  for (int spins = 0; !condition(); ++spins) {
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace

class Team {
 public:
  Team(int workers, const std::function<void(Worker&)>& program) : ranges_(workers), program_(&program) {
    std::fegetenv(&arithmetic_);
  }

  void Help(int index) {
    helpers_.fetch_add(1);
    if (!closed_.load()) {  // `program_` lives until `Close` has seen this helper leave
      std::fesetenv(&arithmetic_);
      // Some schedulers wake a thread on the core of the one that woke it, and leave both there for milliseconds.
      if (CurrentCore() == core_) LeaveCore();
      Worker worker(this, index);
      (*program_)(worker);
    }
    helpers_.fetch_sub(1);
  }

  void Close() {
    closed_.store(true);
    WaitUntil([this] { return helpers_.load() == 0; });
  }

  bool Finished(int64_t total) const { return completed_.load(std::memory_order_acquire) >= total; }

  void Complete(int64_t completed, int64_t total) {
    if (completed > 0) completed_.fetch_add(completed, std::memory_order_acq_rel);
    WaitUntil([this, total] { return Finished(total); });
  }

  // Claims items of the phase, none if all are taken: from the worker's own range first, then from those of others.
  // Takes a quarter of what is left, so that claims are few and the last ones small.
  ItemRange Claim(int index, uint64_t phase, int64_t count, bool backward) {
    const int64_t workers = static_cast<int64_t>(ranges_.size());
    for (int64_t offset = 0; offset < workers; ++offset) {
      const int64_t owner = (index + offset) % workers;
      const int64_t begin = count * owner / workers, end = count * (owner + 1) / workers;
      std::atomic<uint64_t>& taken = ranges_[owner].taken;
      uint64_t seen = taken.load(std::memory_order_acquire);
      for (;;) {
        if ((seen >> kCountBits) > phase) return {0, 0};  // the phase is over
        const int64_t claimed = (seen >> kCountBits) == phase ? static_cast<int64_t>(seen & kCountMask) : 0;
        const int64_t left = end - begin - claimed, size = (left + 3) / 4;
        if (size <= 0) break;
        const uint64_t then = phase << kCountBits | static_cast<uint64_t>(claimed + size);
        if (taken.compare_exchange_weak(seen, then, std::memory_order_acq_rel)) {
          return {backward ? end - 1 - claimed : begin + claimed, size};
        }
      }
    }
    return {0, 0};
  }

 private:
  struct alignas(64) Range {         // each in its own cache line
    std::atomic<uint64_t> taken{0};  // the phase, and how many of its items are taken
  };

  std::vector<Range> ranges_;
  const std::function<void(Worker&)>* program_;
  std::fenv_t arithmetic_;  // the caller's: whether denormals are zero
  const int core_ = CurrentCore();
  alignas(64) std::atomic<int64_t> completed_{0};
  alignas(64) std::atomic<int> helpers_{0};
  std::atomic<bool> closed_{false};
};

bool Worker::Finished(int64_t total) const { return team_->Finished(total); }

ItemRange Worker::Claim(int64_t count, bool backward) { return team_->Claim(index_, phase_, count, backward); }

void Worker::Complete(int64_t completed, int64_t total) { team_->Complete(completed, total); }

void RunTeam(const Executor& executor, int workers, const std::function<void(Worker&)>& program) {
  workers = std::min(workers, executor.threads);
  if (workers <= 1 || !executor.schedule) {
    Worker alone;
    program(alone);
    return;
  }
  auto team = std::make_shared<Team>(workers, program);
  for (int index = 1; index < workers; ++index) {
    executor.schedule([team, index] { team->Help(index); });
  }
  Worker caller(team.get(), 0);
  program(caller);
  team->Close();
}

}  // namespace keras_seq
