// SPDX-License-Identifier: Apache-2.0
// The functions that each instruction set's translation unit offers.
#ifndef KERAS_SEQ_KERNELS_KERNEL_TABLE_H_
#define KERAS_SEQ_KERNELS_KERNEL_TABLE_H_

#include "crossentropy.h"
#include "dropout.h"
#include "recurrence.h"

namespace keras_seq {

// Pointers rather than containers: these functions are compiled per instruction set.
struct KernelTable {
  // Passes are for float32 and float64, and for bfloat16 without attention if `bfloat16` is true.
  bool (*forward)(const Problem&, const Arguments*, const Results*, int64_t direction_count, const Executor&);
  bool (*pack)(const Problem&, const Arguments&, const Executor&, PackedWeights*);
  bool (*pack_product)(const Product&, PackedWeights*);
  bool (*multiply)(const Product&, const PackedWeights&, const Executor&);
  bool (*backward)(const Problem&, const Arguments*, const Results*, const Upstream*, const Gradients*,
                   int64_t direction_count, const Executor&);
  void (*draw)(const Dropout&, const Executor&);
  void (*crossentropy)(const Crossentropy&, const Executor&);
  bool bfloat16;
  // For the tests. `residual_size` is `ResidualSize` as the layout of the kernels has it; the others measure accuracy
  // in float32 and float64.
  int64_t (*residual_size)(const Problem&);
  void (*sigmoid)(const void* from, void* to, int64_t count, DataType dtype);
  void (*tanh)(const void* from, void* to, int64_t count, DataType dtype);
};

namespace portable {
const KernelTable& Kernels();
}
namespace avx2 {
const KernelTable& Kernels();
}
namespace avx512 {
const KernelTable& Kernels();
}
namespace avx512_bf16 {
const KernelTable& Kernels();
}

// The functions of the instruction set that `InstructionSet` names, which must not be null.
const KernelTable* SelectedKernels();

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_KERNEL_TABLE_H_
