// SPDX-License-Identifier: Apache-2.0
// The attention of a call, as a template parameter of `ForwardPass` and `BackwardPass`: nothing is left in the loops of
// a call that does not attend.
#ifndef KERAS_SEQ_KERNELS_ISA_ATTENTION_H_
#define KERAS_SEQ_KERNELS_ISA_ATTENTION_H_

#include "attention_backward.h"
#include "attention_forward.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

struct NoAttention {
  template <class Equations, class T>
  using Forward = NoAttentionForward<T>;
  template <class Equations, class T>
  using Backward = NoAttentionBackward<T>;
};

// Any attention that `Problem` describes: the equations are in recurrence.h. Scores are no template parameter, because
// one branch for each energy costs less than twice the code.
struct MemoryAttention {
  template <class Equations, class T>
  using Forward = MemoryAttentionForward<Equations, T>;
  template <class Equations, class T>
  using Backward = MemoryAttentionBackward<Equations, T>;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_H_
