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

// Bahdanau, Cho & Bengio (2015); the equations are in recurrence.h.
struct AdditiveAttention {
  template <class Equations, class T>
  using Forward = AdditiveAttentionForward<Equations, T>;
  template <class Equations, class T>
  using Backward = AdditiveAttentionBackward<Equations, T>;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_H_
