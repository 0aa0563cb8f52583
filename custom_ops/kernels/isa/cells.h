// SPDX-License-Identifier: Apache-2.0
// The equations of each cell and their derivatives, on one vector of units of one sequence.
//
// A cell's pre-activations live in slots of `kWidth` units each. In training the slots keep what the derivative needs:
//   LSTM        i, f, g, o, c        gradients  i, f, g, o
//   GRU         z, r, g, h U_g + b   gradients  g, z, r, r * g   (the first three meet the inputs, the last three h)
//   SimpleRNN   h                    gradients  h
// `products` are the vectors that the recurrent product (with the slots' x W + b added) gives for these units.
#ifndef KERAS_SEQ_KERNELS_ISA_CELLS_H_
#define KERAS_SEQ_KERNELS_ISA_CELLS_H_

#include "../recurrence.h"
#include "activations.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

constexpr int kWidth = 16;  // units in a group; the same for every instruction set, as residuals cross calls

// Which gates a packed matrix holds, and how its panels take turns with units.
struct Columns {
  int gates;
  int unit_vectors;  // in a panel
  int gate[4];
};

// Consecutive gradient slots.
struct Slots {
  int first, count;
};

struct LSTM {
  static constexpr int kGates = 4, kStates = 2, kUnitVectors = 1, kProducts = 1;
  static constexpr int kSlots = 4, kKeptSlots = 5, kGradientSlots = 4;
  static constexpr Columns kInput{4, 1, {0, 1, 2, 3}}, kRecurrent{4, 1, {0, 1, 2, 3}};
  static constexpr Columns kInputGradient = kInput, kRecurrentGradient = kRecurrent;
  static constexpr Slots kInputSlots{0, 4}, kRecurrentSlots{0, 4};

  template <class T>
  static void Start(const T* slots, int64_t width, const T*, T* start) {
    for (int v = 0; v < 4; ++v) Store(start + v * kLanes<T>, Load(slots + v * width));
  }

  // From the previous states to the new ones.
  template <class T>
  static void Forward(const T* products, Activation, bool keep, int64_t width, T* slots, Vector<T>* state) {
    constexpr int L = kLanes<T>;
    const Vector<T> i = Sigmoid<T>(Load(products)), f = Sigmoid<T>(Load(products + L));
    const Vector<T> g = Tanh<T>(Load(products + 2 * L)), o = Sigmoid<T>(Load(products + 3 * L));
    const Vector<T> c = f * state[1] + i * g;
    if (keep) {
      Store(slots, i);
      Store(slots + width, f);
      Store(slots + 2 * width, g);
      Store(slots + 3 * width, o);
    }
    state[0] = o * Tanh<T>(c);
    state[1] = c;
  }

  // From the gradients of the new states to those of the slots and, what does not pass the product, of the old states.
  template <class T>
  static void Backward(const T* slots, Activation, int64_t width, const Vector<T>* previous, Vector<T>* d_state,
                       T* d_slots) {
    const Vector<T> i = Load(slots), f = Load(slots + width), g = Load(slots + 2 * width), o = Load(slots + 3 * width);
    const Vector<T> c = f * previous[1] + i * g;  // as it was before zoneout and mask
    const Vector<T> squashed = Tanh<T>(c), dh = d_state[0];
    const Vector<T> dc = d_state[1] + dh * o * (1 - squashed * squashed);
    Store(d_slots, dc * g * (i * (1 - i)));
    Store(d_slots + width, dc * previous[1] * (f * (1 - f)));
    Store(d_slots + 2 * width, dc * i * (1 - g * g));
    Store(d_slots + 3 * width, dh * squashed * (o * (1 - o)));
    d_state[0] = Vector<T>{};
    d_state[1] = dc * f;
  }
};

struct GRU {
  static constexpr int kGates = 3, kStates = 1, kUnitVectors = 1, kProducts = 1;
  static constexpr int kSlots = 3, kKeptSlots = 4, kGradientSlots = 4;
  static constexpr Columns kInput{3, 1, {0, 1, 2}}, kRecurrent{3, 1, {0, 1, 2}};
  static constexpr Columns kInputGradient{3, 1, {2, 0, 1}}, kRecurrentGradient{3, 1, {0, 1, 2}};
  static constexpr Slots kInputSlots{0, 3}, kRecurrentSlots{1, 3};

  template <class T>
  static void Start(const T* slots, int64_t width, const T* recurrent_bias, T* start) {
    Store(start, Load(slots));
    Store(start + kLanes<T>, Load(slots + width));
    Store(start + 2 * kLanes<T>, Load(recurrent_bias));
  }

  template <class T>
  static void Forward(const T* products, Activation, bool keep, int64_t width, T* slots, Vector<T>* state) {
    constexpr int L = kLanes<T>;
    const Vector<T> z = Sigmoid<T>(Load(products)), r = Sigmoid<T>(Load(products + L));
    const Vector<T> product = Load(products + 2 * L);
    const Vector<T> g = Tanh<T>(Load(slots + 2 * width) + r * product);
    if (keep) {
      Store(slots, z);
      Store(slots + width, r);
      Store(slots + 2 * width, g);
      Store(slots + 3 * width, product);
    }
    state[0] = z * state[0] + (1 - z) * g;
  }

  template <class T>
  static void Backward(const T* slots, Activation, int64_t width, const Vector<T>* previous, Vector<T>* d_state,
                       T* d_slots) {
    const Vector<T> z = Load(slots), r = Load(slots + width), g = Load(slots + 2 * width);
    const Vector<T> product = Load(slots + 3 * width), dh = d_state[0];
    const Vector<T> dg = dh * (1 - z) * (1 - g * g);
    Store(d_slots, dg);
    Store(d_slots + width, dh * (previous[0] - g) * (z * (1 - z)));
    Store(d_slots + 2 * width, dg * product * (r * (1 - r)));
    Store(d_slots + 3 * width, dg * r);
    d_state[0] = dh * z;
  }
};

// A GRU that resets before the product has two of them: (z, r) from h, then g from r * h.
struct GRUResetBefore {
  static constexpr int kGates = 3, kStates = 1, kUnitVectors = 1, kProducts = 2;
  static constexpr int kSlots = 3, kKeptSlots = 3, kGradientSlots = 3;
  static constexpr Columns kInput{3, 1, {0, 1, 2}}, kRecurrent{2, 1, {0, 1}}, kCandidate{1, 1, {2}};
  static constexpr Columns kInputGradient{3, 1, {2, 0, 1}}, kRecurrentGradient{2, 1, {0, 1}};
  static constexpr Slots kInputSlots{0, 3}, kRecurrentSlots{1, 2}, kCandidateSlots{0, 1};

  template <class T>
  static void Start(const T* slots, int64_t width, const T*, T* start) {
    Store(start, Load(slots));
    Store(start + kLanes<T>, Load(slots + width));
  }

  // The first product: keeps z and r, and returns r.
  template <class T>
  static Vector<T> Gates(const T* products, int64_t width, T* slots) {
    const Vector<T> z = Sigmoid<T>(Load(products)), r = Sigmoid<T>(Load(products + kLanes<T>));
    Store(slots, z);
    Store(slots + width, r);
    return r;
  }

  // The second product.
  template <class T>
  static void Forward(const T* products, Activation, bool keep, int64_t width, T* slots, Vector<T>* state) {
    const Vector<T> z = Load(slots), g = Tanh<T>(Load(products));
    if (keep) Store(slots + 2 * width, g);
    state[0] = z * state[0] + (1 - z) * g;
  }

  // All but the reset gate, whose gradient follows from that of r * h.
  template <class T>
  static void Backward(const T* slots, Activation, int64_t width, const Vector<T>* previous, Vector<T>* d_state,
                       T* d_slots) {
    const Vector<T> z = Load(slots), g = Load(slots + 2 * width), dh = d_state[0];
    Store(d_slots, dh * (1 - z) * (1 - g * g));
    Store(d_slots + width, dh * (previous[0] - g) * (z * (1 - z)));
    d_state[0] = dh * z;
  }

  // The reset gate; returns the gradient of the (dropped) previous h through r * h.
  template <class T>
  static Vector<T> BackwardReset(const T* slots, int64_t width, Vector<T> dropped, Vector<T> d_product, T* d_slots) {
    const Vector<T> r = Load(slots + width);
    Store(d_slots + 2 * width, d_product * dropped * (r * (1 - r)));
    return d_product * r;
  }
};

struct SimpleRNN {
  static constexpr int kGates = 1, kStates = 1, kUnitVectors = 4, kProducts = 1;
  static constexpr int kSlots = 1, kKeptSlots = 1, kGradientSlots = 1;
  static constexpr Columns kInput{1, 4, {0}}, kRecurrent{1, 4, {0}};
  static constexpr Columns kInputGradient = kInput, kRecurrentGradient = kRecurrent;
  static constexpr Slots kInputSlots{0, 1}, kRecurrentSlots{0, 1};

  template <class T>
  static void Start(const T* slots, int64_t, const T*, T* start) {
    Store(start, Load(slots));
  }

  template <class T>
  static void Forward(const T* products, Activation activation, bool keep, int64_t, T* slots, Vector<T>* state) {
    Vector<T> h = Load(products);
    if (activation == Activation::kTanh) {
      h = Tanh<T>(h);
    } else if (activation == Activation::kRelu) {
      h = h < 0 ? Vector<T>{} : h;  // NaN stays NaN
    }
    if (keep) Store(slots, h);
    state[0] = h;
  }

  template <class T>
  static void Backward(const T* slots, Activation activation, int64_t, const Vector<T>*, Vector<T>* d_state,
                       T* d_slots) {
    const Vector<T> h = Load(slots), dh = d_state[0];
    Vector<T> d = dh;
    if (activation == Activation::kTanh) {
      d = dh * (1 - h * h);
    } else if (activation == Activation::kRelu) {
      d = h > 0 ? dh : Vector<T>{};
    }
    Store(d_slots, d);
    d_state[0] = Vector<T>{};
  }
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_CELLS_H_
