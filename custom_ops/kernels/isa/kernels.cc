// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set: this file is compiled once for each.
#include "../kernel_table.h"
#include "attention.h"
#include "backward.h"
#include "crossentropy.h"
#include "dropout.h"
#include "forward.h"
#include "layer_norm_cells.h"
#include "product.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {
namespace {

// Whether another instruction set's kernels run float32 and float64; `SelectedKernels` sees to that.
#if defined(KERAS_SEQ_ONLY_BFLOAT16)
constexpr bool kOnlyBFloat16 = true;
#else
constexpr bool kOnlyBFloat16 = false;
#endif

// How many threads are worth synchronising: a step should give each a few microseconds of work.
int WorkersFor(const Problem& problem, int64_t direction_count, int threads) {
  const double columns = 1.0 * Gates(problem.cell) * problem.units;
  double step = 2.0 * problem.batch * columns * (problem.units + problem.features);
  if (problem.attends) {
    const bool additive = problem.score == Score::kAdditive;
    const double energy = additive ? 20 : 2;  // operations for each unit; most of them are those of tanh
    step += 2.0 * problem.batch * columns * FedUnits(problem);
    step += 2.0 * problem.batch * (problem.units + problem.memory_units) * problem.attentional_units;
    if (additive) step += 2.0 * problem.batch * problem.units * problem.attention_units;
    step += problem.batch * problem.source * (energy * problem.attention_units + 2.0 * problem.memory_units);
  }
  if (step * direction_count * problem.time < kTuning.call_operations) return 1;
  const double workers = step * direction_count / kTuning.step_operations;
  return workers < threads ? static_cast<int>(workers) + 1 : threads;
}

template <class Pass>
bool RunPass(Pass& pass, const Problem& problem, int64_t direction_count, const Executor& executor) {
  if (!pass.Allocate()) return false;
  const int workers = WorkersFor(problem, direction_count, executor.threads);
  RunTeam(executor, workers, [&pass](Worker& worker) { pass.Run(worker); });
  return true;
}

// Calls function(equations) with those of the problem's cell, plain or with an extension.
template <class Function>
auto WithCell(const Problem& problem, Function&& function) {
  const bool extended = problem.layer_norm || problem.projects;
  return extended ? WithExtendedEquations(problem, function) : WithEquations(problem, function);
}

// The type of the caller's buffers, and what a product multiplies.
template <class S_, class Element_>
struct PassTypes {
  using S = S_;
  using Element = Element_;
};

// Calls function(types) with those of a pass.
template <class Function>
bool WithTypes(const Problem& problem, Function&& function) {
#if defined(__AVX512BF16__)
  if (kOnlyBFloat16 || problem.dtype == DataType::kBFloat16) return function(PassTypes<BFloat16, BFloat16Pair>{});
#endif
  if constexpr (!kOnlyBFloat16) {
    if (problem.dtype == DataType::kFloat64) return function(PassTypes<double, double>{});
    return function(PassTypes<float, float>{});
  }
}

// Calls function(equations, types, attention) with those of a pass: the problem's cell, plain or with an extension, and
// the policy of its attention. In bfloat16 there are only plain cells without attention: dispatch.cc converts the others
// to float32.
template <class Function>
bool WithPass(const Problem& problem, Function&& function) {
  return WithTypes(problem, [&](auto types) {
    if constexpr (sizeof(typename decltype(types)::S) < sizeof(typename decltype(types)::Element)) {
      return WithEquations(problem, [&](auto equations) { return function(equations, types, NoAttention{}); });
    } else {
      return WithCell(problem, [&](auto equations) {
        if (problem.attends) return function(equations, types, MemoryAttention{});
        return function(equations, types, NoAttention{});
      });
    }
  });
}

template <class Equations, class Types, class Attention>
using ForwardOf = ForwardPass<Equations, typename Types::S, typename Types::Element, Attention>;
template <class Equations, class Types, class Attention>
using BackwardOf = BackwardPass<Equations, typename Types::S, typename Types::Element, Attention>;

bool Forward(const Problem& problem, const Arguments* arguments, const Results* results, int64_t direction_count,
             const Executor& executor) {
  return WithPass(problem, [&](auto equations, auto types, auto attention) {
    Workspace workspace;
    ForwardOf<decltype(equations), decltype(types), decltype(attention)> pass(problem, arguments, results,
                                                                              direction_count, workspace);
    return RunPass(pass, problem, direction_count, executor);
  });
}

bool Backward(const Problem& problem, const Arguments* arguments, const Results* results, const Upstream* upstream,
              const Gradients* gradients, int64_t direction_count, const Executor& executor) {
  return WithPass(problem, [&](auto equations, auto types, auto attention) {
    BackwardOf<decltype(equations), decltype(types), decltype(attention)> pass(problem, arguments, results, upstream,
                                                                               gradients, direction_count);
    return RunPass(pass, problem, direction_count, executor);
  });
}

// A pass over no steps of no sequences, which leaves its weights behind.
bool PackWeights(const Problem& problem, const Arguments& arguments, const Executor& executor,
                 PackedWeights* packed) {
  Problem empty = problem;
  empty.batch = empty.time = 0;
  empty.mask = empty.memory_mask = nullptr;
  Arguments weights = arguments;
  weights.initial_state[0] = weights.initial_state[1] = nullptr;
  weights.packed = nullptr;
  const Results results = {};
  return WithPass(problem, [&](auto equations, auto types, auto attention) {
    ForwardOf<decltype(equations), decltype(types), decltype(attention)> pass(empty, &weights, &results, 1,
                                                                              packed->workspace);
    if (!RunPass(pass, problem, 1, executor)) return false;
    pass.Export(packed);
    return true;
  });
}

bool PackProduct(const Product& product, PackedWeights* packed) {
  return product.dtype == DataType::kFloat64 ? ProductPass<double>(product).Pack(packed)
                                             : ProductPass<float>(product).Pack(packed);
}

template <class T>
void RunProduct(const Product& product, const PackedWeights& packed, const Executor& executor) {
  const double workers = 2.0 * product.rows * product.depth * product.columns / kTuning.product_operations;
  const ProductPass<T> pass(product);
  RunTeam(executor, workers < executor.threads ? static_cast<int>(workers) + 1 : executor.threads,
          [&](Worker& worker) { pass.Run(worker, packed); });
}

bool Multiply(const Product& product, const PackedWeights& packed, const Executor& executor) {
  const auto run = product.dtype == DataType::kFloat64 ? RunProduct<double> : RunProduct<float>;
  run(product, packed, executor);
  return true;
}

int64_t ResidualSizeOfLayout(const Problem& problem) {
  const Memory<float> memory(problem, Arguments{});
  const int64_t attention = problem.attends ? memory.QueriesSize(problem) + memory.ContextsSize(problem) : 0;
  return WithCell(problem, [&](auto equations) {
    using Equations = decltype(equations);
    const Layout layout(problem.batch, problem.units, Equations::kUnitVectors);
    return problem.time * layout.StepSize(Equations::kResidualSlots) + attention;
  });
}

template <class T, Vector<T> (*Function)(Vector<T>)>
void Apply(const void* from, void* to, int64_t count) {
  const T* x = static_cast<const T*>(from);
  T* y = static_cast<T*>(to);
  for (int64_t i = 0; i < count; i += kLanes<T>) StoreFirst(y + i, Function(LoadFirst(x + i, count - i)), count - i);
}

void ApplySigmoid(const void* from, void* to, int64_t count, DataType dtype) {
  dtype == DataType::kFloat64 ? Apply<double, Sigmoid<double>>(from, to, count)
                              : Apply<float, Sigmoid<float>>(from, to, count);
}

void ApplyTanh(const void* from, void* to, int64_t count, DataType dtype) {
  dtype == DataType::kFloat64 ? Apply<double, Tanh<double>>(from, to, count)
                              : Apply<float, Tanh<float>>(from, to, count);
}

}  // namespace

const KernelTable& Kernels() {
#if defined(__AVX512BF16__)
  constexpr bool kBFloat16 = true;
#else
  constexpr bool kBFloat16 = false;
#endif
  static constexpr KernelTable table{Forward,     PackWeights,           PackProduct, Multiply,
                                     Backward,    DrawDropout,           RunCrossentropyOfType, kBFloat16,
                                     ResidualSizeOfLayout, ApplySigmoid, ApplyTanh};
  return table;
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq
