// SPDX-License-Identifier: Apache-2.0
// Fused multiply-adds at the peak rate of the processor: independent chains, each in a register.

#include <thread>
#include <vector>

namespace {

// 8 chains keep two units with a latency of 4 busy. There are as many as the registers hold, for longer latencies.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kChains = 24;  // of 32 registers
#elif defined(__AVX__)
constexpr int kBytes = 32, kChains = 12;  // of 16
#else
constexpr int kBytes = 16, kChains = 12;
#endif
constexpr int kLanes = kBytes / sizeof(float);
typedef float Vector __attribute__((vector_size(kBytes)));

void Burn(long rounds, float* result) {
  // volatile, so that the compiler cannot compute the result itself.
  volatile float hidden_factor = 0.999f, hidden_term = 0.001f;
  const Vector factor = Vector{} + hidden_factor, term = Vector{} + hidden_term;
  Vector chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = term * static_cast<float>(i);
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) chains[i] = chains[i] * factor + term;
  }
  Vector sum = {};
  for (int i = 0; i < kChains; ++i) sum += chains[i];
  *result = sum[0];
}

}  // namespace

// Computes `flops` floating-point operations (a fused multiply-add is two) on each of `threads` threads.
extern "C" float keras_seq_fma_peak(int threads, double flops) {
  const long rounds = static_cast<long>(flops / (2.0 * kLanes * kChains));
  std::vector<float> results(threads);
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(Burn, rounds, &results[i]);
  Burn(rounds, &results[0]);
  for (std::thread& other : others) other.join();
  float sum = 0;
  for (float result : results) sum += result;
  return sum;
}
