// SPDX-License-Identifier: Apache-2.0
// Packed weights that outlive a call.
#ifndef KERAS_SEQ_KERNELS_PACKED_WEIGHTS_H_
#define KERAS_SEQ_KERNELS_PACKED_WEIGHTS_H_

#include "recurrence.h"
#include "workspace.h"

namespace keras_seq {

// The element types are those of the pass that packed them. Null where the cell or the call has no such weight.
struct PackedWeights {
  // Of the cell; see `ForwardSteps`.
  void *kernel = nullptr, *recurrent_kernel = nullptr, *candidate_kernel = nullptr;
  void *bias = nullptr, *recurrent_bias = nullptr;
  void *peephole_kernel = nullptr, *projection_kernel = nullptr, *gains = nullptr;  // gains of layer normalization
  // Of the attention; see `MemoryAttentionForward`.
  void *query_kernel = nullptr, *score_vector = nullptr, *coverage_kernel = nullptr, *fed_kernel = nullptr;
  void *attentional_hidden_kernel = nullptr, *attentional_context_kernel = nullptr;
  Workspace workspace;  // where they are
};

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_PACKED_WEIGHTS_H_
