// SPDX-License-Identifier: Apache-2.0
// Calls of the kernels, for every framework: the one table of arguments, their check, and the way from flat lists of
// tensors to the structs of kernels/recurrence.h. It knows no framework; each binding translates into these types.
//
//   signature.cc  the arguments and results of every op      check.cc  checks tensors and finds the sizes
//   describe.cc   the same as JSON, for Python               sizes.cc  the sizes of axes
//   call.cc       reads the attributes of a call             run.cc    runs the kernels
#ifndef KERAS_SEQ_XLA_CALL_H_
#define KERAS_SEQ_XLA_CALL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/recurrence.h"

namespace keras_seq {

// X(name, ...) for each op: one for each cell, with its traits, and one that attends. Each has a gradient op, with the
// same name and "Grad" after it.
#define KERAS_SEQ_FOR_EACH_OP(X) \
  KERAS_SEQ_FOR_EACH_CELL(X)     \
  X(AttentionDecoder)

struct Operation {
  const char* name;
  bool attends;
  CellKind cell;  // if the op attends, an attribute names the cell, and this is the default
};

#define KERAS_SEQ_CELL_OPERATION(name, ...) \
  inline constexpr Operation k##name##Operation{#name, false, CellKind::k##name};
KERAS_SEQ_FOR_EACH_CELL(KERAS_SEQ_CELL_OPERATION)
#undef KERAS_SEQ_CELL_OPERATION
inline constexpr Operation kAttentionDecoderOperation{"AttentionDecoder", true, CellKind::kLSTM};

// Whether an op has these attributes, which choose the equations of its cell. An op that attends has all of them.
struct CellAttributes {
  bool cell, recurrent_activation, reset_after;  // beside `activation`, which every op has
};
CellAttributes CellAttributesOf(const Operation& operation);

// An attribute that chooses the attention of an op that attends.
struct AttentionAttribute {
  const char* name;
  std::vector<std::string> values;  // the first one is the default
};
const std::vector<AttentionAttribute>& AttentionAttributes();

enum class Pass { kForward, kBackward };
enum class Element { kFloat32, kFloat64, kBFloat16, kBool, kOther };

// What an axis of a tensor counts.
enum class Axis {
  kBatch,
  kTime,
  kFeatures,
  kUnits,
  kHiddenUnits,  // of h: of a projected state those of the projection, else `units`
  kGateUnits,
  kMemories,  // batch, or a divisor of it: neighbouring sequences then share a memory
  kSource,
  kMemoryUnits,
  kAttentionUnits,
  kInputUnits,  // features + memory_units
  kFedUnits,
  kFedInputUnits,     // features + fed_units
  kAttentionalUnits,  // units + memory_units, and the same with the units of a projected h:
  kAttentionalHiddenUnits,
  kTwo,
  kThree,
  kResiduals
};
using Axes = std::vector<Axis>;

// What decides the element type of an argument: kData has that of the call (T), kResiduals the one that follows from it
// (R: float64 for float64, else float32), kMask is bool.
enum class Kind { kData, kResiduals, kMask };

constexpr int64_t kUnknown = -1;

// A tensor. A shape function may not know rank and sizes, and has no data.
struct Tensor {
  Element element = Element::kOther;
  bool ranked = true;
  std::vector<int64_t> shape;  // kUnknown where a size is not known
  void* data = nullptr;
};

// An argument or a result of an op: a list of tensors, usually one for each direction.
struct ArgumentSpec {
  const char* name;
  const char* count_name;    // the attribute that holds the length of the list
  Kind kind;
  std::vector<Axes> shapes;  // the shapes that are allowed; they differ in rank
};

struct Signature {
  std::vector<ArgumentSpec> inputs, outputs;
};

// The arguments and results of an op, in order. `reset_after` only decides the shape of the bias. An op that attends
// has lists for every state that a cell may have.
Signature SignatureOf(const Operation& operation, Pass pass, bool reset_after = true);

// Changes the signature of a forward pass to that of a call without kernels: inputs, and memory unless the call attends
// after the cell, are then products with the kernel, (..., gates * units), without the bias.
void TakeProducts(bool attends_after, Signature* signature);

// Changes the signature of an op that attends to that of a call whose keys are compared with h itself, or that has an
// attentional kernel, or that has none.
void CompareKeysWithHidden(Signature* signature);
void FeedAttentionalVectors(Signature* signature);
void FeedContexts(Signature* signature);
// Changes a signature to that of a call without a projection, where h has `units`.
void OmitProjection(Signature* signature);

// The names of the attributes that hold lengths of lists. Each is 0 or `directions`, except that "directions" itself is
// at least 1, and "masks" and "memory_masks" at most 1.
std::vector<const char*> CountNames(const Signature& signature);

// The signatures of all ops and their gradients, and the states of all cells, as JSON.
const std::string& DescribeOps();

// An op and its attributes.
struct Call {
  Operation operation;  // with the cell of this call
  Pass pass;
  Activation activation = Activation::kTanh;
  Activation recurrent_activation = Activation::kSigmoid;
  bool reset_after = true;
  // Of an op that attends:
  Score score = Score::kAdditive;
  Weighting weighting = Weighting::kSoftmax;
  bool attends_after = false, attentional = false, linear = false, covers = false;
  std::map<std::string, std::string> attention_attributes;
  bool keep_residuals = false;
  std::vector<bool> reverse;  // for each direction
  Signature signature;
  std::map<std::string, int64_t> counts;             // the attributes that hold lengths of lists, by name
  std::vector<int64_t> input_counts, output_counts;  // the length of each list of the signature
  bool multiplied = false;  // whether the call has no kernels: see `TakeProducts`
  bool layer_norm = false, projects = false;  // whether the call has gains, and a projection kernel
};

struct Sizes {
  int64_t batch = kUnknown, time = kUnknown, features = kUnknown, units = kUnknown;
  int64_t source = kUnknown, memory_units = kUnknown, attention_units = kUnknown;  // 0 if the call does not attend
  int64_t memories = kUnknown;                                                     // likewise
  int64_t hidden_units = kUnknown;  // 0 if the call does not project
  int64_t fed_units = kUnknown;  // 0 if the call has no attentional kernel
};

// The packed weights of each direction of a call, or nothing.
using PackedCall = std::vector<std::shared_ptr<const PackedWeights>>;

// The element type of an argument in a call of type `data`.
Element ElementOf(Kind kind, Element data);

const char* NameOf(CellKind cell);
const char* NameOf(Activation activation);

// The functions below that return a string return an error message, or "" if all is well.

// Makes a call from its attributes. `get(name, pointer)` reads one into an int64_t, a bool, a string or, for `reverse`,
// a vector<bool>, and returns false if there is none of this type.
template <typename Get>
std::string ReadCall(const Operation& operation, Pass pass, const Get& get, Call* call);

// Checks the inputs against each other, and finds the sizes and the element type of the call as far as they are known.
std::string CheckInputs(const Call& call, const std::vector<Tensor>& inputs, Sizes* sizes, Element* element);

// The results of a call with these sizes, without data; sizes that do not follow from them are kUnknown.
std::vector<Tensor> Outputs(const Call& call, const Sizes& sizes, Element element);

// Computes the outputs of a call whose inputs were checked. `packed` is what `PackCall` made of the same weights, or
// empty. Returns false if memory ran out.
bool RunCall(const Call& call, const Sizes& sizes, Element element, const std::vector<Tensor>& inputs,
             const std::vector<Tensor>& outputs, const PackedCall& packed, const Executor& executor);

// Packs the weights of a call whose inputs were checked. Returns nothing if memory ran out.
PackedCall PackCall(const Call& call, const Sizes& sizes, Element element, const std::vector<Tensor>& inputs,
                    const Executor& executor);

// Whether an input is one of those that `PackCall` reads.
bool IsWeight(const ArgumentSpec& input);

std::string ToString(const std::vector<int64_t>& shape);

// ResidualSize for a cell and a type given by name; -1 if there is no such call. `sizes.source` is kUnknown if the call
// does not attend, `sizes.hidden_units` if it does not project.
int64_t ResidualSizeByName(const std::string& cell, const std::string& dtype, bool reset_after, bool layer_norm,
                           const Sizes& sizes);

// The parts of ReadCall that are not templates. FinishCall checks the attributes once all have been read.
std::string FindCell(const std::string& name, CellKind* cell);
std::string FindActivation(const char* attribute, const std::string& name, Activation* activation);
std::string FinishAttention(Call* call);
std::string FinishCall(Call* call);

template <typename Get>
std::string ReadCall(const Operation& operation, Pass pass, const Get& get, Call* call) {
  call->operation = operation;
  call->pass = pass;
  std::string activation = NameOf(call->activation), recurrent_activation = NameOf(call->recurrent_activation);
  std::string cell = NameOf(operation.cell);
  auto read = [&get](const char* name, auto* value) {
    return get(name, value) ? std::string() : "the attribute `" + std::string(name) + "` is missing or of another type";
  };
  const CellAttributes has = CellAttributesOf(operation);
  std::string error = read("reverse", &call->reverse);
  if (error.empty()) error = read("keep_residuals", &call->keep_residuals);
  if (error.empty() && has.cell) error = read("cell", &cell);
  if (error.empty()) error = read("activation", &activation);
  if (error.empty() && has.recurrent_activation) error = read("recurrent_activation", &recurrent_activation);
  if (error.empty() && has.reset_after) error = read("reset_after", &call->reset_after);
  for (const AttentionAttribute& attribute : AttentionAttributes()) {
    if (error.empty() && operation.attends) error = read(attribute.name, &call->attention_attributes[attribute.name]);
  }
  if (error.empty() && has.cell) error = FindCell(cell, &call->operation.cell);
  if (error.empty()) error = FindActivation("activation", activation, &call->activation);
  if (error.empty()) {
    error = FindActivation("recurrent_activation", recurrent_activation, &call->recurrent_activation);
  }
  call->signature = SignatureOf(call->operation, pass, call->reset_after);
  for (const char* name : CountNames(call->signature)) {
    if (error.empty()) error = read(name, &call->counts[name]);
  }
  if (error.empty() && operation.attends) error = FinishAttention(call);
  return error.empty() ? FinishCall(call) : error;
}

}  // namespace keras_seq

#endif  // KERAS_SEQ_XLA_CALL_H_
