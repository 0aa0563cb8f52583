// SPDX-License-Identifier: Apache-2.0
// The activations of a cell, as a template parameter of its equations. A derivative is a function of the value of the
// activation, so that the backward pass needs residuals only.
#ifndef KERAS_SEQ_KERNELS_ISA_CELL_POLICIES_H_
#define KERAS_SEQ_KERNELS_ISA_CELL_POLICIES_H_

#include "../recurrence.h"
#include "activations.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// What a call says of its cell beside its kind.
template <class T>
struct CellOptions {
  explicit CellOptions(const Problem& problem)
      : activation(problem.activation),
        recurrent_activation(problem.recurrent_activation),
        is_standard(activation == Activation::kTanh && recurrent_activation == Activation::kSigmoid) {}

  Activation activation, recurrent_activation;
  bool is_standard;  // whether `StandardPolicy` computes it
};

// Keras's defaults.
template <class T>
struct StandardPolicy {
  static Vector<T> Activate(Vector<T> x) { return Tanh<T>(x); }
  static Vector<T> ActivateGate(Vector<T> x) { return Sigmoid<T>(x); }
  static Vector<T> Slope(Vector<T> y) { return 1 - y * y; }
  static Vector<T> GateSlope(Vector<T> y) { return y * (1 - y); }
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
  explicit AnyPolicy(const CellOptions<T>& options) : options_(options) {}
  V Activate(V x) const { return ValueOf(options_.activation, x); }
  V ActivateGate(V x) const { return ValueOf(options_.recurrent_activation, x); }
  V Slope(V y) const { return SlopeAt(options_.activation, y); }
  V GateSlope(V y) const { return SlopeAt(options_.recurrent_activation, y); }

 private:
  static V ValueOf(Activation activation, V x) {
    if (activation == Activation::kTanh) return Tanh<T>(x);
    if (activation == Activation::kRelu) return x < 0 ? V{} : x;  // NaN stays NaN
    return activation == Activation::kLinear ? x : ActivateRarely<T>(activation, x);
  }

  static V SlopeAt(Activation activation, V y) {
    const V one = V{} + 1;
    if (activation == Activation::kTanh) return 1 - y * y;
    if (activation == Activation::kRelu) return y > 0 ? one : V{};
    if (activation == Activation::kLinear) return one;
    if (activation == Activation::kSigmoid) return y * (1 - y);
    return (y > 0) & (y < 1) ? one / 6 : V{};
  }

  const CellOptions<T>& options_;
};

// The equations of `Cell` with the activations of the call. The defaults are inlined; others are not, so that the loop
// of a cell with the defaults stays as short as if it had no others.
template <class Cell>
struct WithActivations : Cell {
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
    Cell::template Forward<T>(products, AnyPolicy<T>(options), keep, width, slots, state);
  }

  template <class T>
  static __attribute__((noinline)) void BackwardOutOfLine(const T* slots, const CellOptions<T>& options, int64_t width,
                                                          const Vector<T>* previous, Vector<T>* d_state, T* d_slots) {
    Cell::template Backward<T>(slots, AnyPolicy<T>(options), width, previous, d_state, d_slots);
  }
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_CELL_POLICIES_H_
