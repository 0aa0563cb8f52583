// SPDX-License-Identifier: Apache-2.0
// Keeps packed weights from one call of an op to the next, as long as the weights stay the same.
#ifndef KERAS_SEQ_TF_PACKED_CACHE_H_
#define KERAS_SEQ_TF_PACKED_CACHE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/tensor.h"
#include "xla/call.h"

namespace keras_seq {

// Whether two lists have the same tensors: the same buffers in the same shapes.
inline bool SameBuffers(const std::vector<tensorflow::Tensor>& a, const std::vector<tensorflow::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].data() != b[i].data() || !a[i].SharesBufferWith(b[i]) || !a[i].IsSameSize(b[i])) return false;
  }
  return true;
}

// Weights are the same if they are the same buffers. TensorFlow writes to a buffer in place only if nobody else refers
// to it, and the cache refers to those it knows: an optimizer's step or an assignment gives a variable another buffer.
// That costs one copy of the weights, so training steps must not use the cache.
//
// Weights are packed when they are seen for the second time in a row. Where they change with every call, the cache
// compares addresses and nothing else. Safe for any number of threads.
class PackedCache {
 public:
  // Returns packed weights for a call with these weights, or nothing. `pack()` packs them. `sizes` are those that decide
  // about the packing and that the shapes of the weights do not tell.
  template <class Pack>
  PackedCall Find(std::vector<tensorflow::Tensor> weights, const std::vector<int64_t>& sizes, const Pack& pack) {
    std::vector<tensorflow::Tensor> replaced;  // released after the lock
    PackedCall dropped;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (sizes != sizes_ || !SameBuffers(weights, weights_)) {
      replaced = std::exchange(weights_, std::move(weights));
      sizes_ = sizes;
      dropped = std::exchange(packed_, {});
      return {};
    }
    if (packed_.empty()) packed_ = pack();
    return packed_;
  }

 private:
  std::mutex mutex_;
  std::vector<tensorflow::Tensor> weights_;
  std::vector<int64_t> sizes_;
  PackedCall packed_;
};

}  // namespace keras_seq

#endif  // KERAS_SEQ_TF_PACKED_CACHE_H_
