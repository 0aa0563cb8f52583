// SPDX-License-Identifier: Apache-2.0
#include "dropout.h"

#include "kernel_table.h"

namespace keras_seq {

void DrawMask(const Dropout& dropout, const Executor& executor) { SelectedKernels()->draw(dropout, executor); }

}  // namespace keras_seq
