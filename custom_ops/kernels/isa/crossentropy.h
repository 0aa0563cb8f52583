// SPDX-License-Identifier: Apache-2.0
// Cross-entropies of logits, a row at a time, while it is in the first-level cache.
#ifndef KERAS_SEQ_KERNELS_ISA_CROSSENTROPY_H_
#define KERAS_SEQ_KERNELS_ISA_CROSSENTROPY_H_

#include <cmath>

#include "../crossentropy.h"
#include "../team.h"
#include "activations.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class T>
class CrossentropyRows {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;

 public:
  explicit CrossentropyRows(const Crossentropy& call)
      : call_(call), vocabulary_(call.vocabulary), smoothing_(static_cast<T>(call.label_smoothing)) {}

  // The work of one row.
  void Compute(int64_t row) const {
    const T* logits = static_cast<const T*>(call_.logits) + row * vocabulary_;
    T* d_logits = call_.d_logits == nullptr ? nullptr : static_cast<T*>(call_.d_logits) + row * vocabulary_;
    T &loss = static_cast<T*>(call_.losses)[row], &smooth = static_cast<T*>(call_.smooth_losses)[row];
    const int64_t target = call_.targets[row];
    if (target < 0) {
      loss = smooth = 0;
      call_.predictions[row] = -1;
      if (d_logits != nullptr) memset(d_logits, 0, vocabulary_ * sizeof(T));
      return;
    }
    const T of_target = logits[target], largest = Largest(logits);
    call_.predictions[row] = static_cast<int32_t>(IndexOf(largest, logits));
    T total, sum;
    SumPowers(logits, largest, d_logits, &total, &sum);
    const T normalizer = largest + static_cast<T>(__builtin_log(total)), share = smoothing_ / vocabulary_;
    loss = normalizer - of_target;
    smooth = smoothing_ == 0 ? loss : (1 - smoothing_) * loss + smoothing_ * (normalizer - sum / vocabulary_);
    if (d_logits == nullptr) return;
    const T weight = static_cast<const T*>(call_.weights)[row];
    Scale(weight / total, weight * share, d_logits);
    // The probability minus one, without cancellation.
    d_logits[target] = weight * (static_cast<T>(__builtin_expm1(-loss)) + (smoothing_ - share));
  }

 private:
  // NaN does not count.
  T Largest(const T* logits) const {
    constexpr T kLowest = -static_cast<T>(__builtin_inf());
    V lanes = V{} + kLowest;
    int64_t i = 0;
    for (; i + L <= vocabulary_; i += L) {
      const V x = Load(logits + i);
      lanes = x > lanes ? x : lanes;
    }
    T largest = kLowest;
    for (int lane = 0; lane < L; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
    for (; i < vocabulary_; ++i) largest = logits[i] > largest ? logits[i] : largest;
    return largest;
  }

  // The first index; 0 if all logits are NaN.
  int64_t IndexOf(T value, const T* logits) const {
    for (int64_t i = 0; i < vocabulary_; ++i) {
      if (logits[i] == value) return i;
    }
    return 0;
  }

  // Sums the powers exp(logit - largest), which it writes to `powers` if that is not null, and the logits.
  void SumPowers(const T* logits, T largest, T* powers, T* total, T* sum) const {
    V totals{}, sums{};
    for (int64_t i = 0; i < vocabulary_; i += L) {
      const int64_t count = vocabulary_ - i;
      const V x = LoadFirst(logits + i, count), power = KeepFirst<T>(ClampedExp<T>(x - largest), count);
      totals += power;
      sums += x;
      if (powers != nullptr) StoreFirst(powers + i, power, count);
    }
    *total = *sum = 0;
    for (int lane = 0; lane < L; ++lane) {
      *total += totals[lane];
      *sum += sums[lane];
    }
  }

  // values = factor values - offset
  void Scale(T factor, T offset, T* values) const {
    int64_t i = 0;
    for (; i + L <= vocabulary_; i += L) Store(values + i, factor * Load(values + i) - offset);
    for (; i < vocabulary_; ++i) values[i] = factor * values[i] - offset;
  }

  const Crossentropy& call_;
  const int64_t vocabulary_;
  const T smoothing_;
};

template <class T>
void RunCrossentropy(const Crossentropy& call, const Executor& executor) {
  constexpr int64_t kItem = 1 << 14;  // logits of an item of work
  const int64_t rows = call.vocabulary < kItem ? kItem / (call.vocabulary + 1) + 1 : 1;
  const int64_t items = (call.rows + rows - 1) / rows;
  const CrossentropyRows<T> pass(call);
  RunTeam(executor, items < executor.threads ? static_cast<int>(items) : executor.threads, [&](Worker& worker) {
    worker.ForEach(items, [&](int64_t item) {
      for (int64_t row = item * rows; row < Smaller((item + 1) * rows, call.rows); ++row) pass.Compute(row);
    });
  });
}

inline void RunCrossentropyOfType(const Crossentropy& call, const Executor& executor) {
  call.dtype == DataType::kFloat64 ? RunCrossentropy<double>(call, executor) : RunCrossentropy<float>(call, executor);
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_CROSSENTROPY_H_
