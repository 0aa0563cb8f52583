// SPDX-License-Identifier: Apache-2.0
// Registers the FFI handlers with TensorFlow's XLA. For JAX, Python does so with jax.ffi.register_ffi_target.
#include "xla/call.h"
#include "xla/ffi/api/ffi.h"

extern "C" const XLA_FFI_Api* XLA_FFI_GetApi();  // of libtensorflow_framework

#define KERAS_SEQ_REGISTER_HANDLER(symbol)              \
  extern "C" XLA_FFI_Error* symbol(XLA_FFI_CallFrame*); \
  XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), #symbol, "Host", symbol);

#define KERAS_SEQ_REGISTER_HANDLERS(name, ...) \
  KERAS_SEQ_REGISTER_HANDLER(KerasSeq##name)   \
  KERAS_SEQ_REGISTER_HANDLER(KerasSeq##name##Grad)

KERAS_SEQ_FOR_EACH_OP(KERAS_SEQ_REGISTER_HANDLERS)
