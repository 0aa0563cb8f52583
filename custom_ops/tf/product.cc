// SPDX-License-Identifier: Apache-2.0
// The op KerasSeq>Product: a matrix product whose right operand changes rarely, such as a weight. It keeps the packed
// weight from call to call, where TensorFlow's MatMul packs it anew: for a few rows that takes most of the time.
#include <mutex>
#include <string>

#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf/executor.h"
#include "tf/packed_cache.h"
#include "xla/hlo/builder/xla_builder.h"

namespace keras_seq {
namespace {

namespace tf = ::tensorflow;

REGISTER_OP("KerasSeq>Product")
    .Input("inputs: T")
    .Input("kernel: T")
    .Output("product: T")
    .Attr("keep_product: bool")
    .Attr("T: {float, double}")
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      tf::shape_inference::ShapeHandle inputs, kernel;
      tf::shape_inference::DimensionHandle depth;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 2, &inputs));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 2, &kernel));
      TF_RETURN_IF_ERROR(context->Merge(context->Dim(inputs, 1), context->Dim(kernel, 0), &depth));
      context->set_output(0, context->Matrix(context->Dim(inputs, 0), context->Dim(kernel, 1)));
      return absl::OkStatus();
    });

class ProductOp : public tf::OpKernel {
 public:
  explicit ProductOp(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("keep_product", &keeps_product_));
    const char* error;
    OP_REQUIRES(context, InstructionSet(&error) != nullptr, absl::InvalidArgumentError(error));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &inputs = context->input(0), &kernel = context->input(1);
    OP_REQUIRES(context, inputs.dims() == 2 && kernel.dims() == 2 && inputs.dim_size(1) == kernel.dim_size(0),
                absl::InvalidArgumentError("`inputs` must be (rows, depth), `kernel` (depth, columns). Received: " +
                                           inputs.shape().DebugString() + ", " + kernel.shape().DebugString()));
    if (keeps_product_ && SetKept(context)) return;
    tf::Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, {inputs.dim_size(0), kernel.dim_size(1)}, &output));
    if (output->NumElements() == 0) return;  // an axis that costs no memory may be huge
    Product product;
    product.dtype = inputs.dtype() == tf::DT_DOUBLE ? DataType::kFloat64 : DataType::kFloat32;
    product.rows = inputs.dim_size(0), product.depth = inputs.dim_size(1), product.columns = kernel.dim_size(1);
    product.inputs = inputs.data(), product.kernel = kernel.data(), product.outputs = output->data();
    const PackedCall packed = cache_.Find({kernel}, {}, [&] {
      auto weights = PackProduct(product);
      return weights == nullptr ? PackedCall{} : PackedCall{weights};
    });
    if (!packed.empty()) product.packed = packed[0];
    OP_REQUIRES(context, Multiply(product, ExecutorOf(context)), absl::ResourceExhaustedError("out of memory"));
    if (keeps_product_) {
      const std::lock_guard<std::mutex> lock(mutex_);
      kept_inputs_ = {inputs, kernel};
      kept_product_ = *output;
    }
  }

 private:
  // Sets the product of the last call, if this call has the same operands: see `PackedCache` on what that means.
  bool SetKept(tf::OpKernelContext* context) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!SameBuffers(kept_inputs_, {context->input(0), context->input(1)})) return false;
    context->set_output(0, kept_product_);
    return true;
  }

  bool keeps_product_;
  PackedCache cache_;
  std::mutex mutex_;
  std::vector<tf::Tensor> kept_inputs_;
  tf::Tensor kept_product_;
};

REGISTER_KERNEL_BUILDER(Name("KerasSeq>Product").Device(tf::DEVICE_CPU), ProductOp);

// XLA's own product.
class XlaProductOp : public tf::XlaOpKernel {
 public:
  explicit XlaProductOp(tf::OpKernelConstruction* context) : tf::XlaOpKernel(context) {}
  void Compile(tf::XlaOpKernelContext* context) override {
    context->SetOutput(0, xla::Dot(context->Input(0), context->Input(1)));
  }
};

REGISTER_KERNEL_BUILDER(Name("KerasSeq>Product").Device(tf::DEVICE_CPU_XLA_JIT), XlaProductOp);

}  // namespace
}  // namespace keras_seq
