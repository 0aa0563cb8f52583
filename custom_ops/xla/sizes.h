// SPDX-License-Identifier: Apache-2.0
// The sizes of the axes of a call's tensors. Only check.cc, run.cc and describe.cc use this header.
#ifndef KERAS_SEQ_XLA_SIZES_H_
#define KERAS_SEQ_XLA_SIZES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "xla/call.h"

namespace keras_seq {

// The limit for the elements of any tensor, and of all gates of all steps, so that such products of sizes, also in
// bytes, fit into int64_t.
constexpr int64_t kMaxElements = int64_t{1} << 40;

std::string NameOf(Axis axis, CellKind cell);

// All sizes, in the order of their declaration.
std::vector<int64_t> ListOf(const Sizes& sizes);

// The sizes with zeros for attention if the op does not attend.
Sizes WithoutAttention(const Operation& operation, Sizes sizes);

// The sizes that the size of an axis depends on.
std::vector<int64_t*> PartsOf(Axis axis, Sizes* sizes);

// The size of an axis, or kUnknown. That of residuals depends on all sizes and on the element type.
int64_t SizeOf(Axis axis, const Call& call, const Sizes& sizes, Element element);

// Learns sizes from the size of an axis. Returns false if it contradicts what is known.
bool Bind(Axis axis, int64_t size, const Call& call, Element element, Sizes* sizes);

// Whether all tensors that follow from the known sizes are within kMaxElements.
bool SizesFit(const Call& call, const Sizes& sizes);

Problem ProblemOf(const Call& call, const Sizes& sizes, Element element);

}  // namespace keras_seq

#endif  // KERAS_SEQ_XLA_SIZES_H_
