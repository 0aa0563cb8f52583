// SPDX-License-Identifier: Apache-2.0
// Every item of every phase is done once, phases do not overlap, and helpers may come late, never, or in a crowd.
#include <atomic>
#include <memory>

#include "../kernels/team.h"
#include "threads.h"

namespace keras_seq {
namespace {

void TestPhases(const Executor& executor, int workers, int phases, int64_t items) {
  std::vector<std::atomic<int>> done(static_cast<size_t>(items));
  std::vector<int64_t> plain(static_cast<size_t>(items));  // not atomic: a race shows under ThreadSanitizer
  RunTeam(executor, workers, [&](Worker& worker) {
    for (int phase = 0; phase < phases; ++phase) {
      worker.ForEach(items, [&](int64_t item) {
        KERAS_SEQ_CHECK(done[item].fetch_add(1) == phase, "item %ld of phase %d", static_cast<long>(item), phase);
        const int64_t other = items - 1 - item;  // written by whoever had it in the phase before
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
  for (auto& task : late) task();  // helpers that start when all is over
  ThreadPool crowd(2);
  std::vector<std::thread> callers;  // more calls at once than threads, from inside the pool too
  std::atomic<int> finished{0};
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&] { TestPhases(crowd.WithThreads(3), 3, 200, 5); });
    crowd.Schedule([&] {
      TestPhases(crowd.WithThreads(3), 3, 200, 5);
      ++finished;
    });
  }
  for (std::thread& caller : callers) caller.join();
  while (finished < 8) std::this_thread::yield();
  std::printf("team: passed\n");
}
