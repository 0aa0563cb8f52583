// SPDX-License-Identifier: Apache-2.0
// From the flat lists of tensors of a call to the structs of kernels/recurrence.h, and to the kernels.
#include <cstring>
#include <memory>
#include <new>

#include "xla/call.h"
#include "xla/sizes.h"

namespace keras_seq {
namespace {

// The tensors of a call, by the names of its arguments or results.
class Operands {
 public:
  Operands(const std::vector<ArgumentSpec>& specs, const std::vector<int64_t>& counts,
           const std::vector<Tensor>& tensors) {
    size_t first = 0;
    for (size_t i = 0; i < specs.size(); ++i) {
      entries_.push_back({specs[i].name, tensors.data() + first, counts[i]});
      first += counts[i];
    }
  }

  // Null if the list is absent or empty.
  const Tensor* Find(const char* name, int64_t direction) const {
    for (const Entry& entry : entries_) {
      if (!std::strcmp(entry.name, name)) return direction < entry.count ? entry.first + direction : nullptr;
    }
    return nullptr;
  }

  void* Data(const char* name, int64_t direction) const {
    const Tensor* tensor = Find(name, direction);
    return tensor ? tensor->data : nullptr;
  }

  UnitMask UnitMaskOf(const char* name, int64_t direction) const {
    const Tensor* tensor = Find(name, direction);
    return tensor ? UnitMask{tensor->data, tensor->shape.size() == 3} : UnitMask{};
  }

 private:
  struct Entry {
    const char* name;
    const Tensor* first;
    int64_t count;
  };
  std::vector<Entry> entries_;
};

int64_t ElementsOf(const Tensor& tensor) {
  int64_t elements = 1;
  for (int64_t size : tensor.shape) elements *= size;  // at most 2^40: CheckInputs checks that
  return elements;
}

// Copies from `all` to `needed` the sizes that tensors with elements have.
void CopyNeeded(const std::vector<ArgumentSpec>& specs, const std::vector<int64_t>& counts,
                const std::vector<Tensor>& tensors, Sizes* all, Sizes* needed) {
  size_t next = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    for (int64_t j = 0; j < counts[i]; ++j) {
      const Tensor& tensor = tensors[next++];
      if (ElementsOf(tensor) == 0) continue;
      for (const Axes& axes : specs[i].shapes) {
        if (axes.size() != tensor.shape.size()) continue;
        for (Axis axis : axes) {
          const std::vector<int64_t*> from = PartsOf(axis, all), to = PartsOf(axis, needed);
          for (size_t part = 0; part < to.size(); ++part) *to[part] = *from[part];
        }
      }
    }
  }
}

// The sizes, but 0 for axes that only empty tensors have. Such an axis costs no memory and may be huge, like the time
// of (0, 2^40, 8), and the kernels would loop over it for nothing.
Sizes NeededSizes(const Call& call, Sizes sizes, const std::vector<Tensor>& inputs,
                  const std::vector<Tensor>& outputs) {
  Sizes needed{0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  CopyNeeded(call.signature.inputs, call.input_counts, inputs, &sizes, &needed);
  if (!outputs.empty()) CopyNeeded(call.signature.outputs, call.output_counts, outputs, &sizes, &needed);
  return needed;
}

// A copy of a mask whose bytes are 0 and 1. The original may hold other bytes, such as those of a NumPy view of 0 and
// 255, and another thread may change it while the kernels count its rows.
class Mask {
 public:
  explicit Mask(const Tensor* tensor) {
    if (tensor == nullptr) return;
    const int64_t size = ElementsOf(*tensor);
    const unsigned char* bytes = static_cast<const unsigned char*>(tensor->data);
    data_.reset(new bool[size]);
    for (int64_t i = 0; i < size; ++i) data_[i] = bytes[i] != 0;
  }

  const bool* data() const { return data_.get(); }  // null if there is no mask

 private:
  std::unique_ptr<bool[]> data_;
};

void* ResidualsOf(const Call& call, const Operands& operands, int64_t direction) {
  static char nothing;  // null would mean to recompute the residuals, but empty ones may come without an address
  if (!call.keep_residuals) return nullptr;
  void* data = operands.Data("residuals", direction);
  return data ? data : &nothing;
}

Arguments ArgumentsOf(const Call& call, const Operands& inputs, int64_t direction) {
  Arguments arguments = {};
  arguments.reverse = call.reverse[direction];
  arguments.inputs = inputs.Data("inputs", direction);
  arguments.kernel = inputs.Data("kernel", direction);
  arguments.recurrent_kernel = inputs.Data("recurrent_kernel", direction);
  arguments.bias = inputs.Data("bias", direction);
  arguments.initial_state[0] = inputs.Data("initial_h", direction);
  arguments.initial_state[1] = inputs.Data("initial_c", direction);
  arguments.recurrent_dropout_mask = inputs.UnitMaskOf("recurrent_dropout_mask", direction);
  arguments.zoneout_masks[0] = inputs.UnitMaskOf("zoneout_mask_h", direction);
  arguments.zoneout_masks[1] = inputs.UnitMaskOf("zoneout_mask_c", direction);
  arguments.memory = inputs.Data("memory", direction);
  arguments.keys = inputs.Data("keys", direction);
  arguments.query_kernel = inputs.Data("query_kernel", direction);
  arguments.score_vector = inputs.Data("score_vector", direction);
  arguments.coverage_kernel = inputs.Data("coverage_kernel", direction);
  arguments.initial_coverage = inputs.Data("initial_coverage", direction);
  arguments.energy_bias = inputs.Data("energy_bias", direction);
  arguments.initial_weights = inputs.Data("initial_weights", direction);
  arguments.attentional_kernel = inputs.Data("attentional_kernel", direction);
  arguments.initial_fed = inputs.Data("initial_fed", direction);
  for (int i = 0; i < kExtraWeightCount; ++i) {
    arguments.extra_weights[i] = inputs.Data(kExtraWeights[i].name, direction);
  }
  return arguments;
}

// The results of the forward pass: its outputs, or the inputs of the backward pass, which has no final states.
Results ResultsOf(const Call& call, const Operands& operands, int64_t direction) {
  Results results = {};
  results.outputs = operands.Data("outputs", direction);
  results.final_state[0] = operands.Data("final_h", direction);
  results.final_state[1] = operands.Data("final_c", direction);
  results.residuals = ResidualsOf(call, operands, direction);
  results.attention_weights = operands.Data("attention_weights", direction);
  results.fed = operands.Data("fed", direction);
  results.final_fed = operands.Data("final_fed", direction);
  results.final_weights = operands.Data("final_weights", direction);
  results.final_coverage = operands.Data("final_coverage", direction);
  return results;
}

Upstream UpstreamOf(const Operands& inputs, int64_t direction) {
  Upstream upstream;
  upstream.outputs = inputs.Data("d_outputs", direction);
  upstream.attention_weights = inputs.Data("d_attention_weights", direction);
  upstream.fed = inputs.Data("d_fed", direction);
  upstream.final_fed = inputs.Data("d_final_fed", direction);
  upstream.final_weights = inputs.Data("d_final_weights", direction);
  upstream.final_coverage = inputs.Data("d_final_coverage", direction);
  upstream.final_state[0] = inputs.Data("d_final_h", direction);
  upstream.final_state[1] = inputs.Data("d_final_c", direction);
  return upstream;
}

Gradients GradientsOf(const Operands& outputs, int64_t direction) {
  Gradients gradients = {};
  gradients.inputs = outputs.Data("d_inputs", direction);
  gradients.kernel = outputs.Data("d_kernel", direction);
  gradients.recurrent_kernel = outputs.Data("d_recurrent_kernel", direction);
  gradients.bias = outputs.Data("d_bias", direction);
  gradients.initial_state[0] = outputs.Data("d_initial_h", direction);
  gradients.initial_state[1] = outputs.Data("d_initial_c", direction);
  gradients.memory = outputs.Data("d_memory", direction);
  gradients.keys = outputs.Data("d_keys", direction);
  gradients.query_kernel = outputs.Data("d_query_kernel", direction);
  gradients.score_vector = outputs.Data("d_score_vector", direction);
  gradients.coverage_kernel = outputs.Data("d_coverage_kernel", direction);
  gradients.initial_coverage = outputs.Data("d_initial_coverage", direction);
  gradients.energy_bias = outputs.Data("d_energy_bias", direction);
  gradients.initial_weights = outputs.Data("d_initial_weights", direction);
  gradients.attentional_kernel = outputs.Data("d_attentional_kernel", direction);
  gradients.initial_fed = outputs.Data("d_initial_fed", direction);
  for (int i = 0; i < kExtraWeightCount; ++i) {
    gradients.extra_weights[i] = outputs.Data(kExtraWeights[i].gradient, direction);
  }
  return gradients;
}

}  // namespace

bool IsWeight(const ArgumentSpec& input) {
  for (const char* name : {"kernel", "recurrent_kernel", "bias", "query_kernel", "score_vector", "coverage_kernel",
                           "attentional_kernel"}) {
    if (!std::strcmp(input.name, name)) return true;
  }
  for (const ExtraWeightTraits& extra : kExtraWeights) {
    if (!std::strcmp(input.name, extra.name)) return true;
  }
  return false;
}

PackedCall PackCall(const Call& call, const Sizes& sizes, Element element, const std::vector<Tensor>& inputs,
                    const Executor& executor) {
  try {
    const Operands in(call.signature.inputs, call.input_counts, inputs);
    const Problem problem = ProblemOf(call, NeededSizes(call, sizes, inputs, {}), element);
    PackedCall packed;
    for (size_t direction = 0; direction < call.reverse.size(); ++direction) {
      packed.push_back(Pack(problem, ArgumentsOf(call, in, direction), executor));
      if (packed.back() == nullptr) return {};
    }
    return packed;
  } catch (const std::bad_alloc&) {
    return {};
  }
}

bool RunCall(const Call& call, const Sizes& sizes, Element element, const std::vector<Tensor>& inputs,
             const std::vector<Tensor>& outputs, const PackedCall& packed, const Executor& executor) {
  try {
    const Operands in(call.signature.inputs, call.input_counts, inputs);
    const Operands out(call.signature.outputs, call.output_counts, outputs);
    const bool forward = call.pass == Pass::kForward;
    Problem problem = ProblemOf(call, NeededSizes(call, sizes, inputs, outputs), element);
    const Mask mask(in.Find("mask", 0)), memory_mask(in.Find("memory_mask", 0));
    problem.mask = mask.data();
    problem.memory_mask = memory_mask.data();
    std::vector<Arguments> arguments;
    std::vector<Results> results;
    std::vector<Upstream> upstream;
    std::vector<Gradients> gradients;
    for (size_t direction = 0; direction < call.reverse.size(); ++direction) {
      arguments.push_back(ArgumentsOf(call, in, direction));
      if (!packed.empty()) arguments.back().packed = packed[direction];
      results.push_back(ResultsOf(call, forward ? out : in, direction));
      upstream.push_back(UpstreamOf(in, direction));
      gradients.push_back(GradientsOf(out, direction));
    }
    if (forward) return Forward(problem, arguments, results, executor);
    return Backward(problem, arguments, results, upstream, gradients, executor);
  } catch (const std::bad_alloc&) {
    return false;
  }
}

}  // namespace keras_seq
