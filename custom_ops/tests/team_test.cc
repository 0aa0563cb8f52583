// SPDX-License-Identifier: Apache-2.0
// Every item of every phase is done once, and phases do not overlap: with helpers that start late or never, and with
// more calls at a time than threads.
#include <atomic>
#include <memory>

#include "../kernels/team.h"
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
  std::printf("team: passed\n");
}
