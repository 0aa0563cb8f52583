// SPDX-License-Identifier: Apache-2.0
// Makes the FFI handlers known to TensorFlow's XLA. JAX learns of them through jax.ffi.register_ffi_target instead.
#include "xla/ffi/api/ffi.h"

extern "C" const XLA_FFI_Api* XLA_FFI_GetApi();  // of libtensorflow_framework

#define KERAS_SEQ_REGISTER_HANDLER(symbol)              \
  extern "C" XLA_FFI_Error* symbol(XLA_FFI_CallFrame*); \
  XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), #symbol, "Host", symbol)

KERAS_SEQ_REGISTER_HANDLER(KerasSeqSimpleRNN);
KERAS_SEQ_REGISTER_HANDLER(KerasSeqSimpleRNNGrad);
KERAS_SEQ_REGISTER_HANDLER(KerasSeqGRU);
KERAS_SEQ_REGISTER_HANDLER(KerasSeqGRUGrad);
KERAS_SEQ_REGISTER_HANDLER(KerasSeqLSTM);
KERAS_SEQ_REGISTER_HANDLER(KerasSeqLSTMGrad);
