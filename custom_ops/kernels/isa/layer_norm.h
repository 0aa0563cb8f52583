// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward pass of cells with layer normalization share: rows of slots, their moments, gains.
#ifndef KERAS_SEQ_KERNELS_ISA_LAYER_NORM_H_
#define KERAS_SEQ_KERNELS_ISA_LAYER_NORM_H_

#include "layer_norm_cells.h"
#include "packing.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

constexpr int64_t kNormRows = 8;         // sequences of an item of work that goes through whole rows
constexpr double kNormEpsilon = 1e-3;    // that of keras.layers.LayerNormalization
inline constexpr Columns kOneVector{1, 1, {0}};

inline int64_t NormBlocks(const Problem& problem) { return CeilDiv(problem.batch, kNormRows); }

inline int64_t NormBlockEnd(const Problem& problem, int64_t block) {
  return Smaller((block + 1) * kNormRows, problem.batch);
}

// The slots of one sequence at one step.
template <class T>
struct SlotRow {
  T* data;
  const Layout& layout;
  int slots;

  T* At(int slot, int64_t unit) const { return data + layout.Offset(slots, 0, unit) + slot * layout.width; }
};

// What scales a row to mean 0 and variance 1.
template <class T>
struct Moments {
  T mean, factor;  // 1 / deviation
};

template <class T>
inline T SumOfLanes(Vector<T> vector) {
  T sum = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) sum += vector[lane];
  return sum;
}

// The moments of `count` rows of `units` numbers together. `load(i, unit)` is a vector of the i-th; lanes beyond the
// units do not count.
template <class T, int count, class LoadVector>
inline Moments<T> MomentsOf(int64_t units, const LoadVector& load) {
  Vector<T> sums[count] = {}, squares[count] = {};
  for (int64_t unit = 0; unit < units; unit += kLanes<T>) {
#pragma GCC unroll 4
    for (int i = 0; i < count; ++i) sums[i] += KeepFirst<T>(load(i, unit), units - unit);
  }
  for (int i = 1; i < count; ++i) sums[0] += sums[i];
  const T total = static_cast<T>(units * count), mean = SumOfLanes<T>(sums[0]) / total;
  for (int64_t unit = 0; unit < units; unit += kLanes<T>) {
#pragma GCC unroll 4
    for (int i = 0; i < count; ++i) {
      const Vector<T> centred = KeepFirst<T>(load(i, unit) - mean, units - unit);
      squares[i] += centred * centred;
    }
  }
  for (int i = 1; i < count; ++i) squares[0] += squares[i];
  const T variance = SumOfLanes<T>(squares[0]) / total;
  return {mean, static_cast<T>(1 / __builtin_sqrt(variance + kNormEpsilon))};
}

// The gates of `columns` that are normalized together, in a set of the cell.
struct GateRange {
  int first, count;
};

template <class Equations>
constexpr GateRange GatesOfSet(const Columns& columns, int set) {
  GateRange range{0, 0};
  for (int v = columns.gates - 1; v >= 0; --v) {
    if (Equations::kSetOf[columns.gate[v]] != set) continue;
    range.first = range.count == 0 || columns.gate[v] < range.first ? columns.gate[v] : range.first;
    ++range.count;
  }
  return range;
}

// The moments of x W or h U, whose slots begin at `first_slot`, for each set of the gates of a product.
template <class Equations, const Columns& kColumns, int set = 0, class T, class Element>
inline void FindMoments(const SlotRow<Element>& row, int first_slot, int64_t units, Moments<T>* moments) {
  constexpr GateRange kGates = GatesOfSet<Equations>(kColumns, set);
  if constexpr (kGates.count > 0) {
    moments[set] = MomentsOf<T, kGates.count>(
        units, [&](int i, int64_t unit) { return Load(row.At(first_slot + kGates.first + i, unit)); });
  }
  if constexpr (set + 1 < Equations::kSets) {
    FindMoments<Equations, kColumns, set + 1>(row, first_slot, units, moments);
  }
}

// The gains and the shift of c, in rows of padded units: of x W and of h U for each gate, of c and its shift.
template <class Equations>
struct GainRows {
  static constexpr int kInput = 0, kRecurrent = Equations::kGates, kState = 2 * Equations::kGates;
  static constexpr int kShift = kState + 1, kCount = kState + (Equations::kNormalizesState ? 2 : 0);
};

// Calls function(weight, row, gate): each row of gains is a gate of an extra weight.
template <class Equations, class Function>
inline void ForEachGainRow(Function&& function) {
  using Rows = GainRows<Equations>;
  for (int gate = 0; gate < Equations::kGates; ++gate) {
    function(kInputGamma, Rows::kInput + gate, gate);
    function(kRecurrentGamma, Rows::kRecurrent + gate, gate);
  }
  if constexpr (Equations::kNormalizesState) {
    function(kStateGamma, int{Rows::kState}, 0);
    function(kStateBeta, int{Rows::kShift}, 0);
  }
}

// Copies the gains of a direction. Padding becomes zeros, so normalized padding is zero.
template <class Equations, class S, class T>
inline void PackGains(const Arguments& arguments, const Layout& layout, T* gains) {
  const int64_t units = layout.units;
  ForEachGainRow<Equations>([&](ExtraWeight weight, int row, int gate) {
    const S* from = static_cast<const S*>(arguments.extra_weights[weight]) + gate * units;
    for (int64_t unit = 0; unit < layout.padded; unit += kLanes<T>) {
      Store(gains + row * layout.padded + unit,
            unit < units ? LoadUnits<T>(from, unit, units) : Vector<T>{});
    }
  });
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_LAYER_NORM_H_
