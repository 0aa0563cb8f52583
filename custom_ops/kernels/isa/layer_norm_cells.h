// SPDX-License-Identifier: Apache-2.0
// The cells with layer normalization (Ba et al. 2016): N(x W) and N(h U) in the place of the products, and of an LSTM
// N(c) in that of c where h reads it. N scales a row to mean 0 and variance 1 and multiplies it by a gain.
//
// A row must be complete before it can be scaled, so the products of a step are stored, in slots of their own, and
// become gates in a second phase by rows. The backward pass computes the moments of rows again from these slots.
#ifndef KERAS_SEQ_KERNELS_ISA_LAYER_NORM_CELLS_H_
#define KERAS_SEQ_KERNELS_ISA_LAYER_NORM_CELLS_H_

#include "cells.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// `Cell` with normalized products. A cell with this policy also has, for each gate,
//   kSetOf                 the set of gates that it is normalized with; a set is consecutive gates
//   kInputGradientSlot     the gradient slot of the normalized x W, as `Backward` writes it, and then that of x W
//   kSourceSlot            the gradient slot of the normalized h U, as `Backward` writes it
//   kRecurrentGradientSlot the gradient slot of h U, which is not the source of another gate
template <class Cell>
struct LayerNorm : Cell {
  static constexpr bool kNormalizes = true;
  // The slots of the products as they are, each in the order of the gates.
  static constexpr int kInputProducts = Cell::kResidualSlots, kRecurrentProducts = kInputProducts + Cell::kGates;
  static constexpr int kResidualSlots = kRecurrentProducts + Cell::kGates, kGradientSlots = 2 * Cell::kGates;
};

struct LayerNormLSTMEquations : LayerNorm<LSTMEquations> {
  static constexpr bool kNormalizesState = true;
  static constexpr int kSets = 1, kSetOf[] = {0, 0, 0, 0};
  static constexpr int kInputGradientSlot[] = {0, 1, 2, 3}, kSourceSlot[] = {0, 1, 2, 3};
  static constexpr int kRecurrentGradientSlot[] = {4, 5, 6, 7};
  static constexpr SlotRange kInputSlots{0, 4}, kRecurrentSlots{4, 4};

  // From the sums of the normalized products to the gates, which are stored, and c, which is returned.
  template <class T, class Policy>
  static Vector<T> ComputeCellState(const T* sums, const Policy& policy, int64_t width, T* slots, Vector<T> c) {
    constexpr int L = kLanes<T>;
    Vector<T> to_i = Load(sums), to_f = Load(sums + L), to_o = Load(sums + 3 * L);
    if constexpr (Policy::kHasPeepholes) {
      to_i += policy.Peephole(0) * c;
      to_f += policy.Peephole(1) * c;
    }
    const Vector<T> i = policy.ActivateGate(to_i), f = policy.ActivateGate(to_f);
    const Vector<T> g = policy.Activate(Load(sums + 2 * L));
    c = f * c + i * g;
    if constexpr (Policy::kHasPeepholes) to_o += policy.Peephole(2) * c;
    const Vector<T> o = policy.ActivateGate(to_o);
    Store(slots + kI * width, i);
    Store(slots + kF * width, f);
    Store(slots + kG * width, g);
    Store(slots + kO * width, o);
    return c;
  }

  // `products` is the normalized c; the slot of c holds c.
  template <class T, class Policy>
  static void Forward(const T* products, const Policy& policy, bool, int64_t width, T* slots, Vector<T>* state) {
    state[0] = Load(slots + kO * width) * policy.Activate(Load(products));
    state[1] = Load(slots + kC * width);
  }

  // c as the step computed it: before zoneout and mask, unlike the slot of c.
  template <class T>
  static Vector<T> CellState(const T* slots, int64_t width, Vector<T> previous) {
    return Load(slots + kF * width) * previous + Load(slots + kI * width) * Load(slots + kG * width);
  }

  // From the gradient of h and from the normalized c to that of the latter, which is returned. Stores that of o.
  template <class T, class Policy>
  static Vector<T> BackwardHidden(const T* slots, const Policy& policy, int64_t width, Vector<T> dh,
                                  Vector<T> normalized, T* d_slots) {
    const Vector<T> o = Load(slots + kO * width), squashed = policy.Activate(normalized);
    Store(d_slots + kDO * width, policy.DifferentiateGate(dh * squashed, o));
    return policy.Differentiate(dh * o, squashed);
  }

  // All but the gradient of o, which `BackwardHidden` stored. The slot of i holds the gradient of c through h.
  template <class T, class Policy>
  static void Backward(const T* slots, const Policy& policy, int64_t width, const Vector<T>* previous,
                       Vector<T>* d_state, T* d_slots) {
    const Vector<T> i = Load(slots + kI * width), f = Load(slots + kF * width), g = Load(slots + kG * width);
    const Vector<T> d_o = Load(d_slots + kDO * width);
    Vector<T> dc = d_state[1] + Load(d_slots + kDI * width);
    if constexpr (Policy::kHasPeepholes) dc += d_o * policy.Peephole(2);
    const Vector<T> d_i = policy.DifferentiateGate(dc * g, i);
    const Vector<T> d_f = policy.DifferentiateGate(dc * previous[1], f);
    Store(d_slots + kDI * width, d_i);
    Store(d_slots + kDF * width, d_f);
    Store(d_slots + kDG * width, policy.Differentiate(dc * i, g));
    d_state[0] = Vector<T>{};
    d_state[1] = dc * f;
    if constexpr (Policy::kHasPeepholes) {
      d_state[1] += d_i * policy.Peephole(0) + d_f * policy.Peephole(1);
      policy.AddPeepholeGradients(d_i * previous[1], d_f * previous[1], d_o * (f * previous[1] + i * g));
    }
  }
};

// z and r are normalized together, g by itself.
struct LayerNormGRUEquations : LayerNorm<GRUEquations> {
  static constexpr int kSets = 2, kSetOf[] = {0, 0, 1};
  static constexpr int kInputGradientSlot[] = {kDZ, kDR, kDG}, kSourceSlot[] = {kDZ, kDR, kDProduct};
  static constexpr int kRecurrentGradientSlot[] = {4, 5, 3};
  static constexpr Columns kRecurrentGradient{3, 1, {kG, kZ, kR}};
  static constexpr SlotRange kInputSlots{kDG, 3}, kRecurrentSlots{3, 3};
};

struct LayerNormGRUResetBeforeEquations : LayerNorm<GRUResetBeforeEquations> {
  static constexpr int kSets = 2, kSetOf[] = {0, 0, 1};
  static constexpr int kInputGradientSlot[] = {kDZ, kDR, kDG}, kSourceSlot[] = {kDZ, kDR, kDG};
  static constexpr int kRecurrentGradientSlot[] = {3, 4, 5};
  static constexpr SlotRange kInputSlots{kDG, 3}, kRecurrentSlots{3, 2}, kCandidateSlots{5, 1};
};

// Calls function(policy) with that of the options of a call.
template <class T, class Function>
inline auto WithPolicy(const CellOptions<T>& options, Function&& function) {
  if (options.is_standard) return function(StandardPolicy<T>{});
  if (options.has_peepholes) return function(PeepholePolicy<T, AnyPolicy<T>>(options));
  return function(AnyPolicy<T>(options));
}

// As `WithEquations`, of a problem with layer normalization or a projected state.
template <class Function>
inline auto WithExtendedEquations(const Problem& problem, Function&& function) {
  constexpr CellKind kLSTM = CellKind::kLSTM, kGRU = CellKind::kGRU;
  if (problem.projects && problem.layer_norm) {
    return CallWith<kLSTM, WithOptions<Projected<LayerNormLSTMEquations>>>(function);
  }
  if (problem.projects) return CallWith<kLSTM, WithOptions<Projected<LSTMEquations>>>(function);
  if (problem.cell == kLSTM) return CallWith<kLSTM, WithOptions<LayerNormLSTMEquations>>(function);
  if (problem.reset_after) return CallWith<kGRU, WithOptions<LayerNormGRUEquations>>(function);
  return CallWith<kGRU, WithOptions<LayerNormGRUResetBeforeEquations>, false>(function);
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_LAYER_NORM_CELLS_H_
