// SPDX-License-Identifier: Apache-2.0
// How the forward pass of a cell with layer normalization turns the stored products of a row into the sums that the
// equations of the cell read.
#ifndef KERAS_SEQ_KERNELS_ISA_LAYER_NORM_FORWARD_H_
#define KERAS_SEQ_KERNELS_ISA_LAYER_NORM_FORWARD_H_

#include "layer_norm.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// The moments of both products of a row, for each set of gates.
template <class Equations, class T>
struct ProductMoments {
  Moments<T> inputs[Equations::kSets], recurrent[Equations::kSets];

  template <const Columns& kColumns>
  void Find(const SlotRow<T>& row, int64_t units) {
    FindMoments<Equations, kColumns>(row, Equations::kInputProducts, units, inputs);
    FindMoments<Equations, kColumns>(row, Equations::kRecurrentProducts, units, recurrent);
  }
};

// Of one vector of units: a vector for each gate, and one of the recurrent bias of the candidate.
template <class T>
struct Biases {
  const T *inputs, *recurrent;
};

// sums = N(x W) + N(h U) + b for the gates of a product. A candidate that adds its input product itself finds it in its
// slot.
template <class Equations, const Columns& kColumns, class T>
inline void NormalizeSums(const SlotRow<T>& row, const ProductMoments<Equations, T>& moments, const T* gains,
                          const Biases<T>& biases, int64_t unit, T* sums) {
  using Rows = GainRows<Equations>;
  constexpr int L = kLanes<T>;
  const int64_t padded = row.layout.padded;
#pragma GCC unroll 4
  for (int v = 0; v < kColumns.gates; ++v) {
    const int gate = kColumns.gate[v], set = Equations::kSetOf[gate];
    const auto normalized = [&](const Moments<T>& of_row, int slot, int gain) {
      const Vector<T> centred = Load(row.At(slot + gate, unit)) - of_row.mean;
      return centred * of_row.factor * Load(gains + (gain + gate) * padded + unit);
    };
    const Vector<T> of_inputs = normalized(moments.inputs[set], Equations::kInputProducts, Rows::kInput) +
                                Load(biases.inputs + gate * L);
    Vector<T> sum = normalized(moments.recurrent[set], Equations::kRecurrentProducts, Rows::kRecurrent);
    bool adds_inputs = true;
    if constexpr (Equations::kHasRecurrentBias) adds_inputs = gate != Equations::kCandidateGate;
    if (adds_inputs) {
      sum += of_inputs;
    } else {
      sum += Load(biases.recurrent);
      Store(row.At(gate, unit), of_inputs);
    }
    Store(sums + v * L, sum);
  }
}

// From the sums of a vector of units to gates and c, in their slots. `c` is a row of the state before the step.
template <class Equations, class T>
inline void StoreCellState(const SlotRow<T>& row, const CellOptions<T>& options, const T* sums, const T* c,
                           int64_t unit) {
  Store(row.At(Equations::kCellStateSlot, unit), WithPolicy(options, [&](const auto& policy) {
    return Equations::template ComputeCellState<T>(sums, policy, row.layout.width, row.At(0, unit), Load(c + unit));
  }));
}

template <class Equations, class T>
inline Moments<T> MomentsOfCellState(const SlotRow<T>& row, int64_t units) {
  return MomentsOf<T, 1>(units, [&](int, int64_t unit) { return Load(row.At(Equations::kCellStateSlot, unit)); });
}

template <class Equations, class T>
inline Vector<T> NormalizedState(Vector<T> c, const Moments<T>& moments, const T* gains, const Layout& layout,
                                 int64_t unit) {
  using Rows = GainRows<Equations>;
  return (c - moments.mean) * moments.factor * Load(gains + Rows::kState * layout.padded + unit) +
         Load(gains + Rows::kShift * layout.padded + unit);
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_LAYER_NORM_FORWARD_H_
