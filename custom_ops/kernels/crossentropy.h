// SPDX-License-Identifier: Apache-2.0
// Cross-entropies of the softmax of logits, with their gradients.
#ifndef KERAS_SEQ_KERNELS_CROSSENTROPY_H_
#define KERAS_SEQ_KERNELS_CROSSENTROPY_H_

#include "recurrence.h"

namespace keras_seq {

// Row-major matrices of float32 or float64, with a row for each token. A row with a negative target does not count: its
// losses and gradients are zero, its prediction is -1, and its logits are not read.
struct Crossentropy {
  DataType dtype;
  int64_t rows, vocabulary;
  double label_smoothing;
  const void* logits;      // (rows, vocabulary)
  const int32_t* targets;  // (rows,), less than `vocabulary`
  const void* weights;     // (rows,), of `d_logits` only
  void* losses;            // (rows,), -log p of the target
  void* smooth_losses;     // (rows,), with label smoothing
  int32_t* predictions;    // (rows,), the first of the largest logits
  void* d_logits;          // the gradient of the sum of weights times smooth losses; null, or `logits` to overwrite them
};

void ComputeCrossentropy(const Crossentropy& crossentropy, const Executor& executor);

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_CROSSENTROPY_H_
