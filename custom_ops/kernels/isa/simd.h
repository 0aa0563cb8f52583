// SPDX-License-Identifier: Apache-2.0
// Vectors of the instruction set that this translation unit is compiled for.
//
// Everything under isa/ lies in a namespace named after the instruction set and uses no templates of the standard
// library. Otherwise the linker would merge equal instantiations, and might keep one that this CPU cannot run.
#ifndef KERAS_SEQ_KERNELS_ISA_SIMD_H_
#define KERAS_SEQ_KERNELS_ISA_SIMD_H_

#include <cstdint>
#include <cstring>

#include "../tuning.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr Tuning kTuning = TuningOf(kTuningAVX512);
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr Tuning kTuning = TuningOf(kTuningAVX2);
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr Tuning kTuning = TuningOf(kTuningAArch64);
#else
constexpr int kVectorBytes = 16;
constexpr Tuning kTuning = TuningOf(kTuningPortable);
#endif

struct BFloat16 {
  uint16_t bits;
};

typedef uint16_t BFloat16Bits __attribute__((vector_size(kVectorBytes / 2)));  // as many as a vector of float32

template <class T>
struct VectorTypes;

template <>
struct VectorTypes<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef float Unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
};

template <>
struct VectorTypes<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef double Unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef int64_t Integers __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t Bits __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using Vector = typename VectorTypes<T>::Vector;
template <class T>
using Integers = typename VectorTypes<T>::Integers;
template <class T>
using Bits = typename VectorTypes<T>::Bits;

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
constexpr T Smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
inline Vector<T> Load(const T* from) {
  return *reinterpret_cast<const typename VectorTypes<T>::Unaligned*>(from);
}

template <class T>
inline void Store(T* to, Vector<T> value) {
  *reinterpret_cast<typename VectorTypes<T>::Unaligned*>(to) = value;
}

// Loads the first `count` lanes; the others are zeros.
template <class T>
inline Vector<T> LoadFirst(const T* from, int64_t count) {
  if (count >= kLanes<T>) return Load(from);
  T lanes[kLanes<T>] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = from[i];
  return Load(lanes);
}

template <class T>
inline void StoreFirst(T* to, Vector<T> value, int64_t count) {
  if (count >= kLanes<T>) return Store(to, value);
  T lanes[kLanes<T>];
  Store(lanes, value);
  for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
}

// `value` with zeros beyond its first `count` lanes.
template <class T>
inline Vector<T> KeepFirst(Vector<T> value, int64_t count) {
  if (count >= kLanes<T>) return value;
  Integers<T> lane{};
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;  // a constant
  const Integers<T> end = Integers<T>{} + static_cast<decltype(lane[0] + 0)>(count < 0 ? 0 : count);
  return lane < end ? value : Vector<T>{};
}

// Loads bfloat16 as float32.
inline Vector<float> LoadFirst(const BFloat16* from, int64_t count) {
  BFloat16Bits lanes{};
  if (count >= kLanes<float>) {
    memcpy(&lanes, from, sizeof lanes);
  } else {
    for (int64_t i = 0; i < count; ++i) lanes[i] = from[i].bits;
  }
  const Bits<float> bits = __builtin_convertvector(lanes, Bits<float>) << 16;
  Vector<float> value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
inline void StoreFirst(BFloat16* to, Vector<float> value, int64_t count) {
  Bits<float> bits;
  memcpy(&bits, &value, sizeof bits);
  const Bits<float> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits<float> result = value == value ? rounded : ((bits >> 16) | 0x40u);
  const BFloat16Bits lanes = __builtin_convertvector(result, BFloat16Bits);
  if (count >= kLanes<float>) {
    memcpy(to, &lanes, sizeof lanes);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i].bits = lanes[i];
  }
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_SIMD_H_
