// SPDX-License-Identifier: Apache-2.0
// The equations of each cell and their derivatives, on one vector of units of one sequence.
//
// To add a cell, write its struct here and name it in `WithEquations` at the end of this file.
//
// A slot holds `kWidth` units of one gate. In the forward pass slot k first holds x W + b of gate k. `Forward` replaces
// it with the value of the gate if residuals are kept; `ComputeGates` always does. Each struct names its slots, and
// those of the gradients that `Backward` writes. Consecutive gradient slots are multiplied by the input kernel (`kInputSlots`) and by the recurrent
// kernel (`kRecurrentSlots`), so the order of gradient slots may differ from that of the gates.
#ifndef KERAS_SEQ_KERNELS_ISA_CELLS_H_
#define KERAS_SEQ_KERNELS_ISA_CELLS_H_

#include "../layout.h"
#include "../recurrence.h"
#include "cell_policies.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// The columns of a panel of a packed kernel: `gates` gates of one vector of units, or one gate of `unit_vectors`
// vectors.
struct Columns {
  int gates;
  int unit_vectors;
  int gate[4];

  constexpr int vectors() const { return gates * unit_vectors; }
};

// Whether two are the same object. Sanitizers do not let the compiler compare addresses.
template <const Columns& a, const Columns& b>
constexpr bool kAreSame = false;
template <const Columns& a>
constexpr bool kAreSame<a, a> = true;

// Consecutive gradient slots.
struct SlotRange {
  int first, count;
};

// The traits of most cells. A cell overrides those that differ.
struct EquationsTraits {
  // Vectors of units in a panel: 1, or `kPanelVectors` for a cell with a single gate.
  static constexpr int kUnitVectors = 1;
  // There is a second state, c. Its values are residuals, in the slot `kCellStateSlot`.
  static constexpr bool kHasCellState = false;
  // The bias has two rows. The second one is added to the recurrent product: for the gate `kCandidateGate` inside
  // `Forward`; for the others it joins the first row.
  static constexpr bool kHasRecurrentBias = false;
  // The candidate has a recurrent product of its own, with h times the gate in the slot `kHiddenGateSlot`. The cell
  // then has `ComputeGates`, `BackwardGatedHidden`, and the columns `kCandidate` and slots `kCandidateSlots` of that
  // product.
  static constexpr bool kHasCandidateProduct = false;
  // `Backward` reads the previous h.
  static constexpr bool kReadsPreviousHidden = false;
  // Gates can read c through peepholes. Where they do, the policy says.
  static constexpr bool kHasPeepholes = false;
  // The products are normalized before they become gates, and c before h reads it; see layer_norm_cells.h.
  static constexpr bool kNormalizes = false, kNormalizesState = false;
  // h is a product with the projection kernel, of what would be h without it, in the slot `kFullHiddenSlot`.
  static constexpr bool kProjects = false;
  // The first slot of the products with the input kernel.
  static constexpr int kInputProducts = 0;
};

// In all cells:
//   Forward    computes the new states from the previous ones and from `products`, the vectors of the recurrent product
//              with the x W + b of their slots added.
//   Backward   computes, from the gradients of the new states, those of the slots, and of the gradients of the previous
//              states the part that does not pass through the recurrent product.
// `Policy` is one of cell_policies.h.

struct SimpleRNNEquations : EquationsTraits {
  enum Slot : int { kH, kResidualSlots };
  enum GradientSlot : int { kDH, kGradientSlots };
  static constexpr int kGates = 1, kUnitVectors = kPanelVectors;
  static constexpr Columns kInput{1, kPanelVectors, {0}}, kRecurrent = kInput;
  static constexpr Columns kInputGradient = kInput, kRecurrentGradient = kInput;
  static constexpr SlotRange kInputSlots{kDH, 1}, kRecurrentSlots{kDH, 1};

  // The activation is chosen in the loop: relu and linear are as usual here as tanh.
  template <class T>
  static void Forward(const T* products, const CellOptions<T>& options, bool keep, int64_t, T* slots,
                      Vector<T>* state) {
    const Vector<T> h = AnyPolicy<T>(options).Activate(Load(products));
    if (keep) Store(slots, h);
    state[0] = h;
  }

  template <class T>
  static void Backward(const T* slots, const CellOptions<T>& options, int64_t, const Vector<T>*, Vector<T>* d_state,
                       T* d_slots) {
    Store(d_slots, AnyPolicy<T>(options).Differentiate(d_state[0], Load(slots)));
    d_state[0] = Vector<T>{};
  }
};

// With peepholes p: i += p_i c, f += p_f c, o += p_o c', each before its activation, where c' is the new c.
struct LSTMEquations : EquationsTraits {
  enum Slot : int { kI, kF, kG, kO, kC, kResidualSlots };
  enum GradientSlot : int { kDI, kDF, kDG, kDO, kGradientSlots };
  static constexpr int kGates = 4, kCellStateSlot = kC;
  static constexpr bool kHasCellState = true, kHasPeepholes = true;
  static constexpr Columns kInput{4, 1, {kI, kF, kG, kO}}, kRecurrent = kInput;
  static constexpr Columns kInputGradient = kInput, kRecurrentGradient = kInput;
  static constexpr SlotRange kInputSlots{kDI, 4}, kRecurrentSlots{kDI, 4};

  template <class T, class Policy>
  static void Forward(const T* products, const Policy& policy, bool keep, int64_t width, T* slots, Vector<T>* state) {
    constexpr int L = kLanes<T>;
    Vector<T> to_i = Load(products), to_f = Load(products + L), to_o = Load(products + 3 * L);
    if constexpr (Policy::kHasPeepholes) {
      to_i += policy.Peephole(0) * state[1];
      to_f += policy.Peephole(1) * state[1];
    }
    const Vector<T> i = policy.ActivateGate(to_i), f = policy.ActivateGate(to_f);
    const Vector<T> g = policy.Activate(Load(products + 2 * L));
    const Vector<T> c = f * state[1] + i * g;
    if constexpr (Policy::kHasPeepholes) to_o += policy.Peephole(2) * c;
    const Vector<T> o = policy.ActivateGate(to_o);
    if (keep) {
      Store(slots + kI * width, i);
      Store(slots + kF * width, f);
      Store(slots + kG * width, g);
      Store(slots + kO * width, o);
    }
    state[0] = o * policy.Activate(c);
    state[1] = c;
  }

  template <class T, class Policy>
  static void Backward(const T* slots, const Policy& policy, int64_t width, const Vector<T>* previous,
                       Vector<T>* d_state, T* d_slots) {
    const Vector<T> i = Load(slots + kI * width), f = Load(slots + kF * width);
    const Vector<T> g = Load(slots + kG * width), o = Load(slots + kO * width);
    const Vector<T> c = f * previous[1] + i * g;  // before zoneout and mask, unlike the slot of c
    const Vector<T> squashed = policy.Activate(c), dh = d_state[0];
    const Vector<T> d_o = policy.DifferentiateGate(dh * squashed, o);
    Vector<T> dc = d_state[1] + policy.Differentiate(dh * o, squashed);
    if constexpr (Policy::kHasPeepholes) dc += d_o * policy.Peephole(2);
    const Vector<T> d_i = policy.DifferentiateGate(dc * g, i);
    const Vector<T> d_f = policy.DifferentiateGate(dc * previous[1], f);
    Store(d_slots + kDI * width, d_i);
    Store(d_slots + kDF * width, d_f);
    Store(d_slots + kDG * width, policy.Differentiate(dc * i, g));
    Store(d_slots + kDO * width, d_o);
    d_state[0] = Vector<T>{};
    d_state[1] = dc * f;
    if constexpr (Policy::kHasPeepholes) {
      d_state[1] += d_i * policy.Peephole(0) + d_f * policy.Peephole(1);
      policy.AddPeepholeGradients(d_i * previous[1], d_f * previous[1], d_o * c);
    }
  }
};

// Resets after the recurrent product: g = tanh(x W_g + b_g + r * (h U_g + b'_g)).
struct GRUEquations : EquationsTraits {
  enum Slot : int { kZ, kR, kG, kProduct, kResidualSlots };  // kProduct: h U_g + b'_g
  enum GradientSlot : int { kDG, kDZ, kDR, kDProduct, kGradientSlots };
  static constexpr int kGates = 3, kCandidateGate = kG;
  static constexpr bool kHasRecurrentBias = true, kReadsPreviousHidden = true;
  static constexpr Columns kInput{3, 1, {kZ, kR, kG}}, kRecurrent = kInput;
  static constexpr Columns kInputGradient{3, 1, {kG, kZ, kR}}, kRecurrentGradient{3, 1, {kZ, kR, kG}};
  static constexpr SlotRange kInputSlots{kDG, 3}, kRecurrentSlots{kDZ, 3};

  template <class T, class Policy>
  static void Forward(const T* products, const Policy& policy, bool keep, int64_t width, T* slots, Vector<T>* state) {
    constexpr int L = kLanes<T>;
    const Vector<T> z = policy.ActivateGate(Load(products)), r = policy.ActivateGate(Load(products + L));
    const Vector<T> product = Load(products + 2 * L);
    const Vector<T> g = policy.Activate(Load(slots + kG * width) + r * product);
    if (keep) {
      Store(slots + kZ * width, z);
      Store(slots + kR * width, r);
      Store(slots + kG * width, g);
      Store(slots + kProduct * width, product);
    }
    state[0] = z * state[0] + (1 - z) * g;
  }

  template <class T, class Policy>
  static void Backward(const T* slots, const Policy& policy, int64_t width, const Vector<T>* previous,
                       Vector<T>* d_state, T* d_slots) {
    const Vector<T> z = Load(slots + kZ * width), r = Load(slots + kR * width), g = Load(slots + kG * width);
    const Vector<T> product = Load(slots + kProduct * width), dh = d_state[0];
    const Vector<T> dg = policy.Differentiate(dh * (1 - z), g);
    Store(d_slots + kDG * width, dg);
    Store(d_slots + kDZ * width, policy.DifferentiateGate(dh * (previous[0] - g), z));
    Store(d_slots + kDR * width, policy.DifferentiateGate(dg * product, r));
    Store(d_slots + kDProduct * width, dg * r);
    d_state[0] = dh * z;
  }
};

// Resets before the recurrent product: g = tanh(x W_g + b_g + (r * h) U_g).
struct GRUResetBeforeEquations : EquationsTraits {
  enum Slot : int { kZ, kR, kG, kResidualSlots };
  enum GradientSlot : int { kDG, kDZ, kDR, kGradientSlots };
  static constexpr int kGates = 3, kHiddenGateSlot = kR;
  static constexpr bool kHasCandidateProduct = true, kReadsPreviousHidden = true;
  static constexpr Columns kInput{3, 1, {kZ, kR, kG}}, kRecurrent{2, 1, {kZ, kR}}, kCandidate{1, 1, {kG}};
  static constexpr Columns kInputGradient{3, 1, {kG, kZ, kR}}, kRecurrentGradient = kRecurrent;
  static constexpr SlotRange kInputSlots{kDG, 3}, kRecurrentSlots{kDZ, 2}, kCandidateSlots{kDG, 1};

  // From the first product to the gates, which are stored, and to r, which is returned to be multiplied by h.
  template <class T, class Policy>
  static Vector<T> ComputeGates(const T* products, const Policy& policy, int64_t width, T* slots) {
    const Vector<T> z = policy.ActivateGate(Load(products)), r = policy.ActivateGate(Load(products + kLanes<T>));
    Store(slots + kZ * width, z);
    Store(slots + kR * width, r);
    return r;
  }

  // `products` are those of the candidate.
  template <class T, class Policy>
  static void Forward(const T* products, const Policy& policy, bool keep, int64_t width, T* slots, Vector<T>* state) {
    const Vector<T> z = Load(slots + kZ * width), g = policy.Activate(Load(products));
    if (keep) Store(slots + kG * width, g);
    state[0] = z * state[0] + (1 - z) * g;
  }

  // All but the gradient of r, which depends on that of r * h.
  template <class T, class Policy>
  static void Backward(const T* slots, const Policy& policy, int64_t width, const Vector<T>* previous,
                       Vector<T>* d_state, T* d_slots) {
    const Vector<T> z = Load(slots + kZ * width), g = Load(slots + kG * width), dh = d_state[0];
    Store(d_slots + kDG * width, policy.Differentiate(dh * (1 - z), g));
    Store(d_slots + kDZ * width, policy.DifferentiateGate(dh * (previous[0] - g), z));
    d_state[0] = dh * z;
  }

  // From the gradient of r * h to those of r, which is stored, and of h, which is returned. h has its dropout applied.
  template <class T, class Policy>
  static Vector<T> BackwardGatedHidden(const T* slots, const Policy& policy, int64_t width, Vector<T> h,
                                       Vector<T> d_gated_h, T* d_slots) {
    const Vector<T> r = Load(slots + kR * width);
    Store(d_slots + kDR * width, policy.DifferentiateGate(d_gated_h * h, r));
    return d_gated_h * r;
  }
};

// One gate f forgets and resets: g = tanh(x W_g + b_g + (f * h) U_g), and h becomes (1 - f) * h + f * g.
struct MGUEquations : EquationsTraits {
  enum Slot : int { kF, kG, kResidualSlots };
  enum GradientSlot : int { kDG, kDF, kGradientSlots };
  static constexpr int kGates = 2, kHiddenGateSlot = kF;
  static constexpr bool kHasCandidateProduct = true, kReadsPreviousHidden = true;
  static constexpr Columns kInput{2, 1, {kF, kG}}, kRecurrent{1, 1, {kF}}, kCandidate{1, 1, {kG}};
  static constexpr Columns kInputGradient{2, 1, {kG, kF}}, kRecurrentGradient = kRecurrent;
  static constexpr SlotRange kInputSlots{kDG, 2}, kRecurrentSlots{kDF, 1}, kCandidateSlots{kDG, 1};

  // From the first product to f, which is stored, and returned to be multiplied by h.
  template <class T, class Policy>
  static Vector<T> ComputeGates(const T* products, const Policy& policy, int64_t width, T* slots) {
    const Vector<T> f = policy.ActivateGate(Load(products));
    Store(slots + kF * width, f);
    return f;
  }

  // `products` are those of the candidate.
  template <class T, class Policy>
  static void Forward(const T* products, const Policy& policy, bool keep, int64_t width, T* slots, Vector<T>* state) {
    const Vector<T> f = Load(slots + kF * width), g = policy.Activate(Load(products));
    if (keep) Store(slots + kG * width, g);
    state[0] = (1 - f) * state[0] + f * g;
  }

  // Stores the part of the gradient of f that does not come through f * h.
  template <class T, class Policy>
  static void Backward(const T* slots, const Policy& policy, int64_t width, const Vector<T>* previous,
                       Vector<T>* d_state, T* d_slots) {
    const Vector<T> f = Load(slots + kF * width), g = Load(slots + kG * width), dh = d_state[0];
    Store(d_slots + kDG * width, policy.Differentiate(dh * f, g));
    Store(d_slots + kDF * width, policy.DifferentiateGate(dh * (g - previous[0]), f));
    d_state[0] = dh * (1 - f);
  }

  // From the gradient of f * h to that of f, which is completed, and of h, which is returned. h has its dropout
  // applied.
  template <class T, class Policy>
  static Vector<T> BackwardGatedHidden(const T* slots, const Policy& policy, int64_t width, Vector<T> h,
                                       Vector<T> d_gated_h, T* d_slots) {
    const Vector<T> f = Load(slots + kF * width), d_f = Load(d_slots + kDF * width);
    Store(d_slots + kDF * width, d_f + policy.DifferentiateGate(d_gated_h * h, f));
    return d_gated_h * f;
  }
};

// `Cell` with a projected state (Sak et al. 2014): what would be h is multiplied by the projection kernel.
template <class Cell>
struct Projected : Cell {
  static constexpr bool kProjects = true;
  static constexpr int kFullHiddenSlot = Cell::kResidualSlots, kResidualSlots = kFullHiddenSlot + 1;
};

// Calls function(equations), if they agree with the row of their cell in the table.
template <CellKind kind, class Equations, bool reset_after = true, class Function>
inline auto CallWith(Function&& function) {
  constexpr CellTraits cell = kCells[static_cast<int>(kind)];
  static_assert(Equations::kGates == cell.gates && Equations::kHasCellState == (cell.states == 2));
  static_assert(Equations::kUnitVectors == cell.unit_vectors);
  static_assert(Equations::kHasRecurrentBias == cell.HasTwoBiases(reset_after));
  static_assert(Equations::kResidualSlots ==
                cell.ResidualSlots(reset_after, Equations::kNormalizes, Equations::kProjects));
  static_assert(Equations::kHasPeepholes == HasExtraWeight(kind, kPeepholeKernel));
  return function(Equations{});
}

// Calls function(equations) with those of the problem's cell.
template <class Function>
inline auto WithEquations(const Problem& problem, Function&& function) {
  switch (problem.cell) {
    case CellKind::kSimpleRNN:
      return CallWith<CellKind::kSimpleRNN, SimpleRNNEquations>(function);
    case CellKind::kLSTM:
      return CallWith<CellKind::kLSTM, WithOptions<LSTMEquations>>(function);
    case CellKind::kMGU:
      return CallWith<CellKind::kMGU, WithOptions<MGUEquations>>(function);
    case CellKind::kGRU:
      break;
  }
  if (problem.reset_after) return CallWith<CellKind::kGRU, WithOptions<GRUEquations>>(function);
  return CallWith<CellKind::kGRU, WithOptions<GRUResetBeforeEquations>, false>(function);
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_CELLS_H_
