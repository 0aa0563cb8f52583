// SPDX-License-Identifier: Apache-2.0
// Every item of every phase is done once, and phases do not overlap: with helpers that start late or never, and with
// more calls at a time than threads.
#include <atomic>
#include <cfenv>
#include <chrono>
#include <memory>

#if defined(__linux__)
#include <sched.h>
#endif
#include <sys/wait.h>
#include <unistd.h>

#include "../kernels/team.h"
#include "../kernels/threads.h"
#include "threads.h"

namespace keras_seq {
namespace {

void TestPhases(const Executor& executor, int workers, int phases, int64_t items) {
  std::vector<std::atomic<int>> done(static_cast<size_t>(items));
  std::vector<int64_t> plain(static_cast<size_t>(items));  // not atomic, so that ThreadSanitizer sees a race
  RunTeam(executor, workers, [&](Worker& worker) {
    for (int phase = 0; phase < phases; ++phase) {
      worker.ForEach(items, [&](int64_t item) {
        KERAS_SEQ_CHECK(done[item].fetch_add(1) == phase, "item %ld of phase %d", static_cast<long>(item), phase);
        const int64_t other = items - 1 - item;  // written in the phase before, maybe by another worker
        if (phase % 2 == 0) plain[item] += 1;
        if (phase % 2 == 1) KERAS_SEQ_CHECK(plain[other] == phase / 2 + 1, "phase %d saw an older one", phase);
      });
    }
  });
  for (auto& count : done) KERAS_SEQ_CHECK(count == phases, "an item was done %d times", count.load());
}

// Runs a phase in which the caller waits until a helper has come, or gives up after a second. Returns whether one came.
template <class Function>
bool RunWithHelper(const Executor& executor, Function&& function) {
  std::atomic<int> came{0};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  RunTeam(executor, 2, [&](Worker& worker) {
    ++came;
    while (came < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    worker.ForEach(64, function);
  });
  return came == 2;
}

// Helpers round as their caller does; that they treat denormals alike follows.
void TestArithmetic(const Executor& executor) {
  for (const int rounding : {FE_UPWARD, FE_DOWNWARD, FE_TONEAREST}) {
    std::fesetround(rounding);
    RunWithHelper(executor, [rounding](int64_t) {
      KERAS_SEQ_CHECK(std::fegetround() == rounding, "another rounding");
    });
  }
}

// Neither ThreadSanitizer nor QEMU, which runs the tests for ARM, follows a process with several threads through a fork.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define KERAS_SEQ_CAN_FORK 1
#endif

#if defined(KERAS_SEQ_CAN_FORK)
// Threads are left behind by a fork: the new process starts its own.
void TestFork() {
  if (AllowedCores() < 2) return;
  const pid_t child = fork();
  if (child == 0) _exit(RunWithHelper(SharedThreads(2), [](int64_t) {}) ? 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  KERAS_SEQ_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "no helper after a fork: status %d", status);
}
#endif

void TestSharedThreads() {
  for (int threads = 0; threads < 2; ++threads) TestPhases(SharedThreads(threads), 4, 10, 7);
  if (AllowedCores() > 1) {
    KERAS_SEQ_CHECK(RunWithHelper(SharedThreads(2), [](int64_t) {}), "no helper came");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    KERAS_SEQ_CHECK(RunWithHelper(SharedThreads(2), [](int64_t) {}), "no helper woke");
    TestArithmetic(SharedThreads(2));
  }
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([i] {
      for (int round = 0; round < 20; ++round) TestPhases(SharedThreads(1 + i % 4), 4, 20, 5);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// More threads than cores wait for each other. With 64 on two cores, calls took three to ten times as long.
void TestNoMoreThreadsThanCores() {
  const int cores = AllowedCores();
  KERAS_SEQ_CHECK(SharedThreads(cores).threads == cores, "too few threads for %d cores", cores);
  KERAS_SEQ_CHECK(SharedThreads(2 * cores).threads <= cores, "too many threads for %d cores", cores);
#if defined(__linux__)
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  CPU_ZERO(&one);
  CPU_SET(CurrentCore(), &one);
  if (sched_setaffinity(0, sizeof(one), &one) != 0) return;
  KERAS_SEQ_CHECK(SharedThreads(4).threads == 1, "%d threads for one core", SharedThreads(4).threads);
  sched_setaffinity(0, sizeof(allowed), &allowed);
#endif
}

void TestLeaveCore() {
  LeaveCore();
  if (AllowedCores() < 2 || CurrentCore() < 0) return;
  const int core = CurrentCore();
  for (int i = 0; i < 100; ++i) {
    if (CurrentCore() != core) return;
    LeaveCore();
  }
  KERAS_SEQ_CHECK(false, "stays on core %d", core);
}

}  // namespace
}  // namespace keras_seq

int main() {
  using namespace keras_seq;
  ThreadPool pool(3);
  for (int round = 0; round < 200; ++round) {
    TestPhases(pool.WithThreads(1 + round % 4), 1 + round % 4, 20, round % 9);
  }
  TestPhases({4, [](std::function<void()>) {}}, 4, 10, 7);  // helpers that never start
  std::vector<std::function<void()>> late;
  TestPhases({4, [&late](std::function<void()> task) { late.push_back(std::move(task)); }}, 4, 10, 7);
  for (auto& task : late) task();  // helpers that start after the call
  ThreadPool small_pool(2);
  std::vector<std::thread> callers;  // more calls at a time than threads, some of them from inside the pool
  std::atomic<int> finished{0};
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&] { TestPhases(small_pool.WithThreads(3), 3, 200, 5); });
    small_pool.Schedule([&] {
      TestPhases(small_pool.WithThreads(3), 3, 200, 5);
      ++finished;
    });
  }
  for (std::thread& caller : callers) caller.join();
  while (finished < 8) std::this_thread::yield();
  TestSharedThreads();
  TestNoMoreThreadsThanCores();
  TestLeaveCore();
#if defined(KERAS_SEQ_CAN_FORK)
  TestFork();
#endif
  std::printf("team: passed\n");
}
