// SPDX-License-Identifier: Apache-2.0
// Products over all steps, from which the gradients of what all steps of an attention share follow.
#ifndef KERAS_SEQ_KERNELS_ISA_STEP_SUMS_H_
#define KERAS_SEQ_KERNELS_ISA_STEP_SUMS_H_

#include "../workspace.h"
#include "packing.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// Rows of all steps are (time, batch).
template <class T>
class StepSums {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;

 public:
  static constexpr int kTile = kOuterRows<kPanelVectors>;

  explicit StepSums(const Problem& problem) : problem_(problem), source_(problem.source) {}

  void Allocate(Workspace& workspace) {
    coefficients_ = workspace.Allocate<T>(problem_.batch * problem_.time * kTile);
  }

  // sums_s = sum_t coefficients(t)[s] right_t for all positions s of sequence b, a few at a time. `right` is the row of
  // its first step, `row_size` numbers long, and `units` of these count.
  template <class Coefficients>
  void SumOverSteps(int64_t b, const Coefficients& coefficients, const T* right, int64_t row_size, int64_t units,
                    T* sums) {
    T* packed = coefficients_ + b * problem_.time * kTile;
    for (int64_t first = 0; first < source_; first += kTile) {
      const int64_t count = Smaller<int64_t>(kTile, source_ - first);
      for (int64_t step = 0; step < problem_.time; ++step) {
        const T* row = coefficients(step) + first;
        for (int64_t r = 0; r < kTile; ++r) packed[step * kTile + r] = r < count ? row[r] : 0;
      }
      for (int64_t unit = 0; unit < units; unit += kPanelVectors * L) {
        alignas(64) T tile[kTile * kPanelVectors * L] = {};
        const StridedRows<T> rows{right + unit, problem_.batch * row_size};
        OuterTile<kTile, kPanelVectors>(packed, rows, problem_.time, L, tile);
        for (int64_t r = 0; r < count; ++r) {
          StoreRow(tile + r * kPanelVectors * L, sums + (first + r) * units, unit, units);
        }
      }
    }
  }

  // Packs the rows of a step, of `units` numbers each, into (tiles of units, all rows, kTile). `load(b, unit)` is a
  // vector of a row.
  template <class LoadRow>
  void PackStep(int64_t step, int64_t units, T* packed, const LoadRow& load) {
    const int64_t rows = problem_.time * problem_.batch;
    for (int64_t b = 0; b < problem_.batch; ++b) {
      for (int64_t unit = 0; unit < units; unit += L) {
        const V row = load(b, unit);
        for (int64_t lane = 0; lane < L; ++lane) {
          const int64_t at = unit + lane;
          if (at >= CeilDiv(units, kTile) * kTile) break;
          packed[(at / kTile * rows + Row(step, b)) * kTile + at % kTile] = row[lane];
        }
      }
      // The last tile may reach beyond the vectors.
      for (int64_t at = CeilDiv(units, L) * L; at < CeilDiv(units, kTile) * kTile; ++at) {
        packed[(at / kTile * rows + Row(step, b)) * kTile + at % kTile] = 0;
      }
    }
  }

  // A tile of the gradient of a kernel (left_units, units), the product of packed rows and of rows `row_size` apart.
  void WeightGradients(int64_t tile, int64_t panel, const T* left, int64_t left_units, const T* right,
                       int64_t row_size, int64_t units, T* d_kernel) {
    alignas(64) T sums[kTile * kPanelVectors * L] = {};
    const int64_t rows = problem_.time * problem_.batch, unit = panel * kPanelVectors * L;
    OuterTile<kTile, kPanelVectors>(left + tile * rows * kTile, StridedRows<T>{right + unit, row_size}, rows, L, sums);
    for (int64_t r = 0; r < Smaller<int64_t>(kTile, left_units - tile * kTile); ++r) {
      StoreRow(sums + r * kPanelVectors * L, d_kernel + (tile * kTile + r) * units, unit, units);
    }
  }

  // The sum of the rows (units) of all sequences, `row_size` apart, unless `sum` is null.
  void SumOverSequences(int64_t units, int64_t row_size, const T* rows, void* sum) const {
    if (sum == nullptr) return;
    for (int64_t unit = 0; unit < units; unit += L) {
      V total{};
      for (int64_t b = 0; b < problem_.batch; ++b) total += Load(rows + b * row_size + unit);
      StoreFirst(static_cast<T*>(sum) + unit, total, units - unit);
    }
  }

 private:
  int64_t Row(int64_t step, int64_t b) const { return step * problem_.batch + b; }

  static void StoreRow(const T* sums, T* row, int64_t unit, int64_t units) {
    for (int v = 0; v < kPanelVectors && unit + v * L < units; ++v) {
      StoreFirst(row + unit + v * L, Load(sums + v * L), units - unit - v * L);
    }
  }

  const Problem& problem_;
  const int64_t source_;
  T* coefficients_ = nullptr;  // (batch, time, kTile)
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_STEP_SUMS_H_
