// SPDX-License-Identifier: Apache-2.0
// Monotonic attention weights of one sequence at one step: those of a reader who never turns back (Raffel et al. 2017).
// The equations are in recurrence.h. The paper divides running products, which is 0 / 0 behind a certain stop; a
// running sum of what reaches each position needs no quotient.
#ifndef KERAS_SEQ_KERNELS_ISA_MONOTONIC_H_
#define KERAS_SEQ_KERNELS_ISA_MONOTONIC_H_

#include "packing.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class T>
inline T SigmoidOf(T x) {
  return Sigmoid<T>(Vector<T>{} + x)[0];
}

// From energies to attention weights, in place. Those are 0 where `visible(s)` is false. `previous` are the attention
// weights of the step before.
template <class T, class Visible>
void MoveReader(Weighting weighting, int64_t source, const Visible& visible, const T* bias, const T* previous,
                T* energies) {
  T reach = 0;
  bool stopped = false;
  for (int64_t s = 0; s < source; ++s) {
    reach += previous[s];
    if (!visible(s)) {
      energies[s] = 0;
      continue;
    }
    const T energy = energies[s] + bias[s];
    if (weighting == Weighting::kHard) {
      energies[s] = !stopped && reach > 0 && energy > 0;
      stopped |= energies[s] != 0;
    } else {
      energies[s] = SigmoidOf<T>(energy) * reach;
      reach *= SigmoidOf<T>(-energy);
    }
  }
}

// From the gradients of attention weights, in place, to those of the energies, whose bias they have already.
// `d_previous` are the gradients of these attention weights through the next step, and become those of `previous`.
// `scratch` has 3 * source numbers.
template <class T, class Visible>
void DifferentiateReader(int64_t source, const Visible& visible, const T* energies, const T* previous, T* d_previous,
                         T* scratch, T* gradients) {
  T *stop = scratch, *pass = stop + source, *reach = pass + source, reached = 0;
  for (int64_t s = 0; s < source; ++s) {
    stop[s] = visible(s) ? SigmoidOf<T>(energies[s]) : 0;
    pass[s] = visible(s) ? SigmoidOf<T>(-energies[s]) : 1;
    reach[s] = reached += previous[s];
    reached *= pass[s];
  }
  T d_reach = 0;  // of the next position
  for (int64_t s = source - 1; s >= 0; --s) {
    const T d_weight = visible(s) ? gradients[s] + d_previous[s] : 0;
    gradients[s] = (d_weight - d_reach) * reach[s] * stop[s] * pass[s];
    d_reach = d_weight * stop[s] + d_reach * pass[s];
    d_previous[s] = d_reach;
  }
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_MONOTONIC_H_
