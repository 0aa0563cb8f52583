// SPDX-License-Identifier: Apache-2.0
#include "threads.h"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "tuning.h"

namespace keras_seq {
namespace {

using Clock = std::chrono::steady_clock;

class Pool {
 public:
  // Runs a task on one of at most `limit` threads, at some time. Never, if no thread can start.
  void Schedule(std::function<void()> task, int limit) {
    bool wakes;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
      waiting_.store(tasks_.size(), std::memory_order_release);
      const size_t spinning = idle_ - sleeping_;
      wakes = tasks_.size() > spinning && sleeping_ > 0;
      if (tasks_.size() > idle_ && started_ < limit) Start();
      if (started_ == 0) tasks_.clear();
    }
    if (wakes) ready_.notify_one();
  }

 private:
  void Start() {
    try {
      std::thread([this] { Work(); }).detach();
      ++started_, ++idle_;
    } catch (const std::system_error&) {  // callers work without it
    }
  }

  [[noreturn]] void Work() {
    for (;;) {
      Spin();
      std::unique_lock<std::mutex> lock(mutex_);
      if (tasks_.empty()) {
        ++sleeping_;
        ready_.wait(lock, [this] { return !tasks_.empty(); });
        --sleeping_;
      }
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      waiting_.store(tasks_.size(), std::memory_order_release);
      --idle_;
      lock.unlock();
      task();
      lock.lock();
      ++idle_;
    }
  }

  // Returns when there may be a task, or after a while.
  void Spin() const {
    const Clock::time_point end = Clock::now() + std::chrono::microseconds(kIdleMicroseconds);
    for (int spins = 0; waiting_.load(std::memory_order_acquire) == 0; ++spins) {
      if (spins < kSpins) {
        Pause();
      } else if (Clock::now() < end) {
        std::this_thread::yield();
      } else {
        return;
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
  std::atomic<size_t> waiting_{0};  // the number of tasks
  size_t idle_ = 0, sleeping_ = 0;  // threads without a task, and those of them that sleep
  int started_ = 0;
};

// Never destroyed: its threads run until the process ends.
std::atomic<Pool*> shared_pool{nullptr};

Pool& SharedPool() {
  static const bool made = [] {
    const auto make = [] { shared_pool.store(new Pool); };
    make();
    pthread_atfork(nullptr, nullptr, make);  // a process that forks leaves its threads behind
    return true;
  }();
  (void)made;
  return *shared_pool.load();
}

}  // namespace

#if defined(__linux__)
int CurrentCore() { return sched_getcpu(); }

void LeaveCore() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;  // more cores than a cpu_set_t has
  cpu_set_t others = allowed;
  CPU_CLR(sched_getcpu(), &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof(others), &others) != 0) return;
  sched_setaffinity(0, sizeof(allowed), &allowed);
}
#else
int CurrentCore() { return -1; }

void LeaveCore() {}
#endif

Executor SharedThreads(int threads) {
  static const int cores = std::max<int>(1, std::thread::hardware_concurrency());
  threads = std::max(1, std::min(threads, cores));
  return {threads, [threads](std::function<void()> task) { SharedPool().Schedule(std::move(task), threads - 1); }};
}

}  // namespace keras_seq
