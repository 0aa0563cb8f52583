// SPDX-License-Identifier: Apache-2.0
// The memory and the keys of additive attention, and how queries and contexts are padded.
#ifndef KERAS_SEQ_KERNELS_ISA_ATTENTION_MEMORY_H_
#define KERAS_SEQ_KERNELS_ISA_ATTENTION_MEMORY_H_

#include "packing.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

constexpr Columns kPlainColumns{1, kPanelVectors, {0}};  // of a matrix without gates

template <class T>
inline T SumOf(Vector<T> lanes) {
  T sum = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) sum += lanes[lane];
  return sum;
}

// The caller's row-major matrices, and their sizes. A row of the memory has `row_size` numbers: `units`, of which a
// context is a weighted sum, or the gates' products with them if the call is multiplied. Rows of queries and contexts
// are padded with zeros to whole panels.
template <class T>
struct Memory {
  Memory(const Problem& problem, const Arguments& arguments)
      : source(problem.source),
        units(problem.memory_units),
        row_size(problem.multiplied ? Gates(problem.cell) * problem.units : problem.memory_units),
        attention_units(problem.attention_units),
        padded_units(PaddedUnits(problem.memory_units, kPanelVectors)),
        padded_attention(PaddedUnits(problem.attention_units, kPanelVectors)),
        sequences_per_memory(problem.sequences_per_memory),
        rows(static_cast<const T*>(arguments.memory)),
        keys(static_cast<const T*>(arguments.keys)),
        mask(problem.memory_mask) {}

  // These take an index from `Of`.
  const T* MemoryRow(int64_t memory, int64_t s) const { return rows + (memory * source + s) * row_size; }
  const T* KeyRow(int64_t memory, int64_t s) const { return keys + (memory * source + s) * attention_units; }
  bool Visible(int64_t memory, int64_t s) const { return mask == nullptr || mask[memory * source + s]; }

  // The index of the memory of sequence b.
  int64_t Of(int64_t b) const { return sequences_per_memory == 1 ? b : b / sequences_per_memory; }

  // Zeros the padding of a query or of its gradient, where infinity times 0 may have given NaN.
  void ClearPadding(T* query) const {
    memset(query + attention_units, 0, (padded_attention - attention_units) * sizeof(T));
  }

  // The residuals of attention: the queries of all steps, then the contexts of all steps.
  int64_t QueriesSize(const Problem& problem) const { return problem.time * problem.batch * padded_attention; }
  int64_t ContextsSize(const Problem& problem) const { return problem.time * problem.batch * padded_units; }

  const int64_t source, units, row_size, attention_units, padded_units, padded_attention, sequences_per_memory;
  const T *const rows, *const keys;
  const bool* const mask;
};

// The contexts of all steps: (time, batch) rows of `columns` numbers, `row_size` apart. Null without attention.
template <class T>
struct Contexts {
  const T* data = nullptr;
  int64_t row_size = 0, columns = 0;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_MEMORY_H_
