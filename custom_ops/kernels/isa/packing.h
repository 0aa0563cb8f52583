// SPDX-License-Identifier: Apache-2.0
// The layout of slots and of packed weights, and which sequences a step computes.
#ifndef KERAS_SEQ_KERNELS_ISA_PACKING_H_
#define KERAS_SEQ_KERNELS_ISA_PACKING_H_

#include "cells.h"
#include "gemm.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

constexpr int64_t kRowBlock = kTuning.row_block;    // sequences of an item of work
constexpr int64_t kPackBlock = kTuning.pack_block;  // rows that an item of work packs

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Slots lie in memory as (steps, groups, batch, slots, width). A group is `kWidth` units, or all of them for a cell
// whose panels hold several vectors of units.
struct Layout {
  int64_t batch, units, width, groups, padded;  // `padded`: units with the padding of all groups

  Layout(int64_t batch, int64_t units, int unit_vectors) : batch(batch), units(units) {
    padded = PaddedUnits(units, unit_vectors);
    width = unit_vectors == 1 ? kWidth : padded;
    groups = unit_vectors == 1 ? CeilDiv(units, kWidth) : units > 0;
  }

  int64_t StepSize(int64_t slots) const { return batch * padded * slots; }

  // The offset of sequence 0; sequence b is b * slots * width further on.
  int64_t Offset(int64_t slots, int64_t step, int64_t unit) const {
    if (groups == 1) return step * StepSize(slots) + unit;
    return step * StepSize(slots) + unit / kWidth * batch * slots * kWidth + unit % kWidth;
  }
};

// The distance in slots between the vectors of a panel: gates of the same units, or units of the same gate.
template <class Equations, class T>
inline int64_t VectorStride(const Layout& layout) {
  return Equations::kUnitVectors > 1 ? kLanes<T> : layout.width;
}

inline int64_t ChunkSteps(const Problem& problem) {
  if (problem.batch == 0 || problem.time < 1) return 1;
  return Smaller(CeilDiv(kTuning.chunk_rows, problem.batch), problem.time);
}

inline bool Visible(const Problem& problem, int64_t b, int64_t t) {
  return problem.mask == nullptr || problem.mask[b * problem.time + t];
}

inline int64_t BlockEnd(const Problem& problem, int64_t block) {
  return Smaller((block + 1) * kRowBlock, problem.batch);
}

// The sequences of a block that are not masked at time t. Only these are multiplied, so padding costs next to nothing.
struct VisibleSequences {
  VisibleSequences(const Problem& problem, int64_t block, int64_t t) {
    for (int64_t b = block * kRowBlock; b < BlockEnd(problem, block); ++b) {
      if (Visible(problem, b, t)) sequence[count++] = b;
    }
  }

  int64_t sequence[kRowBlock], count = 0;  // the first `count` are set
};

inline int64_t TimeOf(const Problem& problem, const Arguments& arguments, int64_t step) {
  return arguments.reverse ? problem.time - 1 - step : step;
}

// The row of `mask` for sequence b at time t, of a state of `units`. The mask must be present.
template <class S>
inline const S* MaskRow(const UnitMask& mask, const Problem& problem, int64_t b, int64_t t, int64_t units) {
  const int64_t row = mask.per_step ? b * problem.time + t : b;
  return static_cast<const S*>(mask.data) + row * units;
}

// A vector from `unit` on of a row of `units` numbers, with zeros beyond its end.
template <class T, class S>
inline Vector<T> LoadUnits(const S* row, int64_t unit, int64_t units) {
  return LoadFirst(row + unit, units - unit);
}

// h before each step, where arguments and results hold it; or `shift` steps later.
template <class T, class S>
struct HiddenBefore {
  Vector<T> operator()(int64_t step, int64_t b, int64_t unit) const {
    const int64_t units = HiddenUnits(problem), last = step + shift - 1;
    if (last < 0) {
      const S* initial = static_cast<const S*>(arguments.initial_state[0]);
      return initial ? LoadUnits<T>(initial + b * units, unit, units) : Vector<T>{};
    }
    const int64_t row = b * problem.time + TimeOf(problem, arguments, last);
    return LoadUnits<T>(static_cast<const S*>(results.outputs) + row * units, unit, units);
  }

  const Problem& problem;
  const Arguments& arguments;
  const Results& results;
  int64_t shift = 0;
};

// Copies a peephole kernel, (3, units), to rows with padding, which must be zeros.
template <class T, class S>
void LoadPeepholes(const S* kernel, const Layout& layout, T* padded) {
  for (int64_t gate = 0; gate < 3; ++gate) {
    for (int64_t unit = 0; unit < layout.units; unit += kLanes<T>) {
      Store(padded + gate * layout.padded + unit, LoadUnits<T>(kernel + gate * layout.units, unit, layout.units));
    }
  }
}

// The elements of a panel that is `padded_rows` deep. One more row keeps panels from starting in the same set of a
// cache, because packing writes to all of them in turn.
template <class Element>
int64_t PanelSize(int64_t padded_rows, int vectors) {
  using Types = ProductTypes<Element>;
  return (padded_rows / Types::kDepth + 1) * vectors * kLanes<typename Types::Sum>;
}

inline int64_t PanelCount(const Columns& columns, int64_t units, int lanes) {
  return CeilDiv(CeilDiv(units, lanes), columns.unit_vectors);
}

// Packs a vector of elements, from columns of rows that are `row_size` apart. Rows and columns beyond those given
// become zeros.
template <class Element, class S>
inline void PackElements(const S* from, int64_t row_size, int64_t rows, int64_t columns, Element* to) {
  using Types = ProductTypes<Element>;
  constexpr int L = kLanes<typename Types::Sum>, D = Types::kDepth;
  if (rows >= D && columns >= L) {
    const S* row[D];
    for (int i = 0; i < D; ++i) row[i] = from + i * row_size;
    return Types::StoreOperand(to, Types::LoadRows(row, 0));
  }
  S* scalars = reinterpret_cast<S*>(to);
  for (int i = 0; i < D; ++i) {
    for (int lane = 0; lane < L; ++lane) {
      scalars[lane * D + i] = i < rows && lane < columns ? from[i * row_size + lane] : S{};
    }
  }
}

// Packs the rows [first, end) of `matrix` (rows, all_gates * units) into all panels. Both are multiples of the
// element's depth; rows beyond `rows` become zeros.
template <const Columns& kColumns, class Element, class S>
void PackRows(const S* matrix, int64_t rows, int64_t padded_rows, int64_t units, int all_gates, int64_t first,
              int64_t end, Element* panels) {
  using Types = ProductTypes<Element>;
  constexpr int L = kLanes<typename Types::Sum>, D = Types::kDepth;
  constexpr int kVectors = kColumns.vectors();
  const int64_t panel_size = PanelSize<Element>(padded_rows, kVectors), count = PanelCount(kColumns, units, L);
  for (int64_t k = first; k < end; k += D) {
    const S* row = matrix + k * all_gates * units;
    for (int64_t panel = 0; panel < count; ++panel) {
      Element* to = panels + panel * panel_size + k / D * kVectors * L;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v, to += L) {
        const int64_t unit = (panel * kColumns.unit_vectors + v / kColumns.gates) * L;
        const S* from = row + kColumns.gate[v % kColumns.gates] * units + unit;
        PackElements(from, all_gates * units, rows - k, units - unit, to);
      }
    }
  }
}

// Packs one panel of a transposed matrix: the rows of the panel are gradient slots, its `kPanelVectors` vectors of
// columns are rows of `matrix` (count, all_gates * units).
template <class S, class Element>
void PackTransposed(const S* matrix, int64_t count, const Layout& layout, int all_gates, const Columns& columns,
                    int64_t panel, Element* packed) {
  using Types = ProductTypes<Element>;
  constexpr int N = kPanelVectors * kLanes<typename Types::Sum>, kElements = kWidth / Types::kDepth;
  const int64_t first = panel * N, given = Smaller<int64_t>(N, count - first), row_size = all_gates * layout.units;
  for (int64_t group = 0; group < layout.groups; ++group) {
    for (int slot = 0; slot < columns.gates; ++slot) {
      for (int64_t lane = 0; lane < layout.width; lane += kWidth, packed += kElements * N) {
        const int64_t unit = group * layout.width + lane, valid = Smaller<int64_t>(kWidth, layout.units - unit);
        const S* from = matrix + first * row_size + columns.gate[slot] * layout.units + unit;
        // Copied through the stack, because rows of the matrix tend to fall into the same set of the cache.
        Element tile[N][kElements + 1];
        for (int64_t n = 0; n < N; ++n) {
          S* row = reinterpret_cast<S*>(tile[n]);  // neighbours of a row are the scalars of an element
          for (int i = 0; i < kWidth; ++i) row[i] = n < given && i < valid ? from[n * row_size + i] : S{};
        }
        for (int i = 0; i < kElements; ++i) {
          for (int n = 0; n < N; ++n) packed[i * N + n] = tile[n][i];
        }
      }
    }
  }
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_PACKING_H_
