// SPDX-License-Identifier: Apache-2.0
// The ops of ops.cc under XLA: each becomes a custom call of the FFI handler in xla/handlers.cc.
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tf/call_from_tensorflow.h"
#include "xla/call.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

namespace keras_seq {
namespace {

namespace tf = ::tensorflow;

xla::PrimitiveType PrimitiveTypeOf(Element element) {
  switch (element) {
    case Element::kFloat32:
      return xla::F32;
    case Element::kFloat64:
      return xla::F64;
    case Element::kBFloat16:
      return xla::BF16;
    default:
      return xla::PRED;
  }
}

// Row-major, as the kernels require; otherwise XLA could choose another layout.
xla::Shape ShapeOf(const Tensor& tensor) {
  return xla::ShapeUtil::MakeShapeWithDescendingLayout(PrimitiveTypeOf(tensor.element), tensor.shape);
}

// The attributes in the form that handlers read: the text of an MLIR dictionary.
std::string AttributesOf(const Call& call) {
  int64_t reverse = 0;
  for (size_t i = 0; i < call.reverse.size(); ++i) reverse |= int64_t{call.reverse[i]} << i;
  std::string text = "{reverse = " + std::to_string(reverse) + " : i64";
  auto truth = [](bool value) { return value ? "true" : "false"; };
  text += std::string(", keep_residuals = ") + truth(call.keep_residuals);
  const CellAttributes has = CellAttributesOf(call.operation);
  if (has.cell) text += std::string(", cell = \"") + NameOf(call.operation.cell) + "\"";
  text += std::string(", activation = \"") + NameOf(call.activation) + "\"";
  if (has.recurrent_activation) {
    text += std::string(", recurrent_activation = \"") + NameOf(call.recurrent_activation) + "\"";
  }
  for (const auto& [name, value] : call.attention_attributes) text += ", " + name + " = \"" + value + "\"";
  if (has.reset_after) text += std::string(", reset_after = ") + truth(call.reset_after);
  for (const auto& [name, count] : call.counts) text += ", " + name + " = " + std::to_string(count) + " : i64";
  return text + "}";
}

template <const Operation& operation, Pass pass>
class XlaOp : public tf::XlaOpKernel {
 public:
  explicit XlaOp(tf::OpKernelConstruction* context) : tf::XlaOpKernel(context) {
    const std::string error = ReadCallFrom(context, operation, pass, &call_);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));
  }

  void Compile(tf::XlaOpKernelContext* context) override {
    std::vector<xla::XlaOp> operands;
    std::vector<xla::Shape> operand_shapes;
    std::vector<Tensor> inputs;
    for (int i = 0; i < context->num_inputs(); ++i) {
      const auto shape = context->InputXlaShape(i);
      OP_REQUIRES_OK(context, shape.status());
      // XLA pads a dynamic tensor to its bound, and the kernels would take the padding for data.
      const char* needs = "native recurrences need static shapes under XLA; use implementation=\"xla\"";
      OP_REQUIRES(context, !shape->is_dynamic(), absl::UnimplementedError(needs));
      const auto sizes = shape->dimensions();
      inputs.push_back({ElementOf(context->input_type(i)), true, {sizes.begin(), sizes.end()}});
      operands.push_back(context->Input(i));
      operand_shapes.push_back(ShapeOf(inputs.back()));
    }
    Sizes sizes;
    Element element;
    const std::string error = CheckInputs(call_, inputs, &sizes, &element);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));
    std::vector<xla::Shape> results;
    for (const Tensor& output : Outputs(call_, sizes, element)) results.push_back(ShapeOf(output));
    if (results.empty()) return;
    const std::string target = std::string("KerasSeq") + operation.name + (pass == Pass::kBackward ? "Grad" : "");
    const xla::XlaOp called = xla::CustomCallWithLayout(
        context->builder(), target, operands, xla::ShapeUtil::MakeTupleShape(results), operand_shapes,
        AttributesOf(call_), /*has_side_effect=*/false, /*output_operand_aliasing=*/{}, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (size_t i = 0; i < results.size(); ++i) context->SetOutput(i, xla::GetTupleElement(called, i));
  }

 private:
  Call call_;
};

// Not REGISTER_XLA_OP: TensorFlow reads that registry once, when the first tensor is made, and the library may be
// loaded later. This registers a kernel for the device on which XLA compiles functions, as that macro does in the end.
#define KERAS_SEQ_LOWERING(name, operation, pass)                       \
  using XlaOp_##operation##_##pass = XlaOp<operation, Pass::pass>;       \
  REGISTER_KERNEL_BUILDER(Name(name).Device(tf::DEVICE_CPU_XLA_JIT), XlaOp_##operation##_##pass);

#define KERAS_SEQ_LOWER_BOTH(name, ...)                                 \
  KERAS_SEQ_LOWERING("KerasSeq>" #name, k##name##Operation, kForward)   \
  KERAS_SEQ_LOWERING("KerasSeq>" #name "Grad", k##name##Operation, kBackward)

KERAS_SEQ_FOR_EACH_OP(KERAS_SEQ_LOWER_BOTH)

}  // namespace
}  // namespace keras_seq
