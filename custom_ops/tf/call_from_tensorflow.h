// SPDX-License-Identifier: Apache-2.0
// Translates TensorFlow's types and attributes into those of xla/call.h.
#ifndef KERAS_SEQ_TF_CALL_FROM_TENSORFLOW_H_
#define KERAS_SEQ_TF_CALL_FROM_TENSORFLOW_H_

#include <string>

#include "tensorflow/core/framework/types.pb.h"
#include "xla/call.h"

namespace keras_seq {

inline Element ElementOf(tensorflow::DataType type) {
  switch (type) {
    case tensorflow::DT_FLOAT:
      return Element::kFloat32;
    case tensorflow::DT_DOUBLE:
      return Element::kFloat64;
    case tensorflow::DT_BFLOAT16:
      return Element::kBFloat16;
    case tensorflow::DT_BOOL:
      return Element::kBool;
    default:
      return Element::kOther;
  }
}

// ReadCall for any class with TensorFlow's GetAttr. Also checks that R, the type of the residuals, follows from T.
template <typename Context>
std::string ReadCallFrom(Context* context, const Operation& operation, Pass pass, Call* call) {
  auto get = [context](const char* name, auto* value) { return context->GetAttr(name, value).ok(); };
  tensorflow::DataType data, residuals;
  if (!get("T", &data) || !get("R", &residuals)) return "the attribute `T` or `R` is missing";
  if ((data == tensorflow::DT_DOUBLE) != (residuals == tensorflow::DT_DOUBLE)) {
    return "`R` must be float64 if `T` is, else float32";
  }
  return ReadCall(operation, pass, get, call);
}

}  // namespace keras_seq

#endif  // KERAS_SEQ_TF_CALL_FROM_TENSORFLOW_H_
