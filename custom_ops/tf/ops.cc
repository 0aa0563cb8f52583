// SPDX-License-Identifier: Apache-2.0
// The TensorFlow ops and their CPU kernels. Arguments, results and checks are those of xla/call.h.
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/public/release_version.h"
#include "tf/call_from_tensorflow.h"
#include "tf/executor.h"
#include "tf/packed_cache.h"
#include "xla/call.h"

namespace keras_seq {
namespace {

namespace tf = ::tensorflow;

absl::Status Invalid(const std::string& error) { return absl::InvalidArgumentError(error); }

template <const Operation& operation, Pass pass>
absl::Status InferShapes(tf::shape_inference::InferenceContext* context) {
  Call call;
  std::string error = ReadCallFrom(context, operation, pass, &call);
  if (!error.empty()) return Invalid(error);
  tf::DataType data;
  TF_RETURN_IF_ERROR(context->GetAttr("T", &data));
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < call.signature.inputs.size(); ++i) {
    for (int64_t j = 0; j < call.input_counts[i]; ++j) {
      const tf::shape_inference::ShapeHandle shape = context->input(inputs.size());
      Tensor tensor;
      tensor.element = ElementOf(call.signature.inputs[i].kind, ElementOf(data));  // as the op's definition requires
      tensor.ranked = context->RankKnown(shape);
      for (int axis = 0; tensor.ranked && axis < context->Rank(shape); ++axis) {
        tensor.shape.push_back(context->Value(context->Dim(shape, axis)));
      }
      inputs.push_back(std::move(tensor));
    }
  }
  Sizes sizes;
  Element element;
  error = CheckInputs(call, inputs, &sizes, &element);
  if (!error.empty()) return Invalid(error);
  const std::vector<Tensor> outputs = Outputs(call, sizes, element);
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::vector<tf::shape_inference::DimensionHandle> shape;
    for (int64_t size : outputs[i].shape) shape.push_back(context->MakeDim(size));
    context->set_output(i, context->MakeShape(shape));
  }
  return absl::OkStatus();
}

template <const Operation& operation, Pass pass>
std::string OpName() {
  return "KerasSeq>" + std::string(operation.name) + (pass == Pass::kBackward ? "Grad" : "");
}

std::string Declaration(const ArgumentSpec& argument) {
  const char* type = argument.kind == Kind::kData ? "T" : argument.kind == Kind::kMask ? "bool" : "R";
  return std::string(argument.name) + ": " + argument.count_name + " * " + type;
}

// The type of an attribute that is one of these strings: {'a', 'b'}.
std::string OneOf(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return "{" + text + "}";
}

std::vector<std::string> CellNames() {
  std::vector<std::string> names;
  for (const CellTraits& cell : kCells) names.push_back(cell.name);
  return names;
}

// Whether an attribute is the length of a list of extra weights or their gradients.
bool CountsExtra(const std::string& name) {
  for (const ExtraWeightTraits& extra : kExtraWeights) {
    if (name == extra.count || name == extra.wanted) return true;
  }
  return false;
}

// The attributes that cells got later have defaults, so that SavedModels from before then load.
template <const Operation& operation, Pass pass>
absl::Status Define(tf::OpRegistrationData* definition) {
  const Signature signature = SignatureOf(operation, pass);
  tf::OpDefBuilder builder(OpName<operation, pass>());
  for (const ArgumentSpec& input : signature.inputs) builder.Input(Declaration(input));
  for (const ArgumentSpec& output : signature.outputs) builder.Output(Declaration(output));
  for (const char* name : CountNames(signature)) {
    const bool directions = std::string(name) == "directions";
    builder.Attr(std::string(name) + (directions ? ": int >= 1" : ": int >= 0") + (CountsExtra(name) ? " = 0" : ""));
  }
  builder.Attr("reverse: list(bool)").Attr("keep_residuals: bool");
  const CellAttributes has = CellAttributesOf(operation);
  if (has.cell) builder.Attr("cell: " + OneOf(CellNames()));
  const std::string activations = OneOf({std::begin(kActivationNames), std::end(kActivationNames)});
  builder.Attr("activation: " + activations + " = 'tanh'");
  if (has.recurrent_activation) builder.Attr("recurrent_activation: " + activations + " = 'sigmoid'");
  for (const AttentionAttribute& attribute : AttentionAttributes()) {
    if (!operation.attends) break;
    builder.Attr(std::string(attribute.name) + ": " + OneOf(attribute.values) + " = '" + attribute.values[0] + "'");
  }
  if (has.reset_after) builder.Attr("reset_after: bool");
  builder.Attr("T: {float, double, bfloat16}").Attr("R: {float, double}");
  builder.SetShapeFn(InferShapes<operation, pass>);
  return builder.Finalize(definition);
}

template <const Operation& operation, Pass pass>
class Op : public tf::OpKernel {
 public:
  explicit Op(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    const std::string error = ReadCallFrom(context, operation, pass, &call_);
    OP_REQUIRES(context, error.empty(), Invalid(error));
  }

  void Compute(tf::OpKernelContext* context) override {
    std::vector<Tensor> inputs;
    for (int i = 0; i < context->num_inputs(); ++i) inputs.push_back(TensorOf(context->input(i)));
    Sizes sizes;
    Element element;
    const std::string error = CheckInputs(call_, inputs, &sizes, &element);
    OP_REQUIRES(context, error.empty(), Invalid(error));
    std::vector<Tensor> outputs = Outputs(call_, sizes, element);
    for (size_t i = 0; i < outputs.size(); ++i) {
      tf::TensorShape shape;
      OP_REQUIRES_OK(context, tf::TensorShape::BuildTensorShape(outputs[i].shape, &shape));
      tf::Tensor* output;
      OP_REQUIRES_OK(context, context->allocate_output(i, shape, &output));
      outputs[i].data = output->data();
    }
    const Executor executor = ExecutorOf(context);
    PackedCall packed;
    if (pass == Pass::kForward && !call_.keep_residuals) {  // at inference
      // One kernel multiplies inputs and memory: its shape does not tell where the rows of the memory begin.
      packed = cache_.Find(Weights(context), {sizes.features, sizes.memory_units},
                           [&] { return PackCall(call_, sizes, element, inputs, executor); });
    }
    OP_REQUIRES(context, RunCall(call_, sizes, element, inputs, outputs, packed, executor),
                absl::ResourceExhaustedError("out of memory"));
  }

 private:
  static Tensor TensorOf(const tf::Tensor& tensor) {
    const auto shape = tensor.shape().dim_sizes();
    return {ElementOf(tensor.dtype()), true, {shape.begin(), shape.end()}, tensor.data()};
  }

  std::vector<tf::Tensor> Weights(tf::OpKernelContext* context) const {
    std::vector<tf::Tensor> weights;
    int next = 0;
    for (size_t i = 0; i < call_.signature.inputs.size(); ++i) {
      const bool is_weight = IsWeight(call_.signature.inputs[i]);
      for (int64_t j = 0; j < call_.input_counts[i]; ++j, ++next) {
        if (is_weight) weights.push_back(context->input(next));
      }
    }
    return weights;
  }

  Call call_;
  PackedCache cache_;
};

#define KERAS_SEQ_REGISTER(name, operation, pass)                    \
  const bool registered_##operation##_##pass = [] {                   \
    tf::OpRegistry::Global()->Register(Define<operation, Pass::pass>); \
    return true;                                                      \
  }();                                                                \
  using Op_##operation##_##pass = Op<operation, Pass::pass>;          \
  REGISTER_KERNEL_BUILDER(Name(name).Device(tf::DEVICE_CPU), Op_##operation##_##pass);

#define KERAS_SEQ_REGISTER_BOTH(name, ...)                              \
  KERAS_SEQ_REGISTER("KerasSeq>" #name, k##name##Operation, kForward)   \
  KERAS_SEQ_REGISTER("KerasSeq>" #name "Grad", k##name##Operation, kBackward)

KERAS_SEQ_FOR_EACH_OP(KERAS_SEQ_REGISTER_BOTH)

}  // namespace
}  // namespace keras_seq

// The version of TensorFlow whose headers this library was compiled with.
extern "C" __attribute__((visibility("default"))) const char* KerasSeqTensorFlowVersion() { return TF_VERSION_STRING; }
