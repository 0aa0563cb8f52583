// SPDX-License-Identifier: Apache-2.0
// The one table of cells. To add a cell, add a row here and its equations in isa/cells.h.
#ifndef KERAS_SEQ_KERNELS_CELL_TABLE_H_
#define KERAS_SEQ_KERNELS_CELL_TABLE_H_

namespace keras_seq {

// X(fields of CellTraits), with the name as an identifier.
#define KERAS_SEQ_FOR_EACH_CELL(X)                                                                       \
  /* name    gates  states  unit_vectors  has_gates  has_reset_after  two_biases  residual_slots (2) */ \
  X(SimpleRNN, 1,     1,         4,         false,        false,         false,        1, 1)             \
  X(GRU,       3,     1,         1,         true,         true,          true,         4, 3)             \
  X(LSTM,      4,     2,         1,         true,         false,         false,        5, 5)             \
  X(MGU,       2,     1,         1,         true,         false,         false,        2, 2)

enum class CellKind {
#define KERAS_SEQ_CELL_KIND(name, ...) k##name,
  KERAS_SEQ_FOR_EACH_CELL(KERAS_SEQ_CELL_KIND)
#undef KERAS_SEQ_CELL_KIND
};

struct CellTraits {
  const char* name;      // the name of its op, and of the cell in the attribute `cell`
  int gates;             // blocks of `units` columns in its kernels
  int states;            // 1 (h) or 2 (h, c)
  int unit_vectors;      // vectors of units in a panel of its kernels: 1 or 4
  bool has_gates;        // whether its op has the attribute `recurrent_activation`
  bool has_reset_after;  // whether its op has the attribute `reset_after`
  bool two_biases;       // an input and a recurrent bias; if it has `reset_after`, only where that is true
  int residual_slots;    // slots that a step leaves in the residuals
  int residual_slots_reset_before;  // the same if `reset_after` is false

  constexpr bool HasTwoBiases(bool reset_after) const { return two_biases && (reset_after || !has_reset_after); }

  // With layer normalization the products of each gate with both kernels are kept too, with a projection what it reads.
  constexpr int ResidualSlots(bool reset_after, bool layer_norm, bool projects) const {
    return (reset_after ? residual_slots : residual_slots_reset_before) + (layer_norm ? 2 * gates : 0) + projects;
  }
};

// In the order of CellKind.
inline constexpr CellTraits kCells[] = {
#define KERAS_SEQ_CELL_TRAITS(name, ...) {#name, __VA_ARGS__},
    KERAS_SEQ_FOR_EACH_CELL(KERAS_SEQ_CELL_TRAITS)
#undef KERAS_SEQ_CELL_TRAITS
};

constexpr const CellTraits& TraitsOf(CellKind cell) { return kCells[static_cast<int>(cell)]; }

// The extra weights that cells may have. Each is optional, as the bias is. X(identifier, name).
#define KERAS_SEQ_FOR_EACH_EXTRA_WEIGHT(X) \
  X(PeepholeKernel, peephole_kernel)       \
  X(ProjectionKernel, projection_kernel)   \
  X(InputGamma, input_gamma)               \
  X(RecurrentGamma, recurrent_gamma)       \
  X(StateGamma, state_gamma)               \
  X(StateBeta, state_beta)

enum ExtraWeight : int {  // indices of arrays
#define KERAS_SEQ_EXTRA_WEIGHT(identifier, name) k##identifier,
  KERAS_SEQ_FOR_EACH_EXTRA_WEIGHT(KERAS_SEQ_EXTRA_WEIGHT)
#undef KERAS_SEQ_EXTRA_WEIGHT
  kExtraWeightCount
};

struct ExtraWeightTraits {
  ExtraWeight weight;
  const char *name, *gradient;  // the argument of an op, and the result of its gradient op
  const char *count, *wanted;   // the attributes that hold the lengths of these lists
};

// In the order of ExtraWeight.
inline constexpr ExtraWeightTraits kExtraWeights[] = {
#define KERAS_SEQ_EXTRA_WEIGHT(identifier, name) \
  {k##identifier, #name, "d_" #name, #name "s", "wanted_" #name "s"},
    KERAS_SEQ_FOR_EACH_EXTRA_WEIGHT(KERAS_SEQ_EXTRA_WEIGHT)
#undef KERAS_SEQ_EXTRA_WEIGHT
};

constexpr bool HasExtraWeight(CellKind cell, ExtraWeight weight) {
  switch (weight) {
    case kPeepholeKernel:
    case kProjectionKernel:
    case kStateGamma:
    case kStateBeta:
      return cell == CellKind::kLSTM;
    case kInputGamma:
    case kRecurrentGamma:
      return cell == CellKind::kLSTM || cell == CellKind::kGRU;
    case kExtraWeightCount:
      break;
  }
  return false;
}

enum class Activation { kTanh, kRelu, kLinear, kSigmoid, kHardSigmoid };

// In the order of Activation. The names of Keras.
inline constexpr const char* kActivationNames[] = {"tanh", "relu", "linear", "sigmoid", "hard_sigmoid"};

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_CELL_TABLE_H_
