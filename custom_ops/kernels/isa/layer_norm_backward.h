// SPDX-License-Identifier: Apache-2.0
// What the backward pass of a cell with layer normalization does beside that of the cell, row by row: from the
// gradients of normalized products and of the normalized c to those before, and the gradients of gains, shift and bias.
//
// Each block of sequences adds up its own gradients, in the order of the steps; the sum of the blocks comes last. So no
// sum depends on the number of threads.
#ifndef KERAS_SEQ_KERNELS_ISA_LAYER_NORM_BACKWARD_H_
#define KERAS_SEQ_KERNELS_ISA_LAYER_NORM_BACKWARD_H_

#include "../team.h"
#include "backward_call.h"
#include "layer_norm.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// Of a cell without layer normalization: nothing.
template <class Equations, class T, bool = Equations::kNormalizes>
class LayerNormBackward {
 public:
  template <class Call>
  explicit LayerNormBackward(const Call&) {}
  void Allocate(Workspace&) {}
  void Prepare(int64_t) {}
  void StoreGradients(Worker&) {}
};

template <class Equations, class T>
class LayerNormBackward<Equations, T, true> {
  using V = Vector<T>;
  using Rows = GainRows<Equations>;
  static constexpr int L = kLanes<T>;
  static constexpr int kGates = Equations::kGates;
  // The sums of a block, in rows of padded units: first those of the gains.
  static constexpr int kBias = Rows::kCount, kRecurrentBias = kBias + kGates, kSums = kRecurrentBias + kGates;

 public:
  // `call` must outlive this object.
  explicit LayerNormBackward(const BackwardCall<Equations, T>& call)
      : call_(call), options_(call.problem, call.arguments[0]), layout_(call.layout) {}

  void Allocate(Workspace& workspace) {
    const int64_t blocks = NormBlocks(call_.problem);
    directions_ = workspace.Allocate<Direction>(call_.direction_count);
    if (!workspace.ok()) return;
    for (int64_t d = 0; d < call_.direction_count; ++d) {
      directions_[d].gains = workspace.Allocate<T>(Rows::kCount * layout_.padded);
      directions_[d].sums = workspace.AllocateZeros<T>(blocks * kSums * layout_.padded);
      directions_[d].scratch = workspace.Allocate<T>(blocks * 2 * layout_.padded);
    }
  }

  void Prepare(int64_t d) { PackGains<Equations, T>(call_.arguments[d], layout_, directions_[d].gains); }

  // From the gradients of the normalized h U to those of h U, for the gates of one product.
  template <const Columns& kColumns>
  void DifferentiateRecurrent(int64_t d, int64_t step, int64_t b) const {
    DifferentiateSets<kColumns>(RowOf(d, step, b), {Equations::kRecurrentProducts, Rows::kRecurrent, kRecurrentBias,
                                                    Equations::kSourceSlot, Equations::kRecurrentGradientSlot});
  }

  // From the gradients of the normalized x W to those of x W. Those of h U must be known.
  void DifferentiateInputs(int64_t d, int64_t step, int64_t b) const {
    DifferentiateSets<Equations::kInput>(RowOf(d, step, b), {Equations::kInputProducts, Rows::kInput, kBias,
                                                             Equations::kInputGradientSlot,
                                                             Equations::kInputGradientSlot});
  }

  // The gradient of c through h, and that of the output gate; both go to their slots. `cell_state(unit)` is a vector of
  // c as the step computed it, `d_hidden(unit)` one of the gradient of the cell's new h.
  template <class CellState, class HiddenGradient>
  void DifferentiateState(int64_t d, int64_t step, int64_t b, const CellState& cell_state,
                          const HiddenGradient& d_hidden) const {
    const Row row = RowOf(d, step, b);
    const int64_t units = layout_.units, padded = layout_.padded, width = layout_.width;
    T* c = directions_[d].scratch + b / kNormRows * 2 * padded;
    T* d_state = c + padded;
    for (int64_t unit = 0; unit < units; unit += L) Store(c + unit, cell_state(unit));
    const Moments<T> moments = MomentsOf<T, 1>(units, [&](int, int64_t unit) { return Load(c + unit); });
    V total{}, along{};
    for (int64_t unit = 0; unit < units; unit += L) {
      const V standard = KeepFirst<T>((Load(c + unit) - moments.mean) * moments.factor, units - unit);
      const V gain = Load(row.gains + Rows::kState * padded + unit);
      const V normalized = standard * gain + Load(row.gains + Rows::kShift * padded + unit);
      const V dn = WithPolicy(options_, [&](const auto& policy) {
        return Equations::template BackwardHidden<T>(row.residuals.At(0, unit), policy, width, d_hidden(unit),
                                                     normalized, row.gradients.At(0, unit));
      });
      Add(row.sums, Rows::kState, unit, dn * standard);
      Add(row.sums, Rows::kShift, unit, dn);
      Store(c + unit, standard);
      Store(d_state + unit, dn * gain);
      total += dn * gain;
      along += dn * gain * standard;
    }
    const T mean = SumOfLanes<T>(total) / static_cast<T>(units), slope = SumOfLanes<T>(along) / static_cast<T>(units);
    for (int64_t unit = 0; unit < units; unit += L) {
      const V dc = moments.factor * (Load(d_state + unit) - mean - Load(c + unit) * slope);
      Store(row.gradients.At(0, unit), KeepFirst<T>(dc, units - unit));
    }
  }

  // Adds up the sums of all blocks.
  void StoreGradients(Worker& worker) {
    const int64_t vectors = CeilDiv(layout_.units, L);
    worker.ForEach(call_.direction_count * vectors, [&](int64_t item) {
      const int64_t d = item / vectors, unit = item % vectors * L, units = layout_.units;
      const Gradients& gradients = call_.gradients[d];
      ForEachGainRow<Equations>([&](ExtraWeight weight, int row, int gate) {
        StoreSum(d, row, unit, gradients.extra_weights[weight], gate * units);
      });
      for (int gate = 0; gate < kGates; ++gate) {
        StoreSum(d, kBias + gate, unit, gradients.bias, gate * units);
        if constexpr (Equations::kHasRecurrentBias) {
          StoreSum(d, kRecurrentBias + gate, unit, gradients.bias, (kGates + gate) * units);
        }
      }
    });
  }

 private:
  struct Direction {
    T *gains, *sums;  // (rows, padded) and (blocks, rows, padded)
    T* scratch;       // (blocks, 2, padded)
  };

  // What belongs to a sequence at a step.
  struct Row {
    SlotRow<const T> residuals;
    SlotRow<T> gradients;
    const T* gains;
    T* sums;
  };

  // A product: its first slot, its rows of gains and of sums, and the slots of gradients by gate.
  struct Product {
    int slot, gains, bias;
    const int *source, *target;
  };

  Row RowOf(int64_t d, int64_t step, int64_t b) const {
    constexpr int kSlots = Equations::kResidualSlots, kGradientSlots = Equations::kGradientSlots;
    return {{call_.Residuals(d, step, 0) + b * kSlots * layout_.width, layout_, kSlots},
            {call_.SlotGradients(d, step, 0) + b * kGradientSlots * layout_.width, layout_, kGradientSlots},
            directions_[d].gains,
            directions_[d].sums + b / kNormRows * kSums * layout_.padded};
  }

  void Add(T* sums, int row, int64_t unit, V value) const {
    T* to = sums + row * layout_.padded + unit;
    Store(to, Load(to) + value);
  }

  template <const Columns& kColumns, int set = 0>
  __attribute__((noinline)) void DifferentiateSets(const Row& row, const Product& product) const {
    constexpr GateRange kRange = GatesOfSet<Equations>(kColumns, set);
    if constexpr (kRange.count > 0) DifferentiateSet<kRange.first, kRange.count>(row, product);
    if constexpr (set + 1 < Equations::kSets) DifferentiateSets<kColumns, set + 1>(row, product);
  }

  template <int first, int count>
  void DifferentiateSet(const Row& row, const Product& product) const {
    const int64_t units = layout_.units;
    const auto raw = [&](int i, int64_t unit) { return Load(row.residuals.At(product.slot + first + i, unit)); };
    const Moments<T> moments = MomentsOf<T, count>(units, raw);
    const auto standard = [&](int i, int64_t unit) {
      return KeepFirst<T>((raw(i, unit) - moments.mean) * moments.factor, units - unit);
    };
    const auto gain = [&](int i, int64_t unit) {
      return Load(row.gains + (product.gains + first + i) * layout_.padded + unit);
    };
    V total[count] = {}, along[count] = {};
    for (int64_t unit = 0; unit < units; unit += L) {
#pragma GCC unroll 4
      for (int i = 0; i < count; ++i) {
        const V d_normalized = Load(row.gradients.At(product.source[first + i], unit)), s = standard(i, unit);
        const V d_standard = d_normalized * gain(i, unit);
        Add(row.sums, product.gains + first + i, unit, d_normalized * s);
        Add(row.sums, product.bias + first + i, unit, d_normalized);
        total[i] += d_standard;
        along[i] += d_standard * s;
      }
    }
    for (int i = 1; i < count; ++i) {
      total[0] += total[i];
      along[0] += along[i];
    }
    const T numbers = static_cast<T>(units * count);
    const T mean = SumOfLanes<T>(total[0]) / numbers, slope = SumOfLanes<T>(along[0]) / numbers;
    for (int64_t unit = 0; unit < units; unit += L) {
#pragma GCC unroll 4
      for (int i = 0; i < count; ++i) {
        const V d_standard = Load(row.gradients.At(product.source[first + i], unit)) * gain(i, unit);
        const V d = moments.factor * (d_standard - mean - standard(i, unit) * slope);
        Store(row.gradients.At(product.target[first + i], unit), KeepFirst<T>(d, units - unit));
      }
    }
  }

  void StoreSum(int64_t d, int row, int64_t unit, void* gradient, int64_t offset) const {
    if (gradient == nullptr) return;
    V sum{};
    for (int64_t block = 0; block < NormBlocks(call_.problem); ++block) {
      sum += Load(directions_[d].sums + (block * kSums + row) * layout_.padded + unit);
    }
    StoreFirst(static_cast<T*>(gradient) + offset + unit, sum, layout_.units - unit);
  }

  const BackwardCall<Equations, T>& call_;
  const CellOptions<T> options_;
  const Layout layout_;
  Direction* directions_ = nullptr;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_LAYER_NORM_BACKWARD_H_
