// SPDX-License-Identifier: Apache-2.0
// The op KerasSeq>Crossentropy: what the readout's loss needs of logits, in one pass over them. It is not for XLA.
#include <cstdint>
#include <string>

#include "kernels/crossentropy.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf/executor.h"

namespace keras_seq {
namespace {

namespace tf = ::tensorflow;

REGISTER_OP("KerasSeq>Crossentropy")
    .Input("logits: T")
    .Input("targets: int32")
    .Input("weights: T")
    .Input("label_smoothing: T")
    .Output("losses: T")
    .Output("smooth_losses: T")
    .Output("predictions: int32")
    .Output("d_logits: T")
    .Attr("with_gradient: bool")
    .Attr("T: {float, double}")
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      tf::shape_inference::ShapeHandle logits, targets, weights, rows;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 2, &logits));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 1, &targets));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 1, &weights));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(3), 0, &rows));
      TF_RETURN_IF_ERROR(context->Merge(targets, weights, &rows));
      TF_RETURN_IF_ERROR(context->Merge(rows, context->Vector(context->Dim(logits, 0)), &rows));
      for (int i = 0; i < 3; ++i) context->set_output(i, rows);
      bool with_gradient;
      TF_RETURN_IF_ERROR(context->GetAttr("with_gradient", &with_gradient));
      context->set_output(3, with_gradient ? logits : context->Matrix(0, 0));
      return absl::OkStatus();
    });

class CrossentropyOp : public tf::OpKernel {
 public:
  explicit CrossentropyOp(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("with_gradient", &with_gradient_));
    const char* error;
    OP_REQUIRES(context, InstructionSet(&error) != nullptr, absl::InvalidArgumentError(error));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor &logits = context->input(0), &targets = context->input(1), &weights = context->input(2);
    const tf::Tensor& label_smoothing = context->input(3);
    OP_REQUIRES(context,
                logits.dims() == 2 && targets.shape() == tf::TensorShape({logits.dim_size(0)}) &&
                    weights.shape() == targets.shape() && label_smoothing.dims() == 0,
                absl::InvalidArgumentError("`logits` must be (rows, vocabulary), `targets` and `weights` (rows,), "
                                           "`label_smoothing` a scalar. Received: " + logits.shape().DebugString() +
                                           ", " + targets.shape().DebugString() + ", " +
                                           weights.shape().DebugString() + ", " +
                                           label_smoothing.shape().DebugString()));
    Crossentropy call;
    const bool is_double = logits.dtype() == tf::DT_DOUBLE;
    call.dtype = is_double ? DataType::kFloat64 : DataType::kFloat32;
    call.label_smoothing = is_double ? label_smoothing.scalar<double>()() : label_smoothing.scalar<float>()();
    call.rows = logits.dim_size(0), call.vocabulary = logits.dim_size(1);
    call.targets = targets.flat<int32_t>().data();
    for (int64_t row = 0; row < call.rows; ++row) {
      OP_REQUIRES(context, call.targets[row] < call.vocabulary,
                  absl::InvalidArgumentError("`targets` must be less than the size of the vocabulary, " +
                                             std::to_string(call.vocabulary) + ". Received: " +
                                             std::to_string(call.targets[row])));
    }
    tf::Tensor *losses, *smooth_losses, *predictions, *d_logits;
    OP_REQUIRES_OK(context, context->allocate_output(0, targets.shape(), &losses));
    OP_REQUIRES_OK(context, context->allocate_output(1, targets.shape(), &smooth_losses));
    OP_REQUIRES_OK(context, context->allocate_output(2, targets.shape(), &predictions));
    call.logits = logits.data(), call.weights = weights.data();
    if (with_gradient_) {
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 3, logits.shape(), &d_logits));
    } else {
      OP_REQUIRES_OK(context, context->allocate_output(3, {0, 0}, &d_logits));
    }
    call.losses = losses->data(), call.smooth_losses = smooth_losses->data();
    call.predictions = predictions->flat<int32_t>().data();
    call.d_logits = with_gradient_ ? d_logits->data() : nullptr;
    ComputeCrossentropy(call, ExecutorOf(context));
  }

 private:
  bool with_gradient_;
};

REGISTER_KERNEL_BUILDER(Name("KerasSeq>Crossentropy").Device(tf::DEVICE_CPU), CrossentropyOp);

}  // namespace
}  // namespace keras_seq
