// SPDX-License-Identifier: Apache-2.0
#include <initializer_list>

#include "xla/call.h"
#include "xla/sizes.h"

namespace keras_seq {
namespace {

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

std::string Parenthesised(const std::vector<std::string>& items) {
  std::string text = "(";
  for (size_t i = 0; i < items.size(); ++i) text += (i ? ", " : "") + items[i];
  return text + (items.size() == 1 ? ",)" : ")");
}

std::string Expected(const ArgumentSpec& argument, const Call& call, const Sizes& sizes, Element element) {
  std::string text;
  for (const Axes& axes : argument.shapes) {
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

// Checks one tensor of a list, and learns sizes from it.
std::string CheckTensor(const ArgumentSpec& argument, int64_t index, const Tensor& tensor, const Call& call,
                        Sizes* sizes, Element* element) {
  auto name = [&] { return "`" + std::string(argument.name) + "[" + std::to_string(index) + "]`"; };
  if (*element == Element::kOther && argument.kind == Kind::kData) {
    if (!IsData(tensor.element)) {
      return name() + " must be of float32, float64 or bfloat16. Received: " + NameOf(tensor.element);
    }
    *element = tensor.element;
  }
  const Element expected = ElementOf(argument.kind, *element);
  if (tensor.element != expected) {
    return name() + " must be of " + NameOf(expected) + ". Received: " + NameOf(tensor.element);
  }
  if (!tensor.ranked) return "";
  Sizes learned = *sizes;
  bool good = false;
  for (const Axes& axes : argument.shapes) {
    if (axes.size() != tensor.shape.size()) continue;
    good = true;
    for (size_t i = 0; i < axes.size() && good; ++i) good = Bind(axes[i], tensor.shape[i], call, *element, &learned);
  }
  if (!good) {
    return name() + " must have the shape " + Expected(argument, call, *sizes, *element) +
           ". Received: " + ToString(tensor.shape);
  }
  *sizes = learned;
  return "";
}

}  // namespace

Element ElementOf(Kind kind, Element data) {
  if (kind == Kind::kMask) return Element::kBool;
  if (kind == Kind::kData || data == Element::kOther) return data;
  return data == Element::kFloat64 ? Element::kFloat64 : Element::kFloat32;
}

std::string ToString(const std::vector<int64_t>& shape) {
  std::vector<std::string> sizes;
  for (int64_t size : shape) sizes.push_back(size == kUnknown ? "?" : std::to_string(size));
  return Parenthesised(sizes);
}

int64_t ResidualSizeByName(const std::string& cell, const std::string& dtype, bool reset_after, bool layer_norm,
                           const Sizes& sizes) {
  Call call = {};
  call.operation.attends = sizes.source != kUnknown;
  call.reset_after = reset_after;
  call.layer_norm = layer_norm;
  call.projects = sizes.hidden_units != kUnknown;
  Element element = Element::kOther;
  for (Element candidate : {Element::kFloat32, Element::kFloat64, Element::kBFloat16}) {
    if (dtype == NameOf(candidate)) element = candidate;
  }
  if (!FindCell(cell, &call.operation.cell).empty() || element == Element::kOther) return -1;
  Sizes all = WithoutAttention(call.operation, sizes);
  if (!call.projects) all.hidden_units = 0;
  const bool extended = (call.layer_norm && !HasExtraWeight(call.operation.cell, kInputGamma)) ||
                        (call.projects && !HasExtraWeight(call.operation.cell, kProjectionKernel));
  if (extended) return -1;
  for (int64_t size : ListOf(all)) {
    if (size < 0 || size > kMaxElements) return -1;
  }
  return SizesFit(call, all) ? ResidualSize(ProblemOf(call, all, element)) : -1;
}

std::string CheckInputs(const Call& call, const std::vector<Tensor>& inputs, Sizes* sizes, Element* element) {
  *sizes = WithoutAttention(call.operation, {});
  if (call.multiplied) sizes->features = 0;
  if (call.multiplied && !call.attends_after) sizes->memory_units = 0;
  if (call.score == Score::kDot) sizes->attention_units = 0;  // no tensor has this axis
  if (!call.attentional) sizes->fed_units = 0;                   // likewise
  if (!call.projects) sizes->hidden_units = 0;
  *element = Element::kOther;
  int64_t total = 0;
  for (int64_t count : call.input_counts) total += count;
  if (total != static_cast<int64_t>(inputs.size())) {
    return "there must be " + std::to_string(total) + " inputs. Received: " + std::to_string(inputs.size());
  }
  size_t next = 0;
  for (size_t i = 0; i < call.signature.inputs.size(); ++i) {
    const ArgumentSpec& argument = call.signature.inputs[i];
    for (int64_t j = 0; j < call.input_counts[i]; ++j) {
      const std::string error = CheckTensor(argument, j, inputs[next++], call, sizes, element);
      if (!error.empty()) return error;
    }
    // All sizes are known when the residuals come, whose size is a product of them: it must not overflow.
    if (!SizesFit(call, *sizes)) {
      const std::string attention_sizes = call.operation.attends ? ", source, memory_units, attention_units" : "";
      std::vector<int64_t> list = ListOf(*sizes);
      list.resize(call.operation.attends ? 7 : 4);
      return "the sizes batch, time, features, units" + attention_sizes + " = " + ToString(list) +
             " must give tensors of at most 2^40 elements";
    }
  }
  return "";
}

std::vector<Tensor> Outputs(const Call& call, const Sizes& sizes, Element element) {
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < call.signature.outputs.size(); ++i) {
    const ArgumentSpec& argument = call.signature.outputs[i];
    Tensor tensor;
    tensor.element = ElementOf(argument.kind, element);
    for (Axis axis : argument.shapes[0]) tensor.shape.push_back(SizeOf(axis, call, sizes, element));
    outputs.insert(outputs.end(), call.output_counts[i], tensor);
  }
  return outputs;
}

}  // namespace keras_seq
