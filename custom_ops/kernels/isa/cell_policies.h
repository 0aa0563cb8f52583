// SPDX-License-Identifier: Apache-2.0
// The activations and peepholes of a cell, as a template parameter of its equations. The derivative of an activation is
// a function of its value, so that the backward pass needs residuals only.
#ifndef KERAS_SEQ_KERNELS_ISA_CELL_POLICIES_H_
#define KERAS_SEQ_KERNELS_ISA_CELL_POLICIES_H_

#include "../recurrence.h"
#include "activations.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// What a call says of its cell beside its kind.
template <class T>
struct CellOptions {
  // `arguments` are those of any direction.
  CellOptions(const Problem& problem, const Arguments& arguments)
      : activation(problem.activation),
        recurrent_activation(problem.recurrent_activation),
        has_default_activations(activation == Activation::kTanh && recurrent_activation == Activation::kSigmoid),
        has_peepholes(arguments.extra_weights[kPeepholeKernel] != nullptr),
        is_standard(has_default_activations && !has_peepholes) {}

  // The options for the units from `unit` on, with their columns of the peephole kernel and its gradient, which may be
  // null. The rows of both are `stride` apart.
  CellOptions At(int64_t unit, const T* peepholes, T* d_peepholes, int64_t stride) const {
    CellOptions options = *this;
    options.peepholes = peepholes == nullptr ? nullptr : peepholes + unit;
    options.d_peepholes = d_peepholes == nullptr ? nullptr : d_peepholes + unit;
    options.peephole_stride = stride;
    return options;
  }

  Activation activation, recurrent_activation;
  bool has_default_activations, has_peepholes;
  bool is_standard;  // whether `StandardPolicy` computes it
  const T* peepholes = nullptr;
  T* d_peepholes = nullptr;  // the sum of gradients so far; null if nobody wants it
  int64_t peephole_stride = 0;
};

// Keras's defaults. `d` is the gradient of an activation whose value is y.
template <class T>
struct StandardPolicy {
  static constexpr bool kHasPeepholes = false;
  StandardPolicy() {}
  explicit StandardPolicy(const CellOptions<T>&) {}
  static Vector<T> Activate(Vector<T> x) { return Tanh<T>(x); }
  static Vector<T> ActivateGate(Vector<T> x) { return Sigmoid<T>(x); }
  static Vector<T> Differentiate(Vector<T> d, Vector<T> y) { return d * (1 - y * y); }
  static Vector<T> DifferentiateGate(Vector<T> d, Vector<T> y) { return d * (y * (1 - y)); }
};

// The activations that are rare. Not inlined, to keep the loop of the others short.
template <class T>
__attribute__((noinline)) Vector<T> ActivateRarely(Activation activation, Vector<T> x) {
  if (activation == Activation::kSigmoid) return Sigmoid<T>(x);
  x += 3;  // hard sigmoid, as Keras computes it; NaN stays NaN
  x = x < 0 ? Vector<T>{} : x;
  x = x > 6 ? Vector<T>{} + 6 : x;
  return x / 6;
}

// Any activations, chosen while the cell runs.
template <class T>
class AnyPolicy {
  using V = Vector<T>;

 public:
  static constexpr bool kHasPeepholes = false;
  explicit AnyPolicy(const CellOptions<T>& options) : options_(options) {}
  V Activate(V x) const { return ValueOf(options_.activation, x); }
  V ActivateGate(V x) const { return ValueOf(options_.recurrent_activation, x); }
  V Differentiate(V d, V y) const { return GradientOf(options_.activation, d, y); }
  V DifferentiateGate(V d, V y) const { return GradientOf(options_.recurrent_activation, d, y); }

 private:
  static V ValueOf(Activation activation, V x) {
    if (activation == Activation::kTanh) return Tanh<T>(x);
    if (activation == Activation::kRelu) return x < 0 ? V{} : x;  // NaN stays NaN
    return activation == Activation::kLinear ? x : ActivateRarely<T>(activation, x);
  }

  static V GradientOf(Activation activation, V d, V y) {
    if (activation == Activation::kTanh) return d * (1 - y * y);
    if (activation == Activation::kRelu) return y > 0 ? d : V{};
    if (activation == Activation::kLinear) return d;
    if (activation == Activation::kSigmoid) return d * (y * (1 - y));
    return (y > 0) & (y < 1) ? d / 6 : V{};
  }

  const CellOptions<T>& options_;
};

// Any of these activations, with peepholes (Gers & Schmidhuber 2000).
template <class T, class Activations>
class PeepholePolicy : public Activations {
 public:
  static constexpr bool kHasPeepholes = true;
  explicit PeepholePolicy(const CellOptions<T>& options) : Activations(options), options_(options) {}

  // Through these the gates i (0), f (1) and o (2) read c.
  Vector<T> Peephole(int gate) const { return Load(options_.peepholes + gate * options_.peephole_stride); }

  void AddPeepholeGradients(Vector<T> d_i, Vector<T> d_f, Vector<T> d_o) const {
    if (options_.d_peepholes == nullptr) return;
    const Vector<T> gradients[] = {d_i, d_f, d_o};
    for (int gate = 0; gate < 3; ++gate) {
      T* sum = options_.d_peepholes + gate * options_.peephole_stride;
      Store(sum, Load(sum) + gradients[gate]);
    }
  }

 private:
  const CellOptions<T>& options_;
};

// The equations of `Cell` with the options of the call. Keras's defaults are inlined; all else is not, so that the loop
// of a cell with the defaults stays as short as if there were no others.
template <class Cell>
struct WithOptions : Cell {
  template <class T>
  static void Forward(const T* products, const CellOptions<T>& options, bool keep, int64_t width, T* slots,
                      Vector<T>* state) {
    if (options.is_standard) {
      return Cell::template Forward<T>(products, StandardPolicy<T>{}, keep, width, slots, state);
    }
    Vector<T> copy[2] = {state[0], Cell::kHasCellState ? state[1] : Vector<T>{}};  // keeps `state` in registers
    ForwardOutOfLine<T>(products, options, keep, width, slots, copy);
    state[0] = copy[0];
    if (Cell::kHasCellState) state[1] = copy[1];
  }

  template <class T>
  static void Backward(const T* slots, const CellOptions<T>& options, int64_t width, const Vector<T>* previous,
                       Vector<T>* d_state, T* d_slots) {
    if (options.is_standard) {
      return Cell::template Backward<T>(slots, StandardPolicy<T>{}, width, previous, d_state, d_slots);
    }
    const Vector<T> previous_copy[2] = {previous[0], previous[1]};
    Vector<T> copy[2] = {d_state[0], d_state[1]};
    BackwardOutOfLine<T>(slots, options, width, previous_copy, copy, d_slots);
    d_state[0] = copy[0], d_state[1] = copy[1];
  }

  template <class T>
  static Vector<T> ComputeGates(const T* products, const CellOptions<T>& options, int64_t width, T* slots) {
    if (options.is_standard) return Cell::template ComputeGates<T>(products, StandardPolicy<T>{}, width, slots);
    return Cell::template ComputeGates<T>(products, AnyPolicy<T>(options), width, slots);
  }

  template <class T>
  static Vector<T> BackwardGatedHidden(const T* slots, const CellOptions<T>& options, int64_t width, Vector<T> h,
                                       Vector<T> d_gated_h, T* d_slots) {
    if (options.is_standard) {
      return Cell::template BackwardGatedHidden<T>(slots, StandardPolicy<T>{}, width, h, d_gated_h, d_slots);
    }
    return Cell::template BackwardGatedHidden<T>(slots, AnyPolicy<T>(options), width, h, d_gated_h, d_slots);
  }

 private:
  template <class T>
  static __attribute__((noinline)) void ForwardOutOfLine(const T* products, const CellOptions<T>& options, bool keep,
                                                         int64_t width, T* slots, Vector<T>* state) {
    WithPolicy<T>(options, [&](const auto& policy) {
      Cell::template Forward<T>(products, policy, keep, width, slots, state);
    });
  }

  template <class T>
  static __attribute__((noinline)) void BackwardOutOfLine(const T* slots, const CellOptions<T>& options, int64_t width,
                                                          const Vector<T>* previous, Vector<T>* d_state, T* d_slots) {
    WithPolicy<T>(options, [&](const auto& policy) {
      Cell::template Backward<T>(slots, policy, width, previous, d_state, d_slots);
    });
  }

  template <class T, class Function>
  static void WithPolicy(const CellOptions<T>& options, const Function& function) {
    if constexpr (Cell::kHasPeepholes) {
      if (options.has_peepholes) {
        return options.has_default_activations ? function(PeepholePolicy<T, StandardPolicy<T>>(options))
                                               : function(PeepholePolicy<T, AnyPolicy<T>>(options));
      }
    }
    function(AnyPolicy<T>(options));
  }
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_CELL_POLICIES_H_
