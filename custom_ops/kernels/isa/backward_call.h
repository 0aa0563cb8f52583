// SPDX-License-Identifier: Apache-2.0
// What `BackwardSteps` and `ChunkGradients` share: the arguments of the call, and the gradients of the slots of one
// chunk and one more step.
#ifndef KERAS_SEQ_KERNELS_ISA_BACKWARD_CALL_H_
#define KERAS_SEQ_KERNELS_ISA_BACKWARD_CALL_H_

#include "../workspace.h"
#include "packing.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// `S` is the type of the caller's buffers and of the slot gradients, `Element` what a product multiplies. Sums and
// residuals are of type `T`.
template <class Equations, class S, class Element = S>
struct BackwardCall {
  using Types = ProductTypes<Element>;
  using T = typename Types::Sum;
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kResidualSlots = Equations::kResidualSlots, kGradientSlots = Equations::kGradientSlots;

  BackwardCall(const Problem& problem, const Arguments* arguments, const Results* results, const Upstream* upstream,
               const Gradients* gradients, int64_t direction_count)
      : problem(problem),
        arguments(arguments),
        results(results),
        upstream(upstream),
        gradients(gradients),
        direction_count(direction_count),
        layout(problem.batch, problem.units, Equations::kUnitVectors),
        hidden_units(HiddenUnits(problem)),
        chunk(ChunkSteps(problem)) {}

  bool Allocate(Workspace& workspace) {
    slot_gradients = workspace.Allocate<S*>(direction_count);
    if (!workspace.ok()) return false;
    for (int64_t d = 0; d < direction_count; ++d) {
      slot_gradients[d] = workspace.AllocateZeros<S>((chunk + 1) * layout.StepSize(kGradientSlots));
    }
    return workspace.ok();
  }

  int64_t Time(int64_t d, int64_t step) const { return TimeOf(problem, arguments[d], step); }

  // The gradients of the slots of sequence 0.
  S* SlotGradients(int64_t d, int64_t step, int64_t unit) const {
    return slot_gradients[d] + layout.Offset(kGradientSlots, step % (chunk + 1), unit);
  }

  // The residuals of sequence 0.
  const T* Residuals(int64_t d, int64_t step, int64_t unit) const {
    return static_cast<const T*>(results[d].residuals) + layout.Offset(kResidualSlots, step, unit);
  }

  // h before a step.
  V PreviousHidden(int64_t d, int64_t step, int64_t b, int64_t unit) const {
    return HiddenBefore<T, S>{problem, arguments[d], results[d]}(step, b, unit);
  }

  // `value` times the recurrent dropout mask of a step.
  V Drop(int64_t d, int64_t step, int64_t b, int64_t unit, V value) const {
    const UnitMask& mask = arguments[d].recurrent_dropout_mask;
    if (mask.data == nullptr) return value;
    return value * LoadUnits<T>(MaskRow<S>(mask, problem, b, Time(d, step), hidden_units), unit, hidden_units);
  }

  // The size of a panel of a transposed kernel, whose rows meet `slots`.
  int64_t TransposedPanelSize(const SlotRange& slots) const {
    return slots.count * layout.padded / Types::kDepth * kPanelVectors * L;
  }

  // sums += the slot gradients at `left` times a panel of a transposed kernel.
  void MultiplySlots(const SlotRange& slots, int64_t count, const Element* const* left, const Element* kernel,
                     T* const* sums) const {
    const int64_t block = slots.count * layout.width / Types::kDepth;
    const int64_t stride = problem.batch * kGradientSlots * layout.width / Types::kDepth;
    MultiplyRows<kPanelVectors>(Rows<Element>{left, block, stride, layout.groups}, count, kernel, sums, L, nullptr);
  }

  const Problem& problem;
  const Arguments* const arguments;
  const Results* const results;
  const Upstream* const upstream;
  const Gradients* const gradients;
  const int64_t direction_count;
  const Layout layout;
  const int64_t hidden_units;  // of h
  const int64_t chunk;         // steps
  S** slot_gradients = nullptr;  // of each direction: (chunk + 1 steps in turn, groups, batch, slots, width)
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_BACKWARD_CALL_H_
