// SPDX-License-Identifier: Apache-2.0
// What the tests share: a thread pool, an assertion, and a way to skip a test.
#ifndef KERAS_SEQ_TESTS_THREADS_H_
#define KERAS_SEQ_TESTS_THREADS_H_

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "../kernels/recurrence.h"

#define KERAS_SEQ_CHECK(condition, ...)                                        \
  do {                                                                         \
    if (!(condition)) {                                                        \
      std::fprintf(stderr, "%s:%d: %s\n  ", __FILE__, __LINE__, #condition);   \
      std::fprintf(stderr, __VA_ARGS__);                                       \
      std::fprintf(stderr, "\n");                                              \
      std::exit(1);                                                            \
    }                                                                          \
  } while (false)

namespace keras_seq {

// Ends the test if this CPU lacks the instruction set that KERAS_SEQ_ISA names. ctest reads 77 as "skipped".
inline void RequireInstructionSet() {
  const char* error;
  if (InstructionSet(&error) != nullptr) return;
  std::fprintf(stderr, "skipped: %s\n", error);
  std::exit(77);
}

class ThreadPool {
 public:
  explicit ThreadPool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
  }

  ~ThreadPool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    ready_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void Schedule(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    ready_.notify_one();
  }

  // An executor of `threads` threads, including the caller.
  Executor WithThreads(int threads) {
    return {threads, [this](std::function<void()> task) { Schedule(std::move(task)); }};
  }

 private:
  void Work() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        ready_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace keras_seq

#endif  // KERAS_SEQ_TESTS_THREADS_H_
