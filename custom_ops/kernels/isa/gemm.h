// SPDX-License-Identifier: Apache-2.0
// Matrix products of packed operands, which take nearly all of the time.
//
// A panel holds NV vectors of columns of the right operand, row after row, so that a product reads it front to back.
// A tile multiplies up to kTileRows<NV> rows with a panel, with all its sums in registers. Every sum runs over k in
// order, whatever the tile's height, so results do not depend on how the rows are split.
#ifndef KERAS_SEQ_KERNELS_ISA_GEMM_H_
#define KERAS_SEQ_KERNELS_ISA_GEMM_H_

#include "simd.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// A product multiplies one `Element` with an `Operand`, a vector of them, and adds it to a vector of `Sum`.
template <class Element>
struct ProductTypes {  // float, double
  using Sum = Element;
  using Operand = Vector<Element>;
  static constexpr int kDepth = 1;  // rows of the right operand in an element
  static Operand LoadOperand(const Element* from) { return Load(from); }
  static Vector<Sum> MultiplyAdd(const Element* a, Operand b, Vector<Sum> sum) { return sum + *a * b; }
};

// Two neighbouring rows of the right operand.
struct BFloat16Pair {
  BFloat16 first, second;
};

#if defined(__AVX512BF16__)
template <>
struct ProductTypes<BFloat16Pair> {
  using Sum = float;
  using Operand = __m512i;
  static constexpr int kDepth = 2;
  static Operand LoadOperand(const BFloat16Pair* from) { return _mm512_loadu_si512(from); }
  static Vector<float> MultiplyAdd(const BFloat16Pair* a, Operand b, Vector<float> sum) {
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return (Vector<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
  }
};
#endif

template <int NV>
constexpr int kTileRows = Smaller(kTuning.accumulators / NV, kTuning.tile_rows);

// The left operand of a product: rows of `blocks` blocks of `block` elements each, `block_stride` apart.
template <class Element>
struct Rows {
  const Element* const* row;  // the first block of each row
  int64_t block, block_stride, blocks;
};

// The numbers that a product is added to: the same vectors for all rows, or vectors of each row, `vector_stride` apart.
template <class Sum>
struct Start {
  Start(const Sum* shared) : shared(shared) {}
  Start(const Sum* const* row, int64_t vector_stride) : row(row), vector_stride(vector_stride) {}
  const Sum* shared = nullptr;
  const Sum* const* row = nullptr;
  int64_t vector_stride = 0;
};

// sums[r][v] = start + rows[r] * panel.
template <int R, int NV, class Element>
inline __attribute__((always_inline)) void Tile(const Rows<Element>& left, int64_t first, const Element* panel,
                                                typename ProductTypes<Element>::Sum* const* sums, int64_t vector_stride,
                                                const Start<typename ProductTypes<Element>::Sum>& start) {
  using Types = ProductTypes<Element>;
  using Sum = typename Types::Sum;
  constexpr int L = kLanes<Sum>;
  Vector<Sum> sum[R][NV];
  const Element* a[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    a[r] = left.row[first + r];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      sum[r][v] = Load(start.shared ? start.shared + v * L : start.row[first + r] + v * start.vector_stride);
    }
  }
  for (int64_t block = 0; block < left.blocks; ++block) {
    for (int64_t k = 0; k < left.block; ++k) {
      typename Types::Operand b[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) b[v] = Types::LoadOperand(panel + v * L);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[r][v] = Types::MultiplyAdd(a[r] + k, b[v], sum[r][v]);
      }
      panel += NV * L;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) a[r] += left.block_stride;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) Store(sums[first + r] + v * vector_stride, sum[r][v]);
  }
}

template <int R, int NV, class Element>
__attribute__((noinline)) void TileOfHeight(const Rows<Element>& left, int64_t first, const Element* panel,
                                            typename ProductTypes<Element>::Sum* const* sums, int64_t vector_stride,
                                            const Start<typename ProductTypes<Element>::Sum>& start) {
  Tile<R, NV>(left, first, panel, sums, vector_stride, start);
}

// Calls the tile of the given height, from R down to 1.
template <int R, int NV, class Element>
inline void TileOfAtMost(int64_t height, const Rows<Element>& left, int64_t first, const Element* panel,
                         typename ProductTypes<Element>::Sum* const* sums, int64_t vector_stride,
                         const Start<typename ProductTypes<Element>::Sum>& start) {
  if (height == R) {
    TileOfHeight<R, NV>(left, first, panel, sums, vector_stride, start);
  } else if constexpr (R > 1) {
    TileOfAtMost<R - 1, NV>(height, left, first, panel, sums, vector_stride, start);
  }
}

// Multiplies all `count` rows with one panel, in tiles of nearly the same height. A start without vectors means the sums
// themselves.
template <int NV, class Element>
void MultiplyRows(const Rows<Element>& left, int64_t count, const Element* panel,
                  typename ProductTypes<Element>::Sum* const* sums, int64_t vector_stride,
                  Start<typename ProductTypes<Element>::Sum> start) {
  constexpr int R = kTileRows<NV>;
  if (start.shared == nullptr && start.row == nullptr) start = {sums, vector_stride};
  const int64_t tiles = (count + R - 1) / R;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = count * tile / tiles, end = count * (tile + 1) / tiles;
    TileOfAtMost<R, NV>(end - first, left, first, panel, sums, vector_stride, start);
  }
}

// The right operands of `OuterTile`: rows at a fixed distance, and rows at the given offsets.
template <class T>
struct StridedRows {
  const T* data;
  int64_t stride;
  const T* operator[](int64_t k) const { return data + k * stride; }
};

template <class T>
struct ListedRows {
  const T* data;
  const int64_t* offsets;
  const T* operator[](int64_t k) const { return data + offsets[k]; }
};

// sums[m][v] += sum over k of left[k][m] * right[k][v]: a row of `left` holds R numbers.
template <int R, int NV, class T, class RightRows>
__attribute__((noinline)) void OuterTile(const T* left, const RightRows& right, int64_t rows, int64_t vector_stride,
                                         T* sums) {
  constexpr int L = kLanes<T>;
  Vector<T> sum[R][NV];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[r][v] = Load(sums + (r * NV + v) * L);
  }
  for (int64_t k = 0; k < rows; ++k, left += R) {
    const T* row = right[k];
    if constexpr (R < NV) {  // the operands that must stay in registers are the fewer ones: R + 1 instead of NV + 1
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v, row += vector_stride) {
        const Vector<T> b = Load(row);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sum[r][v] = ProductTypes<T>::MultiplyAdd(left + r, b, sum[r][v]);
      }
    } else {
      Vector<T> b[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) b[v] = Load(row + v * vector_stride);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[r][v] = ProductTypes<T>::MultiplyAdd(left + r, b[v], sum[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) Store(sums + (r * NV + v) * L, sum[r][v]);
  }
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_GEMM_H_
