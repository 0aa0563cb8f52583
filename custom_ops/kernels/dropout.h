// SPDX-License-Identifier: Apache-2.0
// Random masks for dropout and zoneout: the numbers of TensorFlow's stateless_uniform with Philox.
#ifndef KERAS_SEQ_KERNELS_DROPOUT_H_
#define KERAS_SEQ_KERNELS_DROPOUT_H_

#include <cstdint>

#include "recurrence.h"

namespace keras_seq {

// Draws a mask and, with `inputs`, multiplies them with it. Entry i of the mask depends on the seed and on i alone.
struct Dropout {
  int64_t seed[2];
  uint32_t threshold;            // an entry is dropped if its 16 random bits are below
  int64_t size;                  // of the mask, in entries
  int entry_bytes;               // 2, 4 or 8; with inputs, 4 for float32 or 8 for float64
  const void* values;            // the entries of a mask: where something is dropped, and where it is kept
  const void* inputs = nullptr;  // null, or `size` entries. They may be the outputs.
  void* outputs;                 // `size` entries
};

void DrawMask(const Dropout& dropout, const Executor& executor);

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_DROPOUT_H_
