// SPDX-License-Identifier: Apache-2.0
// Sigmoid and tanh on vectors, and the exp of the softmax, within 4 units in the last place in float32. NaN stays NaN.
//
// `Reduce`, `ClampedExp`, `Sigmoid` and `Tanh` are always inlined: left to the compiler, that depends on the number of
// callers.
#ifndef KERAS_SEQ_KERNELS_ISA_ACTIVATIONS_H_
#define KERAS_SEQ_KERNELS_ISA_ACTIVATIONS_H_

#include "simd.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class T>
struct ExponentialConstants;

template <>
struct ExponentialConstants<float> {
  static constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLowest = -105.0f, kHighest = 80.0f;  // exp is 0 below, and 1 + exp(-x) is 1 above
  static constexpr int kMantissa = 23, kBias = 127;
  // (exp(r) - 1 - r) / r^2 for |r| <= ln 2 / 2, from the highest power down. They minimize the largest error of exp,
  // which is 3e-9.
  static constexpr float kTerms[] = {1.38145406e-3f, 8.36874545e-3f, 4.16683890e-2f, 0.166665211f, 0.49999994f};
};

template <>
struct ExponentialConstants<double> {
  static constexpr double kRounder = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kLowest = -746.0, kHighest = 700.0;
  static constexpr int kMantissa = 52, kBias = 1023;
  // The same from the Taylor series.
  static constexpr double kTerms[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800,
                                      1. / 362880,     1. / 40320,     1. / 5040,     1. / 720,
                                      1. / 120,        1. / 24,        1. / 6,        1. / 2};
};

// What instruction sets have instructions for. All of it is exact.
template <class T>
struct Primitives {
  // The nearest integer. |x| < 2^22.
  static Vector<T> Round(Vector<T> x) {
    const Vector<T> rounder = Rounder();  // in a variable: the compiler must not cancel it
    return (x + rounder) - rounder;
  }

  // x within [lowest, highest]. NaN stays NaN.
  static Vector<T> Clamp(Vector<T> x, T lowest, T highest) {
    x = x < lowest ? Vector<T>{} + lowest : x;
    return x > highest ? Vector<T>{} + highest : x;
  }

  // x times 2^n for an integer n, if 2^n is a normal number.
  static Vector<T> Scale(Vector<T> x, Vector<T> n) { return x * PowerOfTwo(IntegerOf(n)); }

  // x times 2^n, which may be subnormal: hence two factors.
  static Vector<T> ScaleFar(Vector<T> x, Vector<T> n) {
    const Integers<T> integer = IntegerOf(n), half = integer >> 1;
    return x * PowerOfTwo(half) * PowerOfTwo(integer - half);
  }

 private:
  static Vector<T> Rounder() { return Vector<T>{} + ExponentialConstants<T>::kRounder; }

  static Integers<T> IntegerOf(Vector<T> n) {
    const Vector<T> rounder = Rounder(), moved = n + rounder;
    Integers<T> integer, offset;
    memcpy(&integer, &moved, sizeof integer);
    memcpy(&offset, &rounder, sizeof offset);
    return integer - offset;
  }

  static Vector<T> PowerOfTwo(Integers<T> n) {
    using C = ExponentialConstants<T>;
    const Integers<T> bits = (n + C::kBias) << C::kMantissa;
    Vector<T> power;
    memcpy(&power, &bits, sizeof power);
    return power;
  }
};

#if defined(__AVX512F__)
template <>
struct Primitives<float> {
  using V = Vector<float>;
  // All lanes of a mask: GCC 12 warns of the forms without one. It compiles both alike.
  static constexpr __mmask16 kAll = 0xffff;
  static V Round(V x) {
    return (V)_mm512_maskz_roundscale_ps(kAll, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static V Clamp(V x, float lowest, float highest) {  // of a NaN and a number, these return the second operand
    const __m512 at_least = _mm512_maskz_max_ps(kAll, _mm512_set1_ps(lowest), (__m512)x);
    return (V)_mm512_maskz_min_ps(kAll, _mm512_set1_ps(highest), at_least);
  }
  static V Scale(V x, V n) { return (V)_mm512_maskz_scalef_ps(kAll, (__m512)x, (__m512)n); }
  static V ScaleFar(V x, V n) { return Scale(x, n); }
};
#elif defined(__AVX2__)
template <>
struct Primitives<float> {
  using V = Vector<float>;
  static V Round(V x) { return (V)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static V Clamp(V x, float lowest, float highest) {  // of a NaN and a number, these return the second operand
    return (V)_mm256_min_ps(_mm256_set1_ps(highest), _mm256_max_ps(_mm256_set1_ps(lowest), (__m256)x));
  }
  static V Scale(V x, V n) { return x * PowerOfTwo(_mm256_cvtps_epi32((__m256)n)); }
  static V ScaleFar(V x, V n) {
    const __m256i integer = _mm256_cvtps_epi32((__m256)n), half = _mm256_srai_epi32(integer, 1);
    return x * PowerOfTwo(half) * PowerOfTwo(_mm256_sub_epi32(integer, half));
  }

 private:
  static V PowerOfTwo(__m256i n) {
    using C = ExponentialConstants<float>;
    return (V)_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(C::kBias)), C::kMantissa));
  }
};
#endif

// n and exp(r) - 1 of x = n ln 2 + r, where |r| <= ln 2 / 2.
template <class T>
struct Reduced {
  Vector<T> n, expm1;
};

template <class T>
inline __attribute__((always_inline)) Reduced<T> Reduce(Vector<T> x) {
  using C = ExponentialConstants<T>;
  const Vector<T> n = Primitives<T>::Round(x * static_cast<T>(1.44269504088896340736));
  const Vector<T> r = (x - n * C::kLn2High) - n * C::kLn2Low;
  Vector<T> sum = Vector<T>{} + C::kTerms[0];
  constexpr int kCount = sizeof C::kTerms / sizeof C::kTerms[0];
#pragma GCC unroll 16
  for (int i = 1; i < kCount; ++i) sum = sum * r + C::kTerms[i];
  return {n, r + r * r * sum};
}

// exp(x) of x within [kLowest, kHighest], of a smaller x 0, of a larger one that of kHighest.
template <class T>
inline __attribute__((always_inline)) Vector<T> ClampedExp(Vector<T> x) {
  using C = ExponentialConstants<T>;
  const Reduced<T> reduced = Reduce<T>(Primitives<T>::Clamp(x, C::kLowest, C::kHighest));
  return Primitives<T>::ScaleFar(1 + reduced.expm1, reduced.n);
}

// exp(x) / (1 + exp(x)): as accurate where it is small as where it is nearly 1.
template <class T>
inline __attribute__((always_inline)) Vector<T> Sigmoid(Vector<T> x) {
  const Vector<T> e = ClampedExp<T>(x);
  return e / (1 + e);
}

// u / (2 + u) with u = exp(2x) - 1, which is accurate near 0.
template <class T>
inline __attribute__((always_inline)) Vector<T> Tanh(Vector<T> x) {
  constexpr T kFarthest = 44;  // exp(2x) = 2^63; tanh is already 1, in float64 too
  const Reduced<T> reduced = Reduce<T>(Primitives<T>::Clamp(x + x, -kFarthest, kFarthest));
  const Vector<T> power = Primitives<T>::Scale(Vector<T>{} + 1, reduced.n);
  const Vector<T> u = reduced.expm1 * power + (power - 1);
  return u / (2 + u);
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ACTIVATIONS_H_
