// SPDX-License-Identifier: Apache-2.0
// What each instruction set's translation unit offers.
#ifndef KERAS_SEQ_KERNELS_KERNEL_TABLE_H_
#define KERAS_SEQ_KERNELS_KERNEL_TABLE_H_

#include "recurrence.h"

namespace keras_seq {

// Pointers rather than containers: these functions are compiled per instruction set.
struct KernelTable {
  // float32 and float64, and bfloat16 where `bfloat16` says so.
  bool (*forward)(const Problem&, const Arguments*, const Results*, int64_t directions, const Executor&);
  // float32 and float64.
  bool (*backward)(const Problem&, const Arguments*, const Results*, const Upstream*, const Gradients*,
                   int64_t directions, const Executor&);
  bool bfloat16;
  // Of float32 and float64; for the tests of accuracy.
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

// The one that `InstructionSet` names. Must not be null.
const KernelTable* SelectedKernels();

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_KERNEL_TABLE_H_
