// SPDX-License-Identifier: Apache-2.0
// Compares cross-entropies of random logits with sums in float64, in place and not, for one thread and for three.
#include "../kernels/crossentropy.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "threads.h"

namespace keras_seq {
namespace {

template <class T>
struct Outputs {
  std::vector<T> losses, smooth_losses, d_logits;
  std::vector<int32_t> predictions;
};

template <class T>
Outputs<T> Run(Crossentropy call, std::vector<T> logits, bool in_place, const Executor& executor) {
  constexpr T kUnset = std::numeric_limits<T>::quiet_NaN();
  Outputs<T> outputs{std::vector<T>(call.rows, kUnset), std::vector<T>(call.rows, kUnset), {}, {}};
  outputs.predictions.resize(call.rows);
  outputs.d_logits = in_place ? logits : std::vector<T>(logits.size(), kUnset);
  call.logits = in_place ? outputs.d_logits.data() : logits.data();
  call.losses = outputs.losses.data(), call.smooth_losses = outputs.smooth_losses.data();
  call.predictions = outputs.predictions.data(), call.d_logits = outputs.d_logits.data();
  ComputeCrossentropy(call, executor);
  return outputs;
}

// The same in float64, without any care for large logits.
Outputs<double> Expected(const Crossentropy& call, const std::vector<double>& logits,
                         const std::vector<double>& weights) {
  const int64_t size = call.vocabulary;
  const double smoothing = call.label_smoothing;
  Outputs<double> expected{{}, {}, std::vector<double>(logits.size()), {}};
  for (int64_t row = 0; row < call.rows; ++row) {
    const double* x = logits.data() + row * size;
    const int32_t target = call.targets[row];
    double total = 0, loss = 0, smooth = 0;
    int32_t best = target < 0 ? -1 : 0;
    for (int64_t v = 0; v < size && target >= 0; ++v) {
      total += std::exp(x[v]);
      if (x[v] > x[best]) best = static_cast<int32_t>(v);
    }
    for (int64_t v = 0; v < size && target >= 0; ++v) {
      const double share = (v == target ? 1 - smoothing : 0) + smoothing / size, p = std::exp(x[v]) / total;
      if (v == target) loss = -std::log(p);
      smooth -= share * std::log(p);
      expected.d_logits[row * size + v] = weights[row] * (p - share);
    }
    expected.losses.push_back(loss);
    expected.smooth_losses.push_back(smooth);
    expected.predictions.push_back(best);
  }
  return expected;
}

template <class T>
void CheckClose(const std::vector<T>& values, const std::vector<double>& expected) {
  const double allowed = sizeof(T) == 8 ? 1e-13 : 1e-5;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::fabs(values[i] - expected[i]);
    KERAS_SEQ_CHECK(error <= allowed * (1 + std::fabs(expected[i])), "off by %g of %g", error, expected[i]);
  }
}

template <class T>
void TestCall(int64_t rows, int64_t vocabulary, double smoothing, ThreadPool& pool, std::mt19937_64& engine) {
  std::normal_distribution<double> normal;
  std::uniform_int_distribution<int32_t> token(-1, static_cast<int32_t>(vocabulary) - 1);
  std::vector<T> logits(rows * vocabulary), weights(rows);
  for (T& logit : logits) logit = static_cast<T>(4 * normal(engine));
  for (T& weight : weights) weight = static_cast<T>(normal(engine));
  std::vector<int32_t> targets(rows);
  for (int32_t& target : targets) target = token(engine);
  Crossentropy call{};
  call.dtype = sizeof(T) == 8 ? DataType::kFloat64 : DataType::kFloat32;
  call.rows = rows, call.vocabulary = vocabulary, call.label_smoothing = static_cast<T>(smoothing);
  call.targets = targets.data(), call.weights = weights.data();
  const Outputs<double> expected = Expected(call, {logits.begin(), logits.end()}, {weights.begin(), weights.end()});
  for (int64_t i = 0; i < rows * vocabulary; ++i) {  // nothing reads them
    if (targets[i / vocabulary] < 0) logits[i] = std::numeric_limits<T>::quiet_NaN();
  }
  const Outputs<T> first = Run<T>(call, logits, false, pool.WithThreads(1));
  CheckClose(first.losses, expected.losses);
  CheckClose(first.smooth_losses, expected.smooth_losses);
  CheckClose(first.d_logits, expected.d_logits);
  KERAS_SEQ_CHECK(first.predictions == expected.predictions, "predictions differ");
  for (bool in_place : {false, true}) {
    const Outputs<T> other = Run<T>(call, logits, in_place, pool.WithThreads(3));
    KERAS_SEQ_CHECK(first.losses == other.losses && first.smooth_losses == other.smooth_losses &&
                        first.d_logits == other.d_logits && first.predictions == other.predictions,
                    "differs with threads or in place: %d", in_place);
  }
}

}  // namespace
}  // namespace keras_seq

int main() {
  using namespace keras_seq;
  RequireInstructionSet();
  ThreadPool pool(3);
  std::mt19937_64 engine(1);
  for (int i = 0; i < 100; ++i) {
    const int64_t vocabulary = std::uniform_int_distribution<int64_t>(1, i % 10 ? 70 : 9000)(engine);
    const int64_t rows = std::uniform_int_distribution<int64_t>(0, i % 10 ? 900 : 9)(engine);
    TestCall<float>(rows, vocabulary, i % 2 ? 0.1 : 0, pool, engine);
    TestCall<double>(rows, vocabulary, i % 2 ? 0.1 : 0, pool, engine);
  }
  std::printf("crossentropy: passed with %s\n", InstructionSet(nullptr));
}
