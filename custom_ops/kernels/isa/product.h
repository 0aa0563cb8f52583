// SPDX-License-Identifier: Apache-2.0
// A matrix product with a packed right operand.
#ifndef KERAS_SEQ_KERNELS_ISA_PRODUCT_H_
#define KERAS_SEQ_KERNELS_ISA_PRODUCT_H_

#include "../packed_weights.h"
#include "../team.h"
#include "attention_memory.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class T>
class ProductPass {
  static constexpr int L = kLanes<T>, kColumns = kPanelVectors * L;

 public:
  explicit ProductPass(const Product& product)
      : product_(product),
        panels_(PanelCount(kPlainColumns, product.columns, L)),
        panel_size_(PanelSize<T>(product.depth, kPanelVectors)) {}

  // Packs the kernel into `packed`.
  bool Pack(PackedWeights* packed) {
    T* kernel = packed->workspace.Allocate<T>(panels_ * panel_size_);
    if (!packed->workspace.ok()) return false;
    PackRows<kPlainColumns>(static_cast<const T*>(product_.kernel), product_.depth, product_.depth, product_.columns, 1,
                            0, product_.depth, kernel);
    packed->kernel = kernel;
    return true;
  }

  // The program of every worker.
  void Run(Worker& worker, const PackedWeights& packed) const {
    const T* kernel = static_cast<const T*>(packed.kernel);
    const int64_t blocks = CeilDiv(product_.rows, kRowBlock);
    worker.ForEach(panels_ * blocks, [&](int64_t item) {
      const int64_t panel = item / blocks, block = item % blocks;
      const int64_t first = product_.rows * block / blocks, rows = product_.rows * (block + 1) / blocks - first;
      MultiplyPanel(first, rows, panel, kernel + panel * panel_size_);
    });
  }

 private:
  void MultiplyPanel(int64_t first, int64_t rows, int64_t panel, const T* kernel) const {
    static const T kZeros[kColumns] = {};
    const int64_t column = panel * kColumns, columns = Smaller<int64_t>(kColumns, product_.columns - column);
    const T* left[kRowBlock];
    T* sums[kRowBlock] = {};
    T last[kRowBlock * kColumns];  // the last panel may be wider than what is left of a row
    T* outputs = static_cast<T*>(product_.outputs) + first * product_.columns + column;
    for (int64_t row = 0; row < rows; ++row) {
      left[row] = static_cast<const T*>(product_.inputs) + (first + row) * product_.depth;
      sums[row] = columns == kColumns ? outputs + row * product_.columns : last + row * kColumns;
    }
    MultiplyRows<kPanelVectors>(Rows<T>{left, product_.depth, 0, 1}, rows, kernel, sums, L, kZeros);
    if (columns == kColumns) return;
    for (int64_t row = 0; row < rows; ++row) {
      memcpy(outputs + row * product_.columns, last + row * kColumns, columns * sizeof(T));
    }
  }

  const Product& product_;
  const int64_t panels_, panel_size_;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_PRODUCT_H_
