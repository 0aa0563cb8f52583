// SPDX-License-Identifier: Apache-2.0
// Chooses the instruction set. Runs bfloat16 in float32 buffers where the instruction set has no bfloat16.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernel_table.h"
#include "layout.h"
#include "packed_weights.h"
#include "team.h"
#include "workspace.h"

namespace keras_seq {
namespace {

struct Candidate {
  const char* name;
  bool supported;
  const KernelTable* kernels;
  const KernelTable* bfloat16_kernels = nullptr;  // if they are not among `kernels`
};

struct Selection {
  const char* name = nullptr;
  const KernelTable *kernels = nullptr, *bfloat16_kernels = nullptr;
  std::string error;
};

Selection Select() {
#if defined(KERAS_SEQ_X86)
  __builtin_cpu_init();
  [[maybe_unused]] const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  [[maybe_unused]] const bool has_avx512 =
      has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  [[maybe_unused]] const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
#endif
  const Candidate candidates[] = {
#if defined(KERAS_SEQ_HAS_AVX512_BF16) && defined(KERAS_SEQ_HAS_AVX512)
      {"avx512_bf16", has_bf16, &avx512::Kernels(), &avx512_bf16::Kernels()},  // float32 and float64 are compiled once
#elif defined(KERAS_SEQ_HAS_AVX512_BF16)
      {"avx512_bf16", has_bf16, &avx512_bf16::Kernels()},
#endif
#if defined(KERAS_SEQ_HAS_AVX512)
      {"avx512", has_avx512, &avx512::Kernels()},
#endif
#if defined(KERAS_SEQ_HAS_AVX2)
      {"avx2", has_avx2, &avx2::Kernels()},
#endif
#if defined(KERAS_SEQ_HAS_PORTABLE)
      {"portable", true, &portable::Kernels()},
#endif
  };
  const char* requested = std::getenv("KERAS_SEQ_ISA");
  const bool any = requested == nullptr || *requested == '\0';
  Selection selection;
  std::string names;
  for (const Candidate& candidate : candidates) {
    if (!candidate.supported) continue;
    if (any || std::strcmp(candidate.name, requested) == 0) {
      selection.name = candidate.name;
      selection.kernels = selection.bfloat16_kernels = candidate.kernels;
      if (candidate.bfloat16_kernels != nullptr) selection.bfloat16_kernels = candidate.bfloat16_kernels;
      return selection;
    }
    names += std::string(names.empty() ? "" : ", ") + candidate.name;
  }
  selection.error = "KERAS_SEQ_ISA must be one of " + names + " on this CPU. Received: " + (any ? "none" : requested);
  return selection;
}

const Selection& Selected() {
  static const Selection selection = Select();
  return selection;
}

// Float32 copies of the buffers of a bfloat16 call.
class Float32Copies {
 public:
  explicit Float32Copies(const Problem& problem) : problem_(problem) {}

  // A copy that `Fill` will write.
  const void* Read(const void* from, int64_t count) {
    if (from == nullptr) return nullptr;
    float* copy = workspace_.Allocate<float>(count);
    reads_.push_back({static_cast<const uint16_t*>(from), copy, count});
    return copy;
  }

  void* Write(void* to, int64_t count) {
    if (to == nullptr) return nullptr;
    float* copy = workspace_.Allocate<float>(count);
    writes_.push_back({copy, static_cast<uint16_t*>(to), count});
    return copy;
  }

  // Fills the copies of arguments. Returns false if memory ran out.
  bool Fill(const Executor& executor) {
    if (!workspace_.ok()) return false;
    ConvertAll(reads_, executor, [](const Reading& part) {
      for (int64_t i = 0; i < part.count; ++i) {
        const uint32_t bits = static_cast<uint32_t>(part.from[i]) << 16;
        std::memcpy(part.to + i, &bits, sizeof bits);
      }
    });
    return true;
  }

  // Copies the results back as bfloat16: rounds to nearest, ties to even.
  void Flush(const Executor& executor) {
    ConvertAll(writes_, executor, [](const Written& part) {
      for (int64_t i = 0; i < part.count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, part.from + i, sizeof bits);
        const bool nan = part.from[i] != part.from[i];
        part.to[i] = static_cast<uint16_t>(nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
      }
    });
  }

  UnitMask Mask(const UnitMask& mask, int64_t units) {
    const int64_t rows = mask.per_step ? problem_.batch * problem_.time : problem_.batch;
    return {Read(mask.data, rows * units), mask.per_step};
  }

  Arguments Copy(const Arguments& from) {
    const int64_t gates = Gates(problem_.cell), units = problem_.units;
    Arguments to = from;
    const int64_t features = problem_.multiplied ? gates * units : problem_.features;
    to.inputs = Read(from.inputs, problem_.batch * problem_.time * features);
    if (from.packed == nullptr) CopyWeights(from, &to);
    to.memory = Read(from.memory, MemorySize());
    to.keys = Read(from.keys, KeysSize());
    to.initial_coverage = Read(from.initial_coverage, problem_.batch * problem_.source);
    to.energy_bias = Read(from.energy_bias, AttentionWeightsSize());
    to.initial_weights = Read(from.initial_weights, problem_.batch * problem_.source);
    to.initial_fed = Read(from.initial_fed, problem_.batch * FedUnits(problem_));
    to.recurrent_dropout_mask = Mask(from.recurrent_dropout_mask, StateUnits(0));
    for (int s = 0; s < 2; ++s) {
      to.initial_state[s] = Read(from.initial_state[s], StateSize(s));
      to.zoneout_masks[s] = Mask(from.zoneout_masks[s], StateUnits(s));
    }
    return to;
  }

  int64_t StateUnits(int state) const { return state == 0 ? HiddenUnits(problem_) : problem_.units; }
  int64_t StateSize(int state) const { return problem_.batch * StateUnits(state); }

  void CopyWeights(const Arguments& from, Arguments* to) {
    to->kernel = Read(from.kernel, KernelSize());
    to->recurrent_kernel = Read(from.recurrent_kernel, StateUnits(0) * Gates(problem_.cell) * problem_.units);
    to->bias = Read(from.bias, BiasSize());
    to->query_kernel = Read(from.query_kernel, QueryKernelSize());
    to->score_vector = Read(from.score_vector, problem_.attention_units);
    to->coverage_kernel = Read(from.coverage_kernel, problem_.attention_units);
    to->attentional_kernel = Read(from.attentional_kernel, AttentionalKernelSize());
    for (int i = 0; i < kExtraWeightCount; ++i) {
      to->extra_weights[i] = Read(from.extra_weights[i], ExtraWeightSize(problem_, kExtraWeights[i].weight));
    }
  }

  int64_t BiasSize() const {
    const bool two = TraitsOf(problem_.cell).HasTwoBiases(problem_.reset_after);
    return Gates(problem_.cell) * problem_.units * (two ? 2 : 1);
  }

  int64_t KernelSize() const {
    return (problem_.features + FedUnits(problem_)) * Gates(problem_.cell) * problem_.units;
  }
  int64_t MemorySize() const {
    return Positions() * (HasMemoryProducts(problem_) ? Gates(problem_.cell) * problem_.units : problem_.memory_units);
  }
  int64_t AttentionalKernelSize() const {
    return (StateUnits(0) + problem_.memory_units) * problem_.attentional_units;
  }
  int64_t QueryKernelSize() const { return StateUnits(0) * problem_.attention_units; }
  int64_t KeysSize() const { return Positions() * problem_.attention_units; }
  int64_t Positions() const { return problem_.batch / problem_.sequences_per_memory * problem_.source; }
  int64_t AttentionWeightsSize() const { return problem_.batch * problem_.time * problem_.source; }

 private:
  struct Written {
    const float* from;
    uint16_t* to;
    int64_t count;
  };
  struct Reading {
    const uint16_t* from;
    float* to;
    int64_t count;
  };

  // Calls convert(part) for parts of all copies, on a team of threads.
  template <class Copy, class Function>
  static void ConvertAll(const std::vector<Copy>& copies, const Executor& executor, const Function& convert) {
    constexpr int64_t kPart = 1 << 16;  // elements, worth a thread
    std::vector<Copy> parts;
    for (const Copy& copy : copies) {
      for (int64_t first = 0; first < copy.count; first += kPart) {
        parts.push_back({copy.from + first, copy.to + first, std::min(kPart, copy.count - first)});
      }
    }
    const int64_t count = static_cast<int64_t>(parts.size());
    RunTeam(executor, static_cast<int>(std::min<int64_t>(count, executor.threads)),
            [&](Worker& worker) { worker.ForEach(count, [&](int64_t item) { convert(parts[item]); }); });
  }

  Problem problem_;
  Workspace workspace_;
  std::vector<Reading> reads_;
  std::vector<Written> writes_;
};

// Whether the kernels cannot run a call as it is.
bool NeedsFloat32(const Problem& problem) {
  return problem.dtype == DataType::kBFloat16 &&
         (problem.attends || problem.layer_norm || problem.projects || !SelectedKernels(problem.dtype)->bfloat16);
}

bool PackThroughFloat32(Problem problem, const Arguments& arguments, const Executor& executor,
                        PackedWeights* packed) {
  Float32Copies copies(problem);
  Arguments in = arguments;
  copies.CopyWeights(arguments, &in);
  problem.dtype = DataType::kFloat32;
  return copies.Fill(executor) && SelectedKernels()->pack(problem, in, executor, packed);
}

bool ForwardThroughFloat32(Problem problem, const std::vector<Arguments>& arguments,
                           const std::vector<Results>& results, const Executor& executor) {
  Float32Copies copies(problem);
  std::vector<Arguments> in;
  std::vector<Results> out;
  const int64_t fed = problem.batch * FedUnits(problem);
  for (size_t d = 0; d < arguments.size(); ++d) {
    in.push_back(copies.Copy(arguments[d]));
    out.push_back(results[d]);
    out[d].outputs = copies.Write(results[d].outputs, copies.StateSize(0) * problem.time);
    for (int s = 0; s < 2; ++s) out[d].final_state[s] = copies.Write(results[d].final_state[s], copies.StateSize(s));
    out[d].attention_weights = copies.Write(results[d].attention_weights, copies.AttentionWeightsSize());
    out[d].fed = copies.Write(results[d].fed, fed * problem.time);
    out[d].final_fed = copies.Write(results[d].final_fed, fed);
    out[d].final_weights = copies.Write(results[d].final_weights, problem.batch * problem.source);
    out[d].final_coverage = copies.Write(results[d].final_coverage, problem.batch * problem.source);
  }
  problem.dtype = DataType::kFloat32;
  if (!copies.Fill(executor)) return false;
  if (!SelectedKernels()->forward(problem, in.data(), out.data(), in.size(), executor)) return false;
  copies.Flush(executor);
  return true;
}

bool BackwardThroughFloat32(Problem problem, const std::vector<Arguments>& arguments,
                            const std::vector<Results>& results, const std::vector<Upstream>& upstream,
                            const std::vector<Gradients>& gradients, const Executor& executor) {
  Float32Copies copies(problem);
  std::vector<Arguments> in;
  std::vector<Results> forward_results;
  std::vector<Upstream> up;
  std::vector<Gradients> out;
  const int64_t hidden = copies.StateUnits(0), gates = Gates(problem.cell) * problem.units;
  const int64_t fed = problem.batch * FedUnits(problem);
  for (size_t d = 0; d < arguments.size(); ++d) {
    in.push_back(copies.Copy(arguments[d]));
    forward_results.push_back(results[d]);
    forward_results[d].outputs = const_cast<void*>(copies.Read(results[d].outputs, copies.StateSize(0) * problem.time));
    forward_results[d].attention_weights =
        const_cast<void*>(copies.Read(results[d].attention_weights, copies.AttentionWeightsSize()));
    forward_results[d].fed = const_cast<void*>(copies.Read(results[d].fed, fed * problem.time));
    up.push_back({copies.Read(upstream[d].outputs, copies.StateSize(0) * problem.time), {}});
    up[d].attention_weights = copies.Read(upstream[d].attention_weights, copies.AttentionWeightsSize());
    up[d].fed = copies.Read(upstream[d].fed, fed * problem.time);
    up[d].final_fed = copies.Read(upstream[d].final_fed, fed);
    up[d].final_weights = copies.Read(upstream[d].final_weights, problem.batch * problem.source);
    up[d].final_coverage = copies.Read(upstream[d].final_coverage, problem.batch * problem.source);
    Gradients to;
    to.inputs = copies.Write(gradients[d].inputs, problem.batch * problem.time * problem.features);
    to.kernel = copies.Write(gradients[d].kernel, copies.KernelSize());
    to.recurrent_kernel = copies.Write(gradients[d].recurrent_kernel, hidden * gates);
    to.bias = copies.Write(gradients[d].bias, copies.BiasSize());
    to.memory = copies.Write(gradients[d].memory, copies.MemorySize());
    to.keys = copies.Write(gradients[d].keys, copies.KeysSize());
    to.query_kernel = copies.Write(gradients[d].query_kernel, copies.QueryKernelSize());
    to.score_vector = copies.Write(gradients[d].score_vector, problem.attention_units);
    to.coverage_kernel = copies.Write(gradients[d].coverage_kernel, problem.attention_units);
    to.initial_coverage = copies.Write(gradients[d].initial_coverage, problem.batch * problem.source);
    to.energy_bias = copies.Write(gradients[d].energy_bias, copies.AttentionWeightsSize());
    to.initial_weights = copies.Write(gradients[d].initial_weights, problem.batch * problem.source);
    to.initial_fed = copies.Write(gradients[d].initial_fed, fed);
    to.attentional_kernel = copies.Write(gradients[d].attentional_kernel, copies.AttentionalKernelSize());
    for (int i = 0; i < kExtraWeightCount; ++i) {
      to.extra_weights[i] =
          copies.Write(gradients[d].extra_weights[i], ExtraWeightSize(problem, kExtraWeights[i].weight));
    }
    out.push_back(to);
    for (int s = 0; s < 2; ++s) {
      up[d].final_state[s] = copies.Read(upstream[d].final_state[s], copies.StateSize(s));
      out[d].initial_state[s] = copies.Write(gradients[d].initial_state[s], copies.StateSize(s));
    }
  }
  problem.dtype = DataType::kFloat32;
  if (!copies.Fill(executor)) return false;
  if (!SelectedKernels()->backward(problem, in.data(), forward_results.data(), up.data(), out.data(), in.size(),
                                   executor)) {
    return false;
  }
  copies.Flush(executor);
  return true;
}

// Calls `function` with results that have residuals: those given or, if they have none, those of another forward pass.
template <class Function>
bool WithResiduals(const Problem& problem, const std::vector<Arguments>& arguments, const std::vector<Results>& results,
                   const Executor& executor, Function&& function) {
  if (results[0].residuals != nullptr || ResidualSize(problem) == 0) {
    return function(results);
  }
  Workspace workspace;
  std::vector<Results> recomputed = results;
  for (Results& result : recomputed) {
    const int64_t size = ResidualSize(problem);
    result.residuals = problem.dtype == DataType::kFloat64 ? static_cast<void*>(workspace.Allocate<double>(size))
                                                           : static_cast<void*>(workspace.Allocate<float>(size));
    result.outputs = result.attention_weights = result.fed = nullptr;  // already known
    result.final_state[0] = result.final_state[1] = result.final_fed = nullptr;
    result.final_coverage = result.final_weights = nullptr;
  }
  if (!workspace.ok() || !Forward(problem, arguments, recomputed, executor)) return false;
  for (size_t d = 0; d < results.size(); ++d) {
    recomputed[d].outputs = results[d].outputs;
    recomputed[d].attention_weights = results[d].attention_weights;
    recomputed[d].fed = results[d].fed;
  }
  return function(recomputed);
}

}  // namespace

int Gates(CellKind cell) { return TraitsOf(cell).gates; }

int States(CellKind cell) { return TraitsOf(cell).states; }

int64_t FedUnits(const Problem& problem) {
  return problem.attentional ? problem.attentional_units : problem.memory_units;
}

int64_t ExtraWeightSize(const Problem& problem, ExtraWeight weight) {
  switch (weight) {
    case kPeepholeKernel:
      return 3 * problem.units;
    case kProjectionKernel:
      return problem.units * HiddenUnits(problem);
    case kInputGamma:
    case kRecurrentGamma:
      return Gates(problem.cell) * problem.units;
    case kStateGamma:
    case kStateBeta:
      return problem.units;
    case kExtraWeightCount:
      break;
  }
  return 0;
}

int64_t ResidualSize(const Problem& problem) {
  const CellTraits& cell = TraitsOf(problem.cell);
  const int64_t query_units = problem.score == Score::kDot ? 0 : problem.attention_units;  // those of h are outputs
  return problem.time * problem.batch *
         ResidualRowSize(cell.ResidualSlots(problem.reset_after, problem.layer_norm, problem.projects),
                         cell.unit_vectors, problem.units, query_units, problem.memory_units);
}

std::shared_ptr<const PackedWeights> Pack(const Problem& problem, const Arguments& arguments,
                                          const Executor& executor) {
  auto packed = std::make_shared<PackedWeights>();
  if (NeedsFloat32(problem)) return PackThroughFloat32(problem, arguments, executor, packed.get()) ? packed : nullptr;
  return SelectedKernels(problem.dtype)->pack(problem, arguments, executor, packed.get()) ? packed : nullptr;
}

std::shared_ptr<const PackedWeights> PackProduct(const Product& product) {
  auto packed = std::make_shared<PackedWeights>();
  return SelectedKernels()->pack_product(product, packed.get()) ? packed : nullptr;
}

bool Multiply(const Product& product, const Executor& executor) {
  const std::shared_ptr<const PackedWeights> packed = product.packed ? product.packed : PackProduct(product);
  return packed != nullptr && SelectedKernels()->multiply(product, *packed, executor);
}

void ComputeCrossentropy(const Crossentropy& crossentropy, const Executor& executor) {
  SelectedKernels()->crossentropy(crossentropy, executor);
}

bool Forward(const Problem& problem, const std::vector<Arguments>& arguments, const std::vector<Results>& results,
             const Executor& executor) {
  if (NeedsFloat32(problem)) {
    return ForwardThroughFloat32(problem, arguments, results, executor);
  }
  const KernelTable* kernels = SelectedKernels(problem.dtype);
  return kernels->forward(problem, arguments.data(), results.data(), arguments.size(), executor);
}

bool Backward(const Problem& problem, const std::vector<Arguments>& arguments, const std::vector<Results>& results,
              const std::vector<Upstream>& upstream, const std::vector<Gradients>& gradients,
              const Executor& executor) {
  return WithResiduals(problem, arguments, results, executor, [&](const std::vector<Results>& complete) {
    if (NeedsFloat32(problem)) {
      return BackwardThroughFloat32(problem, arguments, complete, upstream, gradients, executor);
    }
    const KernelTable* kernels = SelectedKernels(problem.dtype);
    return kernels->backward(problem, arguments.data(), complete.data(), upstream.data(), gradients.data(),
                                       arguments.size(), executor);
  });
}

const char* InstructionSet(const char** error) {
  if (error != nullptr) *error = Selected().name == nullptr ? Selected().error.c_str() : nullptr;
  return Selected().name;
}

const KernelTable* SelectedKernels(DataType dtype) {
  return dtype == DataType::kBFloat16 ? Selected().bfloat16_kernels : Selected().kernels;
}

}  // namespace keras_seq
