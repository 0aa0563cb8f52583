// SPDX-License-Identifier: Apache-2.0
// The memory and the keys of attention, and how queries and contexts are padded.
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
// context is a weighted sum, or the gates' products with them (`HasMemoryProducts`). Rows of queries and contexts are
// padded with zeros to whole panels.
template <class T>
struct Memory {
  Memory(const Problem& problem, const Arguments& arguments)
      : additive(problem.score == Score::kAdditive),
        source(problem.source),
        units(problem.memory_units),
        row_size(HasMemoryProducts(problem) ? Gates(problem.cell) * problem.units : problem.memory_units),
        attention_units(problem.attention_units),
        padded_units(PaddedUnits(problem.memory_units, kPanelVectors)),
        padded_attention(PaddedUnits(problem.attention_units, kPanelVectors)),
        fed_units(FedUnits(problem)),
        padded_fed(PaddedUnits(FedUnits(problem), kPanelVectors)),
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

  // The residuals of attention: the queries of all steps, then the contexts of all steps. The queries of the dot score
  // are h, which the outputs hold.
  int64_t QueriesSize(const Problem& problem) const {
    return additive ? problem.time * problem.batch * padded_attention : 0;
  }
  int64_t ContextsSize(const Problem& problem) const { return problem.time * problem.batch * padded_units; }

  const bool additive;
  const int64_t source, units, row_size, attention_units, padded_units, padded_attention, fed_units, padded_fed;
  const int64_t sequences_per_memory;
  const T *const rows, *const keys;
  const bool* const mask;
};

// v . tanh(key + query). `query` and `score_vector`, v, are padded to whole vectors.
template <class T>
inline T AdditiveEnergy(const Memory<T>& memory, const T* query, const T* key, const T* score_vector) {
  Vector<T> sum{};
  for (int64_t unit = 0; unit < memory.attention_units; unit += kLanes<T>) {
    const Vector<T> hidden = Tanh<T>(LoadUnits<T>(key, unit, memory.attention_units) + Load(query + unit));
    sum += hidden * Load(score_vector + unit);
  }
  return SumOf<T>(sum);
}

// sum += the sum of `count` rows of `units` numbers by their weights. Reads the rows in the order in which they lie,
// several at a time: most of them are in a distant cache. `sum` is padded to whole vectors.
template <class T>
inline void AddWeightedRows(const T* weights, const T* rows, int64_t count, int64_t units, T* sum) {
  constexpr int L = kLanes<T>, kRows = 4;
  for (int64_t s = 0; s < count;) {
    const T* row[kRows];
    T weight[kRows];
    int taken = 0;
    for (; s < count && taken < kRows; ++s) {
      if (weights[s] == 0) continue;
      row[taken] = rows + s * units;
      weight[taken++] = weights[s];
    }
    if (taken == kRows) {
      for (int64_t unit = 0; unit < units; unit += L) {
        Vector<T> total = Load(sum + unit);
        for (int r = 0; r < kRows; ++r) total += weight[r] * LoadUnits<T>(row[r], unit, units);
        Store(sum + unit, total);
      }
      continue;
    }
    for (int r = 0; r < taken; ++r) {
      for (int64_t unit = 0; unit < units; unit += L) {
        Store(sum + unit, Load(sum + unit) + weight[r] * LoadUnits<T>(row[r], unit, units));
      }
    }
  }
}

// What attention feeds to the cell in each step: a row of `columns` numbers for each sequence.
template <class T>
struct FedRows {
  const T* Row(int64_t step, int64_t b) const {
    if (step == 0 && initial != nullptr) return initial + b * columns;
    return data + (first + step * step_stride + b * sequence_stride);
  }

  const T* initial = nullptr;  // the rows of the first step, if they are not in `data`
  const T* data = nullptr;
  int64_t first = 0, step_stride = 0, sequence_stride = 0, columns = 0;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_MEMORY_H_
