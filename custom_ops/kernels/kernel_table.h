// SPDX-License-Identifier: Apache-2.0
// The functions that isa/kernels.cc defines for each instruction set.
#ifndef KERAS_SEQ_KERNELS_KERNEL_TABLE_H_
#define KERAS_SEQ_KERNELS_KERNEL_TABLE_H_

#include "recurrence.h"

namespace keras_seq {

// Pointers rather than containers, because templates of the standard library must not be compiled for one instruction
// set: the linker would merge them with those of another.
struct KernelTable {
  // For float32 and float64, and for bfloat16 if `bfloat16` is true.
  bool (*forward)(const Problem&, const Arguments*, const Results*, int64_t directions, const Executor&);
  // For float32 and float64.
  bool (*backward)(const Problem&, const Arguments*, const Results*, const Upstream*, const Gradients*,
                   int64_t directions, const Executor&);
  bool bfloat16;
  // For float32 and float64. Only tests call them.
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

// The kernels of `InstructionSet`; null if there is none.
const KernelTable* SelectedKernels();

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_KERNEL_TABLE_H_
