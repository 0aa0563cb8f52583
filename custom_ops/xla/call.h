// SPDX-License-Identifier: Apache-2.0
// The calls that reach the kernels, whoever makes them: the one table of arguments, their check, and the way from flat
// lists of tensors to the structures of kernels/recurrence.h. No framework; each binding translates into these types.
#ifndef KERAS_SEQ_XLA_CALL_H_
#define KERAS_SEQ_XLA_CALL_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/recurrence.h"

namespace keras_seq {

// What ops there are: X(name, whether it attends, its cell or, where an attribute names the cell, the default). Each
// has a gradient, named with "Grad" after it.
#define KERAS_SEQ_FOR_EACH_OP(X)      \
  X(SimpleRNN, false, kSimpleRNN)     \
  X(GRU, false, kGRU)                 \
  X(LSTM, false, kLSTM)               \
  X(AttentionDecoder, true, kLSTM)

struct Operation {
  const char* name;
  bool attends;
  Cell cell;
};

#define KERAS_SEQ_DECLARE_OPERATION(name, attends, cell) \
  inline constexpr Operation k##name##Operation{#name, attends, Cell::cell};
KERAS_SEQ_FOR_EACH_OP(KERAS_SEQ_DECLARE_OPERATION)
#undef KERAS_SEQ_DECLARE_OPERATION

enum class Pass { kForward, kBackward };
enum class Element { kFloat32, kFloat64, kBFloat16, kBool, kOther };

// What the sizes of an axis stand for.
enum class Axis {
  kBatch,
  kTime,
  kFeatures,
  kUnits,
  kGateUnits,
  kSource,
  kMemoryUnits,
  kAttentionUnits,
  kInputUnits,  // features + memory_units
  kTwo,
  kResiduals
};
using Axes = std::vector<Axis>;

// What decides the element type of an argument: T, the type of the call, or that of the residuals.
enum class Kind { kData, kResiduals, kMask };

constexpr int64_t kUnknown = -1;

// A tensor, as far as it is known: a shape function may know neither rank nor sizes, and has no data.
struct Tensor {
  Element element = Element::kOther;
  bool ranked = true;
  std::vector<int64_t> shape;  // kUnknown where not known
  void* data = nullptr;
};

// An argument or a result of an op: a list of tensors, one for each direction.
struct Slot {
  const char* name;
  const char* count_name;    // the attribute that holds the length of the list
  Kind kind;
  std::vector<Axes> shapes;  // any of them, told apart by their ranks
};

struct Signature {
  std::vector<Slot> inputs, outputs;
};

// The arguments and results of an op, in order. `reset_after` decides the shape of a GRU's bias, nothing else. An op
// that attends has a slot for every state that its cells may have.
Signature SignatureOf(const Operation& operation, Pass pass, bool reset_after = true);

// The names of the attributes that hold lengths of lists: 0 or `directions`; of "directions" itself at least 1, of
// "masks" and "memory_masks" at most 1.
std::vector<const char*> CountNames(const Signature& signature);

// An op and its attributes.
struct Call {
  Operation operation;  // whose cell is that of the call
  Pass pass;
  Activation activation = Activation::kTanh;
  bool reset_after = true;
  bool keep_residuals = false;
  std::vector<bool> reverse;  // of each direction
  Signature signature;
  std::map<std::string, int64_t> counts;            // the attributes that hold lengths of lists, by name
  std::vector<int64_t> input_counts, output_counts;  // a length for each slot
};

struct Sizes {
  int64_t batch = kUnknown, time = kUnknown, features = kUnknown, units = kUnknown;
  // Of attention; 0 where the call has none.
  int64_t source = kUnknown, memory_units = kUnknown, attention_units = kUnknown;
};

// The type of an argument, where that of the call is known.
Element ElementOf(Kind kind, Element data);

// The names of a cell and of an activation, as attributes and names of ops spell them.
const char* NameOf(Cell cell);
const char* NameOf(Activation activation);

// The functions below that return a string return what is wrong, or nothing.

// Makes a call from its attributes. `get(name, pointer)` reads one into an int64_t, a bool, a string or, for `reverse`,
// a vector<bool>, and returns false where it is not there.
template <typename Get>
std::string ReadCall(const Operation& operation, Pass pass, const Get& get, Call* call);

// Checks the inputs against each other and finds what is known of the sizes and of T.
std::string CheckInputs(const Call& call, const std::vector<Tensor>& inputs, Sizes* sizes, Element* element);

// The results that these sizes lead to, with kUnknown where they do not tell.
std::vector<Tensor> Outputs(const Call& call, const Sizes& sizes, Element element);

// Computes the outputs of a call that was checked. Returns false where memory ran out.
bool Run(const Call& call, const Sizes& sizes, Element element, const std::vector<Tensor>& inputs,
         const std::vector<Tensor>& outputs, const Executor& executor);

std::string ToString(const std::vector<int64_t>& shape);

// ResidualSize by the names that Python has; -1 where there is no such call. A `source` of kUnknown is one that does not
// attend.
int64_t ResidualSizeByName(const std::string& cell, const std::string& dtype, const std::string& activation,
                           bool reset_after, const Sizes& sizes);

// Of ReadCall: what is left to do when all attributes are there.
std::string FinishCall(const std::string& activation, Call* call);
std::string FindCell(const std::string& name, Cell* cell);

template <typename Get>
std::string ReadCall(const Operation& operation, Pass pass, const Get& get, Call* call) {
  call->operation = operation;
  call->pass = pass;
  std::string activation = "tanh", cell = NameOf(operation.cell);
  auto read = [&get](const char* name, auto* value) {
    return get(name, value) ? std::string() : "the attribute `" + std::string(name) + "` is missing or of another type";
  };
  const bool any = operation.attends;  // any cell, and so the attributes of all
  std::string error = read("reverse", &call->reverse);
  if (error.empty()) error = read("keep_residuals", &call->keep_residuals);
  if (error.empty() && any) error = read("cell", &cell);
  if (error.empty() && (any || operation.cell == Cell::kSimpleRNN)) error = read("activation", &activation);
  if (error.empty() && (any || operation.cell == Cell::kGRU)) error = read("reset_after", &call->reset_after);
  if (error.empty() && any) error = FindCell(cell, &call->operation.cell);
  call->signature = SignatureOf(call->operation, pass, call->reset_after);
  for (const char* name : CountNames(call->signature)) {
    if (error.empty()) error = read(name, &call->counts[name]);
  }
  return error.empty() ? FinishCall(activation, call) : error;
}

}  // namespace keras_seq

#endif  // KERAS_SEQ_XLA_CALL_H_
