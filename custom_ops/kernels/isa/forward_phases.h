// SPDX-License-Identifier: Apache-2.0
// The members of `ForwardSteps` that only cells with layer normalization or a projected state have: further phases of a
// step. Included by forward_steps.h.
#ifndef KERAS_SEQ_KERNELS_ISA_FORWARD_PHASES_H_
#define KERAS_SEQ_KERNELS_ISA_FORWARD_PHASES_H_

#include "forward_steps.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class Equations, class S, class Element>
template <const Columns& kColumns>
void ForwardSteps<Equations, S, Element>::StoreProducts(int64_t d, int64_t step, int64_t panel, int64_t block,
                                                       const Element* operand, const Element* kernel) {
  constexpr int NV = kColumns.vectors();
  static const T kZeros[NV * L] = {};
  const Direction& direction = directions_[d];
  const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_[d], step));
  const Element* left[kRowBlock];
  T* products[kRowBlock];
  for (int64_t i = 0; i < rows.count; ++i) {
    const int64_t slot = rows.sequence[i] * direction.slot_count + Equations::kRecurrentProducts + kColumns.gate[0];
    left[i] = operand + rows.sequence[i] * operand_stride_;
    products[i] = Slots(direction, step, panel * L) + slot * layout_.width;
  }
  MultiplyRows<NV>(Rows<Element>{left, hidden_padded_ / Types::kDepth, 0, 1}, rows.count,
                   kernel + panel * PanelSize<Element>(hidden_padded_, NV), products, layout_.width, kZeros);
}

template <class Equations, class S, class Element>
template <const Columns& kColumns>
void ForwardSteps<Equations, S, Element>::NormalizeProducts(Worker& worker, int64_t step) {
  const int64_t blocks = NormBlocks(problem_);
  worker.ForEach(direction_count_ * blocks, [&](int64_t item) {
    NormalizeBlock<kColumns>(item / blocks, step, item % blocks * kNormRows, NormBlockEnd(problem_, item % blocks));
  }, step % 2 == 1);
}

template <class Equations, class S, class Element>
template <const Columns& kColumns>
void ForwardSteps<Equations, S, Element>::NormalizeBlock(int64_t d, int64_t step, int64_t first, int64_t end) {
  const Direction& direction = directions_[d];
  const int64_t t = TimeOf(problem_, arguments_[d], step);
  const auto row = [&](int64_t b) {
    return SlotRow<T>{Slots(direction, step, 0) + b * direction.slot_count * layout_.width, layout_,
                      direction.slot_count};
  };
  ProductMoments<Equations, T> moments[kNormRows];
  for (int64_t b = first; b < end; ++b) {
    if (Visible(problem_, b, t)) moments[b - first].template Find<kColumns>(row(b), problem_.units);
  }
  for (int64_t panel = 0; panel < recurrent_panels_; ++panel) {
    [[maybe_unused]] const CellOptions<T> options =
        options_.At(panel * L, direction.peephole_kernel, nullptr, layout_.padded);
    T sums[kNormRows * kColumns.vectors() * L];
    for (int64_t b = first; b < end; ++b) {
      if (!Visible(problem_, b, t)) continue;
      T* sums_of_row = sums + (b - first) * kColumns.vectors() * L;
      const Biases<T> biases{direction.bias + panel * kInputVectors * L, direction.recurrent_bias + panel * L};
      NormalizeSums<Equations, kColumns>(row(b), moments[b - first], direction.gains, biases, panel * L, sums_of_row);
      if constexpr (Equations::kNormalizesState) {
        const T* c = direction.state[1] + b * layout_.padded;
        StoreCellState<Equations>(row(b), options, sums_of_row, c, panel * L);
      }
    }
    if constexpr (!Equations::kNormalizesState) Consume<kColumns>(d, step, panel, first, end, sums);
  }
  if constexpr (Equations::kNormalizesState) {
    Moments<T> of_c[kNormRows];
    for (int64_t b = first; b < end; ++b) {
      if (Visible(problem_, b, t)) of_c[b - first] = MomentsOfCellState<Equations>(row(b), problem_.units);
    }
    for (int64_t panel = 0; panel < recurrent_panels_; ++panel) {
      T sums[kNormRows * L];
      for (int64_t b = first; b < end; ++b) {
        if (!Visible(problem_, b, t)) continue;
        const V c = Load(row(b).At(Equations::kCellStateSlot, panel * L));
        Store(sums + (b - first) * L,
              NormalizedState<Equations>(c, of_c[b - first], direction.gains, layout_, panel * L));
      }
      UpdateStates<kOneVector>(d, step, panel, first, end, sums);
    }
  }
}

template <class Equations, class S, class Element>
void ForwardSteps<Equations, S, Element>::ProjectStates(Worker& worker, int64_t step) {
  const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
  worker.ForEach(direction_count_ * projection_panels_ * blocks, [&](int64_t item) {
    ProjectPanel(item / blocks / projection_panels_, step, item / blocks % projection_panels_, item % blocks);
  }, step % 2 == 1);
}

template <class Equations, class S, class Element>
void ForwardSteps<Equations, S, Element>::ProjectPanel(int64_t d, int64_t step, int64_t panel, int64_t block) {
  static const T kZeros[kPanelVectors * L] = {};
  const Direction& direction = directions_[d];
  const UnitMask& zoneout = arguments_[d].zoneout_masks[0];
  const int64_t t = TimeOf(problem_, arguments_[d], step);
  const VisibleSequences rows(problem_, block, t);
  const Element* left[kRowBlock];
  T sums[kRowBlock * kPanelVectors * L];
  T* sum_rows[kRowBlock];
  for (int64_t i = 0; i < rows.count; ++i) {
    left[i] = direction.full_hidden + rows.sequence[i] * layout_.padded;
    sum_rows[i] = sums + (rows.sequence[i] - block * kRowBlock) * kPanelVectors * L;
  }
  MultiplyRows<kPanelVectors>(Rows<Element>{left, layout_.padded, 0, 1}, rows.count,
                              direction.projection_kernel + panel * PanelSize<Element>(layout_.padded, kPanelVectors),
                              sum_rows, L, kZeros);
  for (int64_t b = block * kRowBlock; b < BlockEnd(problem_, block); ++b) {
    for (int v = 0; v < kPanelVectors; ++v) {
      const int64_t unit = (panel * kPanelVectors + v) * L;
      if (unit >= hidden_units_) break;
      T* stored = direction.state[0] + b * hidden_padded_ + unit;
      V h = Load(stored);
      if (Visible(problem_, b, t)) {
        V projected = Load(sums + ((b - block * kRowBlock) * kPanelVectors + v) * L);
        if (zoneout.data != nullptr) {
          const V m = LoadUnits<T>(MaskRow<S>(zoneout, problem_, b, t, hidden_units_), unit, hidden_units_);
          projected = m * h + (1 - m) * projected;
        }
        h = KeepFirst<T>(projected, hidden_units_ - unit);
        Store(stored, h);
      }
      StoreHidden(d, step, b, unit, h);
    }
  }
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_FORWARD_PHASES_H_
