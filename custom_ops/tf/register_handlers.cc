// SPDX-License-Identifier: Apache-2.0
// Registers the FFI handlers with TensorFlow's XLA. For JAX, Python does so with jax.ffi.register_ffi_target.
#include <dlfcn.h>

#include "xla/call.h"
#include "xla/ffi/api/ffi.h"

#define KERAS_SEQ_DECLARE_HANDLERS(name, ...)                    \
  extern "C" XLA_FFI_Error* KerasSeq##name(XLA_FFI_CallFrame*); \
  extern "C" XLA_FFI_Error* KerasSeq##name##Grad(XLA_FFI_CallFrame*);

KERAS_SEQ_FOR_EACH_OP(KERAS_SEQ_DECLARE_HANDLERS)
extern "C" XLA_FFI_Error* KerasSeqDropout(XLA_FFI_CallFrame*);  // dropout.cc

namespace keras_seq {
namespace {

// Looked up at run time, because the wheels export different names: `tensorflow` the C function, and `tensorflow-cpu`
// only the C++ function xla::ffi::GetXlaFfiApi, which returns the same.
const XLA_FFI_Api* FindApi() {
  for (const char* name : {"XLA_FFI_GetApi", "_ZN3xla3ffi12GetXlaFfiApiEv"}) {
    if (void* symbol = dlsym(RTLD_DEFAULT, name)) return reinterpret_cast<const XLA_FFI_Api* (*)()>(symbol)();
  }
  return nullptr;
}

void RegisterHandler(const XLA_FFI_Api* api, const char* name, XLA_FFI_Handler* handler) {
  xla::ffi::Ffi::RegisterStaticHandler(api, name, "Host", handler);
}

bool RegisterHandlers() {
  const XLA_FFI_Api* api = FindApi();
  if (api == nullptr) return false;
#define KERAS_SEQ_REGISTER_HANDLERS(name, ...)           \
  RegisterHandler(api, "KerasSeq" #name, KerasSeq##name); \
  RegisterHandler(api, "KerasSeq" #name "Grad", KerasSeq##name##Grad);

  KERAS_SEQ_FOR_EACH_OP(KERAS_SEQ_REGISTER_HANDLERS)
  RegisterHandler(api, "KerasSeqDropout", KerasSeqDropout);
  return true;
}

const bool registered = RegisterHandlers();

}  // namespace
}  // namespace keras_seq

// Whether TensorFlow has the FFI. Without it, no op could run inside of what XLA compiles.
extern "C" __attribute__((visibility("default"))) bool KerasSeqHandlersAreRegistered() { return keras_seq::registered; }
