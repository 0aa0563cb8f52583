// SPDX-License-Identifier: Apache-2.0
// How matrices and sequences lie in the kernels' own buffers, and which rows are worth a product.
#ifndef KERAS_SEQ_KERNELS_ISA_PACKING_H_
#define KERAS_SEQ_KERNELS_ISA_PACKING_H_

#include "cells.h"
#include "gemm.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

constexpr int64_t kRowBlock = 64;   // sequences of an item of work
constexpr int64_t kPackBlock = 32;  // rows that an item of work packs

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Units in groups of `width`: slots of a step lie in memory as (groups, batch, slots, width).
struct Layout {
  int64_t batch, units, width, groups, padded;

  Layout(int64_t batch, int64_t units, int unit_vectors) : batch(batch), units(units) {
    padded = CeilDiv(units, 4 * kWidth) * 4 * kWidth;  // of SimpleRNN, whose panels hold four vectors of units
    width = padded;
    groups = units > 0;
    if (unit_vectors == 1) {
      width = kWidth;
      groups = CeilDiv(units, kWidth);
      padded = groups * kWidth;
    }
  }

  int64_t StepSize(int64_t slots) const { return batch * padded * slots; }

  // Of sequence 0; that of sequence b is b * slots * width further on.
  int64_t Offset(int64_t slots, int64_t step, int64_t unit) const {
    if (groups == 1) return step * StepSize(slots) + unit;
    return step * StepSize(slots) + unit / kWidth * batch * slots * kWidth + unit % kWidth;
  }
};

inline bool Visible(const Problem& problem, int64_t b, int64_t t) {
  return problem.mask == nullptr || problem.mask[b * problem.time + t];
}

// Those of a block of sequences that are not masked at a time. Products are made for these alone, so that padding costs
// next to nothing.
struct VisibleSequences {
  VisibleSequences(const Problem& problem, int64_t block, int64_t t) {
    for (int64_t b = block * kRowBlock; b < Smaller((block + 1) * kRowBlock, problem.batch); ++b) {
      if (Visible(problem, b, t)) sequence[count++] = b;
    }
  }

  int64_t sequence[kRowBlock], count = 0;  // the first `count` are set
};

inline int64_t TimeOf(const Problem& problem, const Arguments& arguments, int64_t step) {
  return arguments.reverse ? problem.time - 1 - step : step;
}

template <class T, class S>
inline Vector<T> LoadUnits(const S* row, int64_t unit, int64_t units) {
  return LoadFirst(row + unit, units - unit);
}

// Panels of the right operand (rows, gates * units), `padded_rows` deep; rows beyond `rows` are zero. One row more keeps
// panels from starting in the same set of a cache, where packing writes to all of them in turn.
template <class Element>
int64_t PanelSize(int64_t padded_rows, int vectors) {
  using Types = ProductTypes<Element>;
  return (padded_rows / Types::kDepth + 1) * vectors * kLanes<typename Types::Sum>;
}

inline int64_t PanelCount(const Columns& columns, int64_t units, int lanes) {
  return CeilDiv(CeilDiv(units, lanes), columns.unit_vectors);
}

// Packs the rows [first, end) of all panels; `first` is a multiple of the element's depth.
template <const Columns& kColumns, class Element, class S>
void PackRows(const S* matrix, int64_t rows, int64_t padded_rows, int64_t units, int all_gates, int64_t first,
              int64_t end, Element* panels) {
  using Types = ProductTypes<Element>;
  constexpr int L = kLanes<typename Types::Sum>, D = Types::kDepth;
  constexpr int kVectors = kColumns.gates * kColumns.unit_vectors;
  const int64_t panel_size = PanelSize<Element>(padded_rows, kVectors), count = PanelCount(kColumns, units, L);
  S* packed = reinterpret_cast<S*>(panels);  // an element is D scalars
  for (int64_t k = first; k < end; ++k) {
    const S* row = matrix + k * all_gates * units;
    for (int64_t panel = 0; panel < count; ++panel) {
      S* to = packed + (panel * panel_size + k / D * kVectors * L) * D + k % D;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v, to += L * D) {
        const int64_t unit = (panel * kColumns.unit_vectors + v / kColumns.gates) * L;
        const S* from = row + kColumns.gate[v % kColumns.gates] * units + unit;
        const int64_t valid = k < rows ? units - unit : 0;
        if (D == 1 && valid >= L) {
          memcpy(to, from, L * sizeof(S));
        } else {
          for (int lane = 0; lane < L; ++lane) to[lane * D] = lane < valid ? from[lane] : S{};
        }
      }
    }
  }
}

// Packs one panel of the transposed operand: its rows are the slots of gradients, its columns (4 vectors of them) the
// rows of `matrix` (count, gates * units).
template <class T>
void PackTransposed(const T* matrix, int64_t count, const Layout& layout, int all_gates, const Columns& columns,
                    int64_t panel, T* packed) {
  constexpr int N = 4 * kLanes<T>;
  const int64_t first = panel * N, given = Smaller<int64_t>(N, count - first), row_size = all_gates * layout.units;
  for (int64_t group = 0; group < layout.groups; ++group) {
    for (int slot = 0; slot < columns.gates; ++slot) {
      for (int64_t lane = 0; lane < layout.width; lane += kWidth, packed += kWidth * N) {
        const int64_t unit = group * layout.width + lane, valid = Smaller<int64_t>(kWidth, layout.units - unit);
        const T* from = matrix + first * row_size + columns.gate[slot] * layout.units + unit;
        // A tile goes through the stack: rows of the matrix tend to fall into the same set of the cache.
        T tile[N][kWidth + 1];
        for (int64_t n = 0; n < N; ++n) {
          for (int i = 0; i < kWidth; ++i) tile[n][i] = n < given && i < valid ? from[n * row_size + i] : T{};
        }
        for (int i = 0; i < kWidth; ++i) {
          for (int n = 0; n < N; ++n) packed[i * N + n] = tile[n][i];
        }
      }
    }
  }
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_PACKING_H_
