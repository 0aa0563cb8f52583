// SPDX-License-Identifier: Apache-2.0
#ifndef KERAS_SEQ_TF_EXECUTOR_H_
#define KERAS_SEQ_TF_EXECUTOR_H_

#include "kernels/threads.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace keras_seq {

// As many threads as `tf.config.threading` gives to an op.
inline Executor ExecutorOf(tensorflow::OpKernelContext* context) {
  return SharedThreads(context->device()->tensorflow_cpu_worker_threads()->workers->NumThreads());
}

}  // namespace keras_seq

#endif  // KERAS_SEQ_TF_EXECUTOR_H_
