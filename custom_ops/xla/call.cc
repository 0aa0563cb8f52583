// SPDX-License-Identifier: Apache-2.0
#include "xla/call.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>

namespace keras_seq {
namespace {

constexpr int64_t kMaxDirections = 32;  // `reverse` travels to XLA as the bits of an integer
// Of any tensor, and of all gates of all steps: products of sizes fit into int64_t, and into bytes.
constexpr int64_t kMaxElements = int64_t{1} << 40;

int64_t KnownSize(Axis axis, Cell cell, const Sizes& sizes) {
  switch (axis) {
    case Axis::kBatch:
      return sizes.batch;
    case Axis::kTime:
      return sizes.time;
    case Axis::kFeatures:
      return sizes.features;
    case Axis::kUnits:
      return sizes.units;
    case Axis::kGateUnits:
      return sizes.units == kUnknown ? kUnknown : Gates(cell) * sizes.units;
    case Axis::kSource:
      return sizes.source;
    case Axis::kMemoryUnits:
      return sizes.memory_units;
    case Axis::kAttentionUnits:
      return sizes.attention_units;
    case Axis::kInputUnits:
      return sizes.features == kUnknown || sizes.memory_units == kUnknown ? kUnknown
                                                                           : sizes.features + sizes.memory_units;
    case Axis::kTwo:
      return 2;
    case Axis::kResiduals:
      break;
  }
  return kUnknown;
}

std::vector<int64_t> ListOf(const Sizes& sizes) {
  return {sizes.batch, sizes.time,         sizes.features,       sizes.units,
          sizes.source, sizes.memory_units, sizes.attention_units};
}

// With what a call that does not attend has none of.
Sizes Completed(const Operation& operation, Sizes sizes) {
  if (!operation.attends) sizes.source = sizes.memory_units = sizes.attention_units = 0;
  return sizes;
}

bool AllKnown(const Sizes& sizes) {
  const std::vector<int64_t> list = ListOf(sizes);
  return std::find(list.begin(), list.end(), kUnknown) == list.end();
}

DataType TypeOf(Element element) {
  if (element == Element::kFloat64) return DataType::kFloat64;
  return element == Element::kBFloat16 ? DataType::kBFloat16 : DataType::kFloat32;
}

Problem ProblemOf(const Call& call, const Sizes& sizes, Element element) {
  Problem problem = {};
  problem.cell = call.operation.cell;
  problem.dtype = TypeOf(element);
  problem.activation = call.activation;
  problem.reset_after = call.reset_after;
  problem.batch = sizes.batch;
  problem.time = sizes.time;
  problem.features = sizes.features;
  problem.units = sizes.units;
  problem.attends = call.operation.attends;
  problem.source = sizes.source;
  problem.memory_units = sizes.memory_units;
  problem.attention_units = sizes.attention_units;
  return problem;
}

// The size of an axis of an argument or result; that of residuals depends on all the others.
int64_t SizeOf(Axis axis, const Call& call, const Sizes& sizes, Element element) {
  if (axis != Axis::kResiduals) return KnownSize(axis, call.operation.cell, sizes);
  if (!call.keep_residuals) return 0;
  if (!AllKnown(sizes) || element == Element::kOther) return kUnknown;
  return ResidualSize(ProblemOf(call, sizes, element));
}

// The sizes that the size of an axis depends on.
std::vector<int64_t*> PartsOf(Axis axis, Sizes* sizes) {
  switch (axis) {
    case Axis::kBatch:
      return {&sizes->batch};
    case Axis::kTime:
      return {&sizes->time};
    case Axis::kFeatures:
      return {&sizes->features};
    case Axis::kUnits:
    case Axis::kGateUnits:
      return {&sizes->units};
    case Axis::kSource:
      return {&sizes->source};
    case Axis::kMemoryUnits:
      return {&sizes->memory_units};
    case Axis::kAttentionUnits:
      return {&sizes->attention_units};
    case Axis::kInputUnits:
      return {&sizes->features, &sizes->memory_units};
    case Axis::kResiduals:
      return {&sizes->batch, &sizes->time, &sizes->units, &sizes->memory_units, &sizes->attention_units};
    case Axis::kTwo:
      break;
  }
  return {};
}

// Makes `size` that of the axis, or returns false where another one is known.
bool Bind(Axis axis, int64_t size, const Call& call, Element element, Sizes* sizes) {
  const int64_t known = SizeOf(axis, call, *sizes, element);
  if (size == kUnknown || size == known) return true;
  if (known != kUnknown || size < 0 || size > kMaxElements) return false;
  if (axis == Axis::kGateUnits) {
    if (size % Gates(call.operation.cell)) return false;
    sizes->units = size / Gates(call.operation.cell);
  } else if (axis == Axis::kInputUnits) {
    if (sizes->features == kUnknown) return true;
    if (size < sizes->features) return false;
    sizes->memory_units = size - sizes->features;
  } else if (axis != Axis::kResiduals) {
    for (int64_t* part : PartsOf(axis, sizes)) *part = size;
  }
  return true;
}

bool IsData(Element element) {
  return element == Element::kFloat32 || element == Element::kFloat64 || element == Element::kBFloat16;
}

const char* NameOf(Element element) {
  switch (element) {
    case Element::kFloat32:
      return "float32";
    case Element::kFloat64:
      return "float64";
    case Element::kBFloat16:
      return "bfloat16";
    case Element::kBool:
      return "bool";
    case Element::kOther:
      break;
  }
  return "another type";
}

std::string NameOf(Axis axis, Cell cell) {
  switch (axis) {
    case Axis::kBatch:
      return "batch";
    case Axis::kTime:
      return "time";
    case Axis::kFeatures:
      return "features";
    case Axis::kUnits:
      return "units";
    case Axis::kGateUnits:
      return Gates(cell) == 1 ? "units" : std::to_string(Gates(cell)) + " * units";
    case Axis::kSource:
      return "source";
    case Axis::kMemoryUnits:
      return "memory_units";
    case Axis::kAttentionUnits:
      return "attention_units";
    case Axis::kInputUnits:
      return "features + memory_units";
    case Axis::kTwo:
      return "2";
    case Axis::kResiduals:
      break;
  }
  return "residuals";
}

std::string Parenthesised(const std::vector<std::string>& items) {
  std::string text = "(";
  for (size_t i = 0; i < items.size(); ++i) text += (i ? ", " : "") + items[i];
  return text + (items.size() == 1 ? ",)" : ")");
}

std::string Expected(const Slot& slot, const Call& call, const Sizes& sizes, Element element) {
  std::string text;
  for (const Axes& axes : slot.shapes) {
    std::vector<std::string> names;
    std::vector<int64_t> shape;
    for (Axis axis : axes) {
      names.push_back(NameOf(axis, call.operation.cell));
      shape.push_back(SizeOf(axis, call, sizes, element));
    }
    text += (text.empty() ? "" : " or ") + Parenthesised(names) + " = " + ToString(shape);
  }
  return text;
}

// Checks one tensor and learns sizes from it.
std::string CheckTensor(const Slot& slot, int64_t index, const Tensor& tensor, const Call& call, Sizes* sizes,
                        Element* element) {
  auto name = [&] { return "`" + std::string(slot.name) + "[" + std::to_string(index) + "]`"; };
  if (*element == Element::kOther && slot.kind == Kind::kData) {
    if (!IsData(tensor.element)) {
      return name() + " must be of float32, float64 or bfloat16. Received: " + NameOf(tensor.element);
    }
    *element = tensor.element;
  }
  const Element expected = ElementOf(slot.kind, *element);
  if (tensor.element != expected) {
    return name() + " must be of " + NameOf(expected) + ". Received: " + NameOf(tensor.element);
  }
  if (!tensor.ranked) return "";
  Sizes learnt = *sizes;
  bool good = false;
  for (const Axes& axes : slot.shapes) {
    if (axes.size() != tensor.shape.size()) continue;
    good = true;
    for (size_t i = 0; i < axes.size() && good; ++i) good = Bind(axes[i], tensor.shape[i], call, *element, &learnt);
  }
  if (!good) {
    return name() + " must have the shape " + Expected(slot, call, *sizes, *element) +
           ". Received: " + ToString(tensor.shape);
  }
  *sizes = learnt;
  return "";
}

// Whether the product of the known sizes is within the limit; a zero among them must not hide that others are huge.
bool Fits(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) {
    size = std::max<int64_t>(size, 1);
    if (size > kMaxElements / product) return false;
    product *= size;
  }
  return true;
}

bool SizesFit(const Call& call, const Sizes& sizes) {
  const int64_t gate_units = KnownSize(Axis::kGateUnits, call.operation.cell, sizes);
  const int64_t memory = std::max(sizes.memory_units, sizes.attention_units);
  return Fits({sizes.batch, sizes.time, std::max({sizes.features, gate_units, sizes.source, memory})}) &&
         Fits({std::max({sizes.features, sizes.units, memory}), std::max(gate_units, sizes.attention_units)}) &&
         Fits({sizes.batch, sizes.source, memory});
}

bool FindActivation(const std::string& name, Activation* activation) {
  for (Activation candidate : {Activation::kTanh, Activation::kRelu, Activation::kLinear}) {
    if (name != NameOf(candidate)) continue;
    *activation = candidate;
    return true;
  }
  return false;
}

// The tensors of a call by the names of their slots.
class Operands {
 public:
  Operands(const std::vector<Slot>& slots, const std::vector<int64_t>& counts, const std::vector<Tensor>& tensors) {
    size_t first = 0;
    for (size_t i = 0; i < slots.size(); ++i) {
      entries_.push_back({slots[i].name, tensors.data() + first, counts[i]});
      first += counts[i];
    }
  }

  // Null where the argument is absent.
  const Tensor* Find(const char* name, int64_t direction) const {
    for (const Entry& entry : entries_) {
      if (!std::strcmp(entry.name, name)) return direction < entry.count ? entry.first + direction : nullptr;
    }
    return nullptr;
  }

  void* Data(const char* name, int64_t direction) const {
    const Tensor* tensor = Find(name, direction);
    return tensor ? tensor->data : nullptr;
  }

  UnitMask Multiplier(const char* name, int64_t direction) const {
    const Tensor* tensor = Find(name, direction);
    return tensor ? UnitMask{tensor->data, tensor->shape.size() == 3} : UnitMask{};
  }

 private:
  struct Entry {
    const char* name;
    const Tensor* first;
    int64_t count;
  };
  std::vector<Entry> entries_;
};

int64_t ElementsOf(const Tensor& tensor) {
  int64_t elements = 1;
  for (int64_t size : tensor.shape) elements *= size;  // at most 2^40, as `CheckInputs` has seen
  return elements;
}

// Copies to `needed` the sizes of those tensors that have elements.
void KeepNeeded(const std::vector<Slot>& slots, const std::vector<int64_t>& counts, const std::vector<Tensor>& tensors,
                Sizes* all, Sizes* needed) {
  size_t next = 0;
  for (size_t i = 0; i < slots.size(); ++i) {
    for (int64_t j = 0; j < counts[i]; ++j) {
      const Tensor& tensor = tensors[next++];
      if (ElementsOf(tensor) == 0) continue;
      for (const Axes& axes : slots[i].shapes) {
        if (axes.size() != tensor.shape.size()) continue;
        for (Axis axis : axes) {
          const std::vector<int64_t*> from = PartsOf(axis, all), to = PartsOf(axis, needed);
          for (size_t part = 0; part < to.size(); ++part) *to[part] = *from[part];
        }
      }
    }
  }
}

// `sizes`, but 0 for axes that only empty tensors have. Such an axis costs no memory and may be huge, like the time of
// (0, 2^40, 8); the kernels would loop over it for nothing.
Sizes NeededSizes(const Call& call, Sizes sizes, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
  Sizes needed{0, 0, 0, 0, 0, 0, 0};
  KeepNeeded(call.signature.inputs, call.input_counts, inputs, &sizes, &needed);
  KeepNeeded(call.signature.outputs, call.output_counts, outputs, &sizes, &needed);
  return needed;
}

// A copy of a mask with bytes of 0 and 1. The original may hold others, such as a NumPy view of 0 and 255, and another
// thread may change it while the kernels count its rows.
class Mask {
 public:
  explicit Mask(const Tensor* tensor) {
    if (tensor == nullptr) return;
    const int64_t size = ElementsOf(*tensor);
    const unsigned char* bytes = static_cast<const unsigned char*>(tensor->data);
    data_.reset(new bool[size]);
    for (int64_t i = 0; i < size; ++i) data_[i] = bytes[i] != 0;
  }

  const bool* data() const { return data_.get(); }  // null where there is no mask

 private:
  std::unique_ptr<bool[]> data_;
};

void* ResidualsOf(const Call& call, const Operands& operands, int64_t direction) {
  static char nothing;  // null would ask for another forward pass, but there are calls whose residuals are empty
  if (!call.keep_residuals) return nullptr;
  void* data = operands.Data("residuals", direction);
  return data ? data : &nothing;
}

Arguments ArgumentsOf(const Call& call, const Operands& inputs, int64_t direction) {
  Arguments arguments = {};
  arguments.reverse = call.reverse[direction];
  arguments.inputs = inputs.Data("inputs", direction);
  arguments.kernel = inputs.Data("kernel", direction);
  arguments.recurrent_kernel = inputs.Data("recurrent_kernel", direction);
  arguments.bias = inputs.Data("bias", direction);
  arguments.initial_state[0] = inputs.Data("initial_h", direction);
  arguments.initial_state[1] = inputs.Data("initial_c", direction);
  arguments.recurrent_dropout_mask = inputs.Multiplier("recurrent_dropout_mask", direction);
  arguments.zoneout[0] = inputs.Multiplier("zoneout_mask_h", direction);
  arguments.zoneout[1] = inputs.Multiplier("zoneout_mask_c", direction);
  arguments.memory = inputs.Data("memory", direction);
  arguments.keys = inputs.Data("keys", direction);
  arguments.query_kernel = inputs.Data("query_kernel", direction);
  arguments.score_vector = inputs.Data("score_vector", direction);
  return arguments;
}

// The results of the forward pass, which it writes and the backward pass reads (not the final states, though).
Results ResultsOf(const Call& call, const Operands& operands, int64_t direction) {
  Results results = {};
  results.outputs = operands.Data("outputs", direction);
  results.final_state[0] = operands.Data("final_h", direction);
  results.final_state[1] = operands.Data("final_c", direction);
  results.residuals = ResidualsOf(call, operands, direction);
  results.attention_weights = operands.Data("attention_weights", direction);
  return results;
}

Upstream UpstreamOf(const Operands& inputs, int64_t direction) {
  Upstream upstream;
  upstream.outputs = inputs.Data("d_outputs", direction);
  upstream.attention_weights = inputs.Data("d_attention_weights", direction);
  upstream.final_state[0] = inputs.Data("d_final_h", direction);
  upstream.final_state[1] = inputs.Data("d_final_c", direction);
  return upstream;
}

Gradients GradientsOf(const Operands& outputs, int64_t direction) {
  Gradients gradients = {};
  gradients.inputs = outputs.Data("d_inputs", direction);
  gradients.kernel = outputs.Data("d_kernel", direction);
  gradients.recurrent_kernel = outputs.Data("d_recurrent_kernel", direction);
  gradients.bias = outputs.Data("d_bias", direction);
  gradients.initial_state[0] = outputs.Data("d_initial_h", direction);
  gradients.initial_state[1] = outputs.Data("d_initial_c", direction);
  gradients.memory = outputs.Data("d_memory", direction);
  gradients.keys = outputs.Data("d_keys", direction);
  gradients.query_kernel = outputs.Data("d_query_kernel", direction);
  gradients.score_vector = outputs.Data("d_score_vector", direction);
  return gradients;
}

}  // namespace

Element ElementOf(Kind kind, Element data) {
  if (kind == Kind::kMask) return Element::kBool;
  if (kind == Kind::kData || data == Element::kOther) return data;
  return data == Element::kFloat64 ? Element::kFloat64 : Element::kFloat32;
}

const char* NameOf(Cell cell) {
  switch (cell) {
    case Cell::kSimpleRNN:
      return "SimpleRNN";
    case Cell::kGRU:
      return "GRU";
    case Cell::kLSTM:
      break;
  }
  return "LSTM";
}

const char* NameOf(Activation activation) {
  switch (activation) {
    case Activation::kTanh:
      return "tanh";
    case Activation::kRelu:
      return "relu";
    case Activation::kLinear:
      break;
  }
  return "linear";
}

std::string ToString(const std::vector<int64_t>& shape) {
  std::vector<std::string> sizes;
  for (int64_t size : shape) sizes.push_back(size == kUnknown ? "?" : std::to_string(size));
  return Parenthesised(sizes);
}

int64_t ResidualSizeByName(const std::string& cell, const std::string& dtype, const std::string& activation,
                           bool reset_after, const Sizes& sizes) {
  Call call = {};
  call.operation.attends = sizes.source != kUnknown;
  Element element = Element::kOther;
  for (Element candidate : {Element::kFloat32, Element::kFloat64, Element::kBFloat16}) {
    if (dtype == NameOf(candidate)) element = candidate;
  }
  call.reset_after = reset_after;
  const bool known = FindCell(cell, &call.operation.cell).empty() && element != Element::kOther &&
                     FindActivation(activation, &call.activation);
  const Sizes all = Completed(call.operation, sizes);
  for (int64_t size : ListOf(all)) {
    if (size < 0 || size > kMaxElements) return -1;
  }
  return known && SizesFit(call, all) ? ResidualSize(ProblemOf(call, all, element)) : -1;
}

std::string FindCell(const std::string& name, Cell* cell) {
  for (Cell candidate : {Cell::kSimpleRNN, Cell::kGRU, Cell::kLSTM}) {
    if (name != NameOf(candidate)) continue;
    *cell = candidate;
    return "";
  }
  return "`cell` must be \"SimpleRNN\", \"GRU\" or \"LSTM\". Received: \"" + name + "\"";
}

// What an op that attends asks of its attributes beside what all ops do.
static std::string CheckAttention(const Call& call) {
  const std::map<std::string, int64_t>& counts = call.counts;
  if (counts.at("directions") != 1) {
    return "`directions` must be 1. Received: " + std::to_string(counts.at("directions"));
  }
  const int64_t cells = States(call.operation.cell) - 1;
  auto expect = [&](const char* name, int64_t expected) {
    const auto found = counts.find(name);
    if (found == counts.end() || found->second == expected) return std::string();
    return "`" + std::string(name) + "` must be " + std::to_string(expected) + " with the cell \"" +
           NameOf(call.operation.cell) + "\". Received: " + std::to_string(found->second);
  };
  std::string error = call.pass == Pass::kForward ? expect("cells", cells) : "";
  if (error.empty()) error = expect("initial_cells", cells * counts.at("initial_states"));
  for (const char* name : {"zoneout_masks_c", "upstream_c", "wanted_initial_cells"}) {
    if (error.empty() && cells == 0) error = expect(name, 0);
  }
  return error;
}

std::string FinishCall(const std::string& activation, Call* call) {
  const char* no_instruction_set;
  if (InstructionSet(&no_instruction_set) == nullptr) return no_instruction_set;
  if (!FindActivation(activation, &call->activation)) {
    return "`activation` must be \"tanh\", \"relu\" or \"linear\". Received: \"" + activation + "\"";
  }
  std::map<std::string, int64_t>& counts = call->counts;
  const int64_t directions = counts["directions"];
  if (directions < 1 || directions > kMaxDirections) {
    return "`directions` must be from 1 to " + std::to_string(kMaxDirections) +
           ". Received: " + std::to_string(directions);
  }
  for (const auto& [name, count] : counts) {
    const int64_t all = name == "masks" || name == "memory_masks" ? 1 : directions;
    if (count == 0 || count == all) continue;
    return "`" + name + "` must be 0 or " + std::to_string(all) + ". Received: " + std::to_string(count);
  }
  if (call->pass == Pass::kBackward && counts["wanted_biases"] > counts["biases"]) {
    return "`wanted_biases` must be 0 where `biases` is 0";
  }
  if (call->operation.attends) {
    const std::string error = CheckAttention(*call);
    if (!error.empty()) return error;
  }
  if (static_cast<int64_t>(call->reverse.size()) != directions) {
    return "`reverse` must have a value for each of the " + std::to_string(directions) +
           " directions. Received: " + std::to_string(call->reverse.size()) + " of them";
  }
  for (const Slot& slot : call->signature.inputs) call->input_counts.push_back(counts[slot.count_name]);
  for (const Slot& slot : call->signature.outputs) call->output_counts.push_back(counts[slot.count_name]);
  return "";
}

std::string CheckInputs(const Call& call, const std::vector<Tensor>& inputs, Sizes* sizes, Element* element) {
  *sizes = Completed(call.operation, {});
  *element = Element::kOther;
  int64_t total = 0;
  for (int64_t count : call.input_counts) total += count;
  if (total != static_cast<int64_t>(inputs.size())) {
    return "there must be " + std::to_string(total) + " inputs. Received: " + std::to_string(inputs.size());
  }
  size_t next = 0;
  for (size_t i = 0; i < call.signature.inputs.size(); ++i) {
    const Slot& slot = call.signature.inputs[i];
    for (int64_t j = 0; j < call.input_counts[i]; ++j) {
      const std::string error = CheckTensor(slot, j, inputs[next++], call, sizes, element);
      if (!error.empty()) return error;
    }
    // Before the residuals, which ask the kernels for their size, all sizes are known; they must not overflow.
    if (!SizesFit(call, *sizes)) {
      const std::string of_attention = call.operation.attends ? ", source, memory_units, attention_units" : "";
      std::vector<int64_t> list = ListOf(*sizes);
      if (!call.operation.attends) list.resize(4);
      return "the sizes batch, time, features, units" + of_attention + " = " + ToString(list) +
             " must give tensors of at most 2^40 elements";
    }
  }
  return "";
}

std::vector<Tensor> Outputs(const Call& call, const Sizes& sizes, Element element) {
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < call.signature.outputs.size(); ++i) {
    const Slot& slot = call.signature.outputs[i];
    Tensor tensor;
    tensor.element = ElementOf(slot.kind, element);
    for (Axis axis : slot.shapes[0]) tensor.shape.push_back(SizeOf(axis, call, sizes, element));
    outputs.insert(outputs.end(), call.output_counts[i], tensor);
  }
  return outputs;
}

bool Run(const Call& call, const Sizes& sizes, Element element, const std::vector<Tensor>& inputs,
         const std::vector<Tensor>& outputs, const Executor& executor) {
  try {
    const Operands in(call.signature.inputs, call.input_counts, inputs);
    const Operands out(call.signature.outputs, call.output_counts, outputs);
    const bool forward = call.pass == Pass::kForward;
    Problem problem = ProblemOf(call, NeededSizes(call, sizes, inputs, outputs), element);
    const Mask mask(in.Find("mask", 0)), memory_mask(in.Find("memory_mask", 0));
    problem.mask = mask.data();
    problem.memory_mask = memory_mask.data();
    std::vector<Arguments> arguments;
    std::vector<Results> results;
    std::vector<Upstream> upstream;
    std::vector<Gradients> gradients;
    for (size_t direction = 0; direction < call.reverse.size(); ++direction) {
      arguments.push_back(ArgumentsOf(call, in, direction));
      results.push_back(ResultsOf(call, forward ? out : in, direction));
      upstream.push_back(UpstreamOf(in, direction));
      gradients.push_back(GradientsOf(out, direction));
    }
    if (forward) return Forward(problem, arguments, results, executor);
    return Backward(problem, arguments, results, upstream, gradients, executor);
  } catch (const std::bad_alloc&) {
    return false;
  }
}

}  // namespace keras_seq
