// SPDX-License-Identifier: Apache-2.0
// The XLA FFI handlers, for TensorFlow's XLA and for JAX, and the functions that Python calls by ctypes.
//
// The operands and results of a call are those of its signature, as one flat list. The attributes are those of the
// TensorFlow op, except `reverse`, an integer whose bit d belongs to direction d.
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/threads.h"
#include "xla/call.h"
#include "xla/ffi/api/ffi.h"

namespace keras_seq {
namespace {

namespace ffi = ::xla::ffi;

Element ElementOf(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F32:
      return Element::kFloat32;
    case ffi::DataType::F64:
      return Element::kFloat64;
    case ffi::DataType::BF16:
      return Element::kBFloat16;
    case ffi::DataType::PRED:
      return Element::kBool;
    default:
      return Element::kOther;
  }
}

Tensor TensorOf(const ffi::AnyBuffer& buffer) {
  const auto shape = buffer.dimensions();
  return {ElementOf(buffer.element_type()), true, {shape.begin(), shape.end()}, buffer.untyped_data()};
}

// Reads one attribute for ReadCall.
class Reader {
 public:
  explicit Reader(const ffi::Dictionary& attributes) : attributes_(attributes) {}

  bool operator()(const char* name, std::vector<bool>* value) const {
    int64_t bits = 0, directions = 0;
    if (!(*this)(name, &bits) || !(*this)("directions", &directions)) return false;
    for (int64_t i = 0; i < directions && i < 63; ++i) value->push_back((bits >> i) & 1);
    return true;
  }

  template <typename T>
  bool operator()(const char* name, T* value) const {
    using Stored = std::conditional_t<std::is_same_v<T, std::string>, std::string_view, T>;
    const auto found = attributes_.get<Stored>(name);
    if (!found.has_value()) return false;
    *value = T(found.value());
    return true;
  }

 private:
  const ffi::Dictionary& attributes_;
};

template <typename Buffers>
std::vector<Tensor> TensorsOf(const Buffers& buffers) {
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < buffers.size(); ++i) {
    auto buffer = buffers.template get<ffi::AnyBuffer>(i);
    if constexpr (std::is_same_v<Buffers, ffi::RemainingArgs>) {
      tensors.push_back(buffer.has_value() ? TensorOf(*buffer) : Tensor());
    } else {
      tensors.push_back(buffer.has_value() ? TensorOf(**buffer) : Tensor());
    }
  }
  return tensors;
}

std::string CheckResults(const std::vector<Tensor>& expected, const std::vector<Tensor>& results) {
  if (results.size() != expected.size()) {
    return "there must be " + std::to_string(expected.size()) + " results. Received: " + std::to_string(results.size());
  }
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].shape == expected[i].shape && results[i].element == expected[i].element) continue;
    return "result " + std::to_string(i) + " must have the shape " + ToString(expected[i].shape) +
           " and its type. Received: " + ToString(results[i].shape);
  }
  return "";
}

ffi::Error Invalid(const Operation& operation, Pass pass, const std::string& error) {
  const std::string gradient = pass == Pass::kBackward ? "Grad" : "";
  return ffi::Error::InvalidArgument("KerasSeq>" + std::string(operation.name) + gradient + ": " + error);
}

template <const Operation& operation, Pass pass>
ffi::Error Handle(ffi::ThreadPool pool, ffi::RemainingArgs arguments, ffi::RemainingRets results,
                  ffi::Dictionary attributes) {
  Call call;
  std::string error = ReadCall(operation, pass, Reader(attributes), &call);
  if (!error.empty()) return Invalid(operation, pass, error);
  const std::vector<Tensor> inputs = TensorsOf(arguments), outputs = TensorsOf(results);
  Sizes sizes;
  Element element;
  error = CheckInputs(call, inputs, &sizes, &element);
  if (error.empty()) error = CheckResults(Outputs(call, sizes, element), outputs);
  if (!error.empty()) return Invalid(operation, pass, error);
  const Executor executor = SharedThreads(pool.num_threads());
  if (RunCall(call, sizes, element, inputs, outputs, {}, executor)) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "KerasSeq>" + std::string(operation.name) + ": out of memory");
}

}  // namespace
}  // namespace keras_seq

#define KERAS_SEQ_EXPORT extern "C" __attribute__((visibility("default")))

#define KERAS_SEQ_HANDLER(symbol, operation, pass)                                        \
  KERAS_SEQ_EXPORT XLA_FFI_Error* symbol(XLA_FFI_CallFrame* frame);                       \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(symbol, (keras_seq::Handle<keras_seq::operation,          \
                                                           keras_seq::Pass::pass>),       \
                                xla::ffi::Ffi::Bind()                                     \
                                    .Ctx<xla::ffi::ThreadPool>()                          \
                                    .RemainingArgs()                                      \
                                    .RemainingRets()                                      \
                                    .Attrs());

#define KERAS_SEQ_HANDLERS(name, ...)                              \
  KERAS_SEQ_HANDLER(KerasSeq##name, k##name##Operation, kForward)  \
  KERAS_SEQ_HANDLER(KerasSeq##name##Grad, k##name##Operation, kBackward)

KERAS_SEQ_FOR_EACH_OP(KERAS_SEQ_HANDLERS)

// InstructionSet of kernels/recurrence.h.
KERAS_SEQ_EXPORT const char* KerasSeqInstructionSet(const char** error) { return keras_seq::InstructionSet(error); }

// The table of ops as JSON; see describe.cc.
KERAS_SEQ_EXPORT const char* KerasSeqDescribeOps() { return keras_seq::DescribeOps().c_str(); }

// The size of the residuals of one direction, which JAX must know before the call; -1 if there is no such call.
// `source` is -1 if the call does not attend, `hidden_units` if it does not project.
KERAS_SEQ_EXPORT int64_t KerasSeqResidualSize(const char* cell, const char* dtype, bool reset_after, bool layer_norm,
                                              int64_t batch, int64_t time, int64_t features, int64_t units,
                                              int64_t source, int64_t memory_units, int64_t attention_units,
                                              int64_t hidden_units) {
  return keras_seq::ResidualSizeByName(
      cell, dtype, reset_after, layer_norm,
      {batch, time, features, units, source, memory_units, attention_units, batch, hidden_units});
}
