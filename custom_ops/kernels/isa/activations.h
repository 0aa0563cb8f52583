// SPDX-License-Identifier: Apache-2.0
// Sigmoid and tanh on vectors, and the exp of the softmax, within 4 units in the last place in float32. NaN stays NaN.
//
// `Reduce`, `ExpOfNegative`, `Sigmoid` and `Tanh` are always inlined: left to the compiler, that depends on the number of
// callers.
#ifndef KERAS_SEQ_KERNELS_ISA_ACTIVATIONS_H_
#define KERAS_SEQ_KERNELS_ISA_ACTIVATIONS_H_

#include "simd.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class T>
struct ExponentialConstants;

template <>
struct ExponentialConstants<float> {
  static constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLowest = -105.0f;  // exp is 0 below
  static constexpr int kTerms = 7, kMantissa = 23, kBias = 127;
};

template <>
struct ExponentialConstants<double> {
  static constexpr double kRounder = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kLowest = -746.0;
  static constexpr int kTerms = 13, kMantissa = 52, kBias = 1023;
};

// n and exp(r) - 1 of x = n ln 2 + r, where |r| <= ln 2 / 2. Uses the Taylor series of exp.
template <class T>
struct Reduced {
  Integers<T> n;
  Vector<T> expm1;
};

template <class T>
inline __attribute__((always_inline)) Reduced<T> Reduce(Vector<T> x) {
  using C = ExponentialConstants<T>;
  const Vector<T> rounded = x * static_cast<T>(1.44269504088896340736) + C::kRounder;
  const Vector<T> n = rounded - C::kRounder;
  const Vector<T> r = (x - n * C::kLn2High) - n * C::kLn2Low;
  T factorial = 1;
  for (int i = 2; i <= C::kTerms; ++i) factorial *= i;
  Vector<T> sum = Vector<T>{} + 1 / factorial;
#pragma GCC unroll 16
  for (int i = C::kTerms; i > 2; --i) {
    factorial /= i;
    sum = sum * r + 1 / factorial;
  }
  Integers<T> integer;
  memcpy(&integer, &rounded, sizeof integer);
  const Vector<T> rounder = Vector<T>{} + C::kRounder;
  Integers<T> offset;
  memcpy(&offset, &rounder, sizeof offset);
  return {integer - offset, r + r * r * sum};
}

// 2^n, which must be a normal number.
template <class T>
inline Vector<T> PowerOfTwo(Integers<T> n) {
  using C = ExponentialConstants<T>;
  const Integers<T> bits = (n + C::kBias) << C::kMantissa;
  Vector<T> power;
  memcpy(&power, &bits, sizeof power);
  return power;
}

template <class T>
inline Vector<T> Magnitude(Vector<T> x) {
  Bits<T> bits;
  memcpy(&bits, &x, sizeof bits);
  bits = bits << 1 >> 1;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// exp(x) for x <= 0. It cannot overflow, but may be subnormal: hence two factors.
template <class T>
inline __attribute__((always_inline)) Vector<T> ExpOfNegative(Vector<T> x) {
  const T lowest = ExponentialConstants<T>::kLowest;
  x = x < lowest ? Vector<T>{} + lowest : x;
  const Reduced<T> reduced = Reduce<T>(x);
  const Integers<T> half = reduced.n >> 1;
  return (1 + reduced.expm1) * PowerOfTwo<T>(half) * PowerOfTwo<T>(reduced.n - half);
}

// 1 / (1 + exp(-x)), computed from exp(-|x|).
template <class T>
inline __attribute__((always_inline)) Vector<T> Sigmoid(Vector<T> x) {
  const Vector<T> e = ExpOfNegative<T>(-Magnitude<T>(x));
  return (x >= 0 ? Vector<T>{} + 1 : e) / (1 + e);
}

// |tanh x| = -u / (2 + u) with u = exp(-2|x|) - 1, which is accurate near 0.
template <class T>
inline __attribute__((always_inline)) Vector<T> Tanh(Vector<T> x) {
  constexpr T kLowest = -44;  // tanh is already 1, in float64 too
  Vector<T> twice = -2 * Magnitude<T>(x);
  twice = twice < kLowest ? Vector<T>{} + kLowest : twice;
  const Reduced<T> reduced = Reduce<T>(twice);
  const Vector<T> power = PowerOfTwo<T>(reduced.n);
  const Vector<T> u = reduced.expm1 * power + (power - 1);
  const Vector<T> magnitude = -u / (2 + u);
  Bits<T> sign, bits;
  memcpy(&sign, &x, sizeof sign);
  memcpy(&bits, &magnitude, sizeof bits);
  sign = sign ^ (sign << 1 >> 1);
  bits = bits | sign;
  Vector<T> result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ACTIVATIONS_H_
