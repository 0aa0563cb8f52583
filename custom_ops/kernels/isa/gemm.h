// SPDX-License-Identifier: Apache-2.0
// Matrix products of packed operands, which take nearly all of the time.
//
// A panel holds NV vectors of columns of the right operand, row after row, so that a product reads it front to back.
// A tile multiplies up to kTileRows<NV> rows with kTileVectors<NV> vectors of a panel, with all its sums in registers.
// Every sum runs over k in order, whatever the size of the tile, so results do not depend on how the rows are split.
#ifndef KERAS_SEQ_KERNELS_ISA_GEMM_H_
#define KERAS_SEQ_KERNELS_ISA_GEMM_H_

#include "simd.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// A product multiplies one `Element` with an `Operand`, a vector of them, and adds it to a vector of `Sum`. An element
// has a `Scalar` of each of `kDepth` rows of the right operand.
template <class Element>
struct ProductTypes {  // float, double
  using Scalar = Element;
  using Sum = Element;
  using Operand = Vector<Element>;
  static constexpr int kDepth = 1;
  static Operand LoadOperand(const Element* from) { return Load(from); }
  // From `kDepth` rows that are not packed.
  static Operand LoadRows(const Scalar* const* row, int64_t column) { return Load(row[0] + column); }
  static void StoreOperand(Element* to, Operand operand) { Store(to, operand); }
  static Vector<Sum> MultiplyAdd(const Element* a, Operand b, Vector<Sum> sum) { return sum + *a * b; }
};

// Two neighbouring rows of the right operand.
struct BFloat16Pair {
  BFloat16 first, second;
};

#if defined(__AVX512BF16__)
template <>
struct ProductTypes<BFloat16Pair> {
  using Scalar = BFloat16;
  using Sum = float;
  using Operand = __m512i;
  static constexpr int kDepth = 2;
  static Operand LoadOperand(const BFloat16Pair* from) { return _mm512_loadu_si512(from); }
  static Operand LoadRows(const BFloat16* const* row, int64_t column) {
    const __m512i interleaved = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                                 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[0] + column));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[1] + column));
    // GCC 12 warns of uninitialised variables in the functions of these instructions that have no mask.
    const __m512i both = _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(first), second, 1);
    return _mm512_maskz_permutexvar_epi16(0xffffffff, interleaved, both);
  }
  static void StoreOperand(BFloat16Pair* to, Operand operand) { _mm512_storeu_si512(to, operand); }
  static Vector<float> MultiplyAdd(const BFloat16Pair* a, Operand b, Vector<float> sum) {
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return (Vector<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
  }
};
#endif

// The vectors of a panel that a tile multiplies, which divide NV, and its rows at most. `OuterTile` has its own.
template <int NV>
constexpr int kTileVectors = NV % kTuning.tile_vectors == 0 ? kTuning.tile_vectors : NV;
template <int NV>
constexpr int kTileRows = Smaller(kTuning.accumulators / kTileVectors<NV>, kTuning.tile_rows);
template <int NV>
constexpr int kOuterVectors = NV % kTuning.outer_vectors == 0 ? kTuning.outer_vectors : NV;
template <int NV>
constexpr int kOuterRows = Smaller(kTuning.accumulators / kOuterVectors<NV>, kTuning.tile_rows);

// The left operand of a product: rows of `blocks` blocks of `block` elements each, `block_stride` apart.
template <class Element>
struct Rows {
  const Element* const* row;  // the first block of each row
  int64_t block, block_stride, blocks;
  int64_t offset = 0;  // from `row` to what is to be multiplied

  int64_t depth() const { return block * blocks; }

  // How many parts there are if each is to have `depth_block` elements or little more, where blocks allow it.
  int64_t Parts(int64_t depth_block) const {
    const int64_t parts = depth() / depth_block, most = blocks == 1 ? block : blocks;
    return parts < 1 ? 1 : Smaller(parts, most);
  }

  Rows Part(int64_t part, int64_t parts) const {
    const int64_t all = blocks == 1 ? block : blocks, begin = all * part / parts;
    const int64_t count = all * (part + 1) / parts - begin;
    return blocks == 1 ? Rows{row, count, 0, 1, begin} : Rows{row, block, block_stride, count, begin * block_stride};
  }
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

// sums[r][v] = start + rows[r] * panel, for the TV of the NV vectors of the panel that begin at `vector`.
template <int R, int TV, int NV, class Element>
__attribute__((noinline)) void Tile(const Rows<Element>& left, int64_t first, int64_t vector, const Element* panel,
                                    typename ProductTypes<Element>::Sum* const* sums, int64_t vector_stride,
                                    const Start<typename ProductTypes<Element>::Sum>& start) {
  using Types = ProductTypes<Element>;
  using Sum = typename Types::Sum;
  constexpr int L = kLanes<Sum>;
  panel += vector * L;
  Vector<Sum> sum[R][TV];
  const Element* a[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    a[r] = left.row[first + r] + left.offset;
#pragma GCC unroll 4
    for (int v = 0; v < TV; ++v) {
      const int64_t at = vector + v;
      sum[r][v] = Load(start.shared ? start.shared + at * L : start.row[first + r] + at * start.vector_stride);
    }
  }
  for (int64_t block = 0; block < left.blocks; ++block) {
    for (int64_t k = 0; k < left.block; ++k) {
      typename Types::Operand b[TV];
#pragma GCC unroll 4
      for (int v = 0; v < TV; ++v) b[v] = Types::LoadOperand(panel + v * L);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < TV; ++v) sum[r][v] = Types::MultiplyAdd(a[r] + k, b[v], sum[r][v]);
      }
      panel += NV * L;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) a[r] += left.block_stride;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < TV; ++v) Store(sums[first + r] + (vector + v) * vector_stride, sum[r][v]);
  }
}

// Calls the tile of the given height, from R down to 1.
template <int R, int NV, class Element>
inline void TileOfAtMost(int64_t height, const Rows<Element>& left, int64_t first, int64_t vector, const Element* panel,
                         typename ProductTypes<Element>::Sum* const* sums, int64_t vector_stride,
                         const Start<typename ProductTypes<Element>::Sum>& start) {
  if (height == R) {
    Tile<R, kTileVectors<NV>, NV>(left, first, vector, panel, sums, vector_stride, start);
  } else if constexpr (R > 1) {
    TileOfAtMost<R - 1, NV>(height, left, first, vector, panel, sums, vector_stride, start);
  }
}

// Multiplies all `count` rows with one panel, in tiles of nearly the same height, and a part of the depth after another,
// so that this part of the panel stays in a cache. A start without vectors means the sums themselves.
template <int NV, class Element>
void MultiplyRows(const Rows<Element>& left, int64_t count, const Element* panel,
                  typename ProductTypes<Element>::Sum* const* sums, int64_t vector_stride,
                  Start<typename ProductTypes<Element>::Sum> start) {
  constexpr int R = kTileRows<NV>, L = kLanes<typename ProductTypes<Element>::Sum>;
  if (start.shared == nullptr && start.row == nullptr) start = {sums, vector_stride};
  const int64_t tiles = (count + R - 1) / R, parts = left.Parts(kTuning.depth_block);
  for (int64_t i = 0; i < parts; ++i) {
    const Rows<Element> part = left.Part(i, parts);
    for (int64_t vector = 0; vector < NV; vector += kTileVectors<NV>) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first = count * tile / tiles, end = count * (tile + 1) / tiles;
        TileOfAtMost<R, NV>(end - first, part, first, vector, panel, sums, vector_stride, start);
      }
    }
    panel += part.depth() * NV * L;
    start = {sums, vector_stride};
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

// The first TV of NV vectors of an outer tile; those of `right` are `offset` further on.
template <int R, int TV, int NV, class Element, class RightRows>
__attribute__((noinline)) void OuterTileOfVectors(const Element* left, const RightRows& right, int64_t rows,
                                                  int64_t offset, int64_t vector_stride,
                                                  typename ProductTypes<Element>::Sum* sums) {
  using Types = ProductTypes<Element>;
  using Sum = typename Types::Sum;
  constexpr int L = kLanes<Sum>, D = Types::kDepth;
  Vector<Sum> sum[R][TV];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < TV; ++v) sum[r][v] = Load(sums + (r * NV + v) * L);
  }
  for (int64_t k = 0; k < rows; k += D, left += R) {
    const typename Types::Scalar* row[D];
    for (int i = 0; i < D; ++i) row[i] = right[i == 0 || k + i < rows ? k + i : k] + offset;
    if constexpr (R < TV) {  // the operands that stay in registers are the fewer ones
#pragma GCC unroll 4
      for (int v = 0; v < TV; ++v) {
        const typename Types::Operand b = Types::LoadRows(row, v * vector_stride);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sum[r][v] = Types::MultiplyAdd(left + r, b, sum[r][v]);
      }
    } else {
      typename Types::Operand b[TV];
#pragma GCC unroll 4
      for (int v = 0; v < TV; ++v) b[v] = Types::LoadRows(row, v * vector_stride);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < TV; ++v) sum[r][v] = Types::MultiplyAdd(left + r, b[v], sum[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < TV; ++v) Store(sums + (r * NV + v) * L, sum[r][v]);
  }
}

// sums[m][v] += sum over k of left[k][m] * right[k][v]. A row of `left` holds R elements; what these have beyond the
// `rows` of `right` must be zeros.
template <int R, int NV, class Element, class RightRows>
inline void OuterTile(const Element* left, const RightRows& right, int64_t rows, int64_t vector_stride,
                      typename ProductTypes<Element>::Sum* sums) {
  constexpr int L = kLanes<typename ProductTypes<Element>::Sum>;
  constexpr int TV = kOuterVectors<NV>;
  for (int v = 0; v < NV; v += TV) {
    OuterTileOfVectors<R, TV, NV>(left, right, rows, v * vector_stride, vector_stride, sums + v * L);
  }
}
}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_GEMM_H_
