// SPDX-License-Identifier: Apache-2.0
// The ops KerasSeq>DropoutMask, a random mask, and KerasSeq>Dropout, the product of a tensor with such a mask, which is
// its own gradient. The mask of `DropoutMask` equals that of TensorFlow's ops:
//   words = tf.random.stateless_uniform([ceil(size / 4)], seed, minval=None, maxval=None, dtype="uint64", alg="philox")
//   is_dropped = tf.bitcast(words, "uint16")[:size] < threshold
//   mask = values[0] if is_dropped else values[1]
// Under XLA each is a custom call of an FFI handler, so that eager mode, graphs and XLA draw the same numbers.
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/dropout.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor_util.h"
#include "tf/executor.h"
#include "xla/ffi/api/ffi.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"
#include "xla/tsl/platform/statusor.h"

namespace keras_seq {
namespace {

namespace tf = ::tensorflow;
namespace ffi = ::xla::ffi;

constexpr int64_t kMaxThreshold = (1 << 16) - 1;
// The inputs of the ops.
constexpr int kShape = 0, kInputs = 0, kSeed = 1, kValues = 2;

absl::Status CheckPair(tf::shape_inference::InferenceContext* context, int input) {
  tf::shape_inference::ShapeHandle pair;
  tf::shape_inference::DimensionHandle size;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(input), 1, &pair));
  return context->WithValue(context->Dim(pair, 0), 2, &size);
}

REGISTER_OP("KerasSeq>DropoutMask")
    .Input("shape: Tshape")
    .Input("seed: int64")
    .Input("values: T")
    .Output("mask: T")
    .Attr("threshold: int")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("Tshape: {int32, int64} = DT_INT32")
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      tf::shape_inference::ShapeHandle shape;
      TF_RETURN_IF_ERROR(CheckPair(context, kSeed));
      TF_RETURN_IF_ERROR(CheckPair(context, kValues));
      TF_RETURN_IF_ERROR(context->MakeShapeFromShapeTensor(kShape, &shape));
      context->set_output(0, shape);
      return absl::OkStatus();
    });

REGISTER_OP("KerasSeq>Dropout")
    .Input("inputs: T")
    .Input("seed: int64")
    .Input("values: T")
    .Output("outputs: T")
    .Attr("threshold: int")
    .Attr("T: {float, double}")
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      TF_RETURN_IF_ERROR(CheckPair(context, kSeed));
      TF_RETURN_IF_ERROR(CheckPair(context, kValues));
      return tf::shape_inference::UnchangedShape(context);
    });

absl::Status ReadThreshold(tf::OpKernelConstruction* context, int64_t* threshold) {
  TF_RETURN_IF_ERROR(context->GetAttr("threshold", threshold));
  if (*threshold >= 0 && *threshold <= kMaxThreshold) return absl::OkStatus();
  return absl::InvalidArgumentError("`threshold` must be in [0, 65535]. Received: " + std::to_string(*threshold));
}

class DropoutOpBase : public tf::OpKernel {
 public:
  explicit DropoutOpBase(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    OP_REQUIRES_OK(context, ReadThreshold(context, &threshold_));
    const char* error;
    OP_REQUIRES(context, InstructionSet(&error) != nullptr, absl::InvalidArgumentError(error));
  }

 protected:
  static bool IsPair(const tf::Tensor& tensor) { return tensor.dims() == 1 && tensor.dim_size(0) == 2; }

  static absl::Status CheckPairs(tf::OpKernelContext* context) {
    const tf::Tensor &seed = context->input(kSeed), &values = context->input(kValues);
    if (IsPair(seed) && IsPair(values)) return absl::OkStatus();
    return absl::InvalidArgumentError("`seed` and `values` must have the shape (2,). Received: " +
                                      seed.shape().DebugString() + ", " + values.shape().DebugString());
  }

  void DrawMask(tf::OpKernelContext* context, const void* inputs, tf::Tensor* outputs) const {
    const tf::Tensor &seed = context->input(kSeed), &values = context->input(kValues);
    Dropout dropout;
    for (int i = 0; i < 2; ++i) dropout.seed[i] = seed.vec<int64_t>()(i);
    dropout.threshold = static_cast<uint32_t>(threshold_);
    dropout.size = outputs->NumElements();
    dropout.entry_bytes = tf::DataTypeSize(outputs->dtype());
    dropout.values = values.data();
    dropout.inputs = inputs;
    dropout.outputs = outputs->data();
    if (dropout.size == 0) return;
    keras_seq::DrawMask(dropout, ExecutorOf(context));
  }

 private:
  int64_t threshold_;
};

class DropoutMaskOp : public DropoutOpBase {
 public:
  using DropoutOpBase::DropoutOpBase;

  void Compute(tf::OpKernelContext* context) override {
    tf::TensorShape shape;
    OP_REQUIRES_OK(context, CheckPairs(context));
    OP_REQUIRES_OK(context, tf::tensor::MakeShape(context->input(kShape), &shape));
    tf::Tensor* mask;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &mask));
    DrawMask(context, nullptr, mask);
  }
};

class DropoutOp : public DropoutOpBase {
 public:
  using DropoutOpBase::DropoutOpBase;

  void Compute(tf::OpKernelContext* context) override {
    OP_REQUIRES_OK(context, CheckPairs(context));
    tf::Tensor* outputs;
    const tf::TensorShape& shape = context->input(kInputs).shape();
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({kInputs}, 0, shape, &outputs));
    DrawMask(context, context->input(kInputs).data(), outputs);
  }
};

REGISTER_KERNEL_BUILDER(Name("KerasSeq>DropoutMask").Device(tf::DEVICE_CPU), DropoutMaskOp);
REGISTER_KERNEL_BUILDER(Name("KerasSeq>Dropout").Device(tf::DEVICE_CPU), DropoutOp);

// Under XLA.

// The operands are seed, values and perhaps inputs.
ffi::Error HandleDropout(ffi::ThreadPool pool, ffi::BufferR1<ffi::S64> seed, ffi::AnyBuffer values,
                         ffi::RemainingArgs inputs, ffi::Result<ffi::AnyBuffer> outputs, int64_t threshold) {
  const auto type = outputs->element_type();
  if (seed.element_count() != 2 || values.element_count() != 2 || values.element_type() != type || threshold < 0 ||
      threshold > kMaxThreshold || inputs.size() > 1) {
    return ffi::Error::InvalidArgument("KerasSeqDropout: the arguments do not belong together");
  }
  Dropout dropout;
  std::copy_n(seed.typed_data(), 2, dropout.seed);
  dropout.threshold = static_cast<uint32_t>(threshold);
  dropout.size = outputs->element_count();
  dropout.entry_bytes = static_cast<int>(ffi::ByteWidth(type));
  dropout.values = values.untyped_data();
  dropout.outputs = outputs->untyped_data();
  if (inputs.size() == 1) {
    const auto buffer = inputs.get<ffi::AnyBuffer>(0);
    if (!buffer.has_value() || buffer->element_type() != type || buffer->element_count() != outputs->element_count() ||
        (type != ffi::F32 && type != ffi::F64)) {
      return ffi::Error::InvalidArgument("KerasSeqDropout: the inputs do not fit");
    }
    dropout.inputs = buffer->untyped_data();
  }
  if (dropout.size == 0) return ffi::Error::Success();
  DrawMask(dropout, SharedThreads(pool.num_threads()));
  return ffi::Error::Success();
}

template <bool kDrawsMask>
class XlaDropoutOp : public tf::XlaOpKernel {
 public:
  explicit XlaDropoutOp(tf::OpKernelConstruction* context) : tf::XlaOpKernel(context) {
    OP_REQUIRES_OK(context, ReadThreshold(context, &threshold_));
  }

  void Compile(tf::XlaOpKernelContext* context) override {
    std::vector<int64_t> sizes;
    OP_REQUIRES_OK(context, ReadSizes(context, &sizes));
    const auto type = context->input_xla_type(kValues);
    const xla::Shape outputs = RowMajor(type, sizes);
    std::vector<xla::XlaOp> operands = {context->Input(kSeed), context->Input(kValues)};
    std::vector<xla::Shape> operand_shapes = {RowMajor(xla::S64, {2}), RowMajor(type, {2})};
    if (!kDrawsMask) {
      operands.push_back(context->Input(kInputs));
      operand_shapes.push_back(outputs);
    }
    context->SetOutput(0, xla::CustomCallWithLayout(
        context->builder(), "KerasSeqDropout", operands, outputs, operand_shapes,
        "{threshold = " + std::to_string(threshold_) + " : i64}", /*has_side_effect=*/false,
        /*output_operand_aliasing=*/{}, /*literal=*/nullptr, xla::CustomCallSchedule::SCHEDULE_NONE,
        xla::CustomCallApiVersion::API_VERSION_TYPED_FFI));
  }

 private:
  // Otherwise XLA could choose another layout.
  static xla::Shape RowMajor(xla::PrimitiveType type, const std::vector<int64_t>& sizes) {
    return xla::ShapeUtil::MakeShapeWithDescendingLayout(type, sizes);
  }

  // Reads the shape of the outputs, and checks those of seed and values.
  static absl::Status ReadSizes(tf::XlaOpKernelContext* context, std::vector<int64_t>* sizes) {
    for (int input : {kSeed, kValues}) {
      TF_ASSIGN_OR_RETURN(const xla::Shape shape, context->InputXlaShape(input));
      const auto dimensions = shape.dimensions();
      if (dimensions.size() != 1 || dimensions[0] != 2) {
        return absl::InvalidArgumentError("`seed` and `values` must have the shape (2,)");
      }
    }
    if (kDrawsMask) {
      tf::TensorShape shape;
      TF_RETURN_IF_ERROR(context->ConstantInputAsShape(kShape, &shape));
      constexpr int64_t kMaxEntries = int64_t{1} << 40;  // XLA crashes where the count of bytes overflows
      for (int64_t size : shape.dim_sizes()) {
        if (size < 0 || size > kMaxEntries) return absl::InvalidArgumentError("`shape` is negative or too large");
        sizes->push_back(size);
      }
      if (shape.num_elements() > kMaxEntries) return absl::InvalidArgumentError("`shape` is too large");
      return absl::OkStatus();
    }
    TF_ASSIGN_OR_RETURN(const xla::Shape shape, context->InputXlaShape(kInputs));
    if (shape.is_dynamic()) return absl::UnimplementedError("KerasSeq>Dropout needs static shapes under XLA");
    sizes->assign(shape.dimensions().begin(), shape.dimensions().end());
    return absl::OkStatus();
  }

  int64_t threshold_;
};

REGISTER_KERNEL_BUILDER(Name("KerasSeq>DropoutMask").Device(tf::DEVICE_CPU_XLA_JIT), XlaDropoutOp<true>);
REGISTER_KERNEL_BUILDER(Name("KerasSeq>Dropout").Device(tf::DEVICE_CPU_XLA_JIT), XlaDropoutOp<false>);

}  // namespace
}  // namespace keras_seq

// Named like the other handlers, of which register_handlers.cc tells XLA.
extern "C" XLA_FFI_Error* KerasSeqDropout(XLA_FFI_CallFrame* frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasSeqDropout, keras_seq::HandleDropout,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::BufferR1<xla::ffi::S64>>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("threshold"));
