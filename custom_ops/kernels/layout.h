// SPDX-License-Identifier: Apache-2.0
// How large residuals are. Their layout is the same for every instruction set, because they outlive a call: the caller
// allocates them for the forward pass and hands them to the backward pass.
//
// The functions are `static`, so that every translation unit has its own copy. The linker would merge plain inline
// functions of units compiled for different instruction sets, and might keep one that this CPU cannot run.
#ifndef KERAS_SEQ_KERNELS_LAYOUT_H_
#define KERAS_SEQ_KERNELS_LAYOUT_H_

#include <cstdint>

namespace keras_seq {

constexpr int kWidth = 16;        // units in a slot
constexpr int kPanelVectors = 4;  // vectors of columns in a panel, where all columns belong to one gate

// The units of a row of slots, padding included. `unit_vectors` is how many vectors of units a panel of the cell holds:
// 1 where a panel holds several gates of the same units, else `kPanelVectors`.
static constexpr int64_t PaddedUnits(int64_t units, int unit_vectors) {
  const int64_t multiple = unit_vectors * kWidth;
  return (units + multiple - 1) / multiple * multiple;
}

// The elements of residuals for one step of one sequence: the slots of the cell, the query and the context. The sizes
// of attention are zero where there is none.
static constexpr int64_t ResidualRowSize(int residual_slots, int unit_vectors, int64_t units, int64_t attention_units,
                                         int64_t memory_units) {
  return residual_slots * PaddedUnits(units, unit_vectors) + PaddedUnits(attention_units, kPanelVectors) +
         PaddedUnits(memory_units, kPanelVectors);
}

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_LAYOUT_H_
