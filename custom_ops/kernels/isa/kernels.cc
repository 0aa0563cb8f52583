// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set: this file is compiled once for each.
#include "../kernel_table.h"
#include "backward.h"
#include "forward.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {
namespace {

// The structs of cells.h agree with the table of cells.
template <class CellType>
constexpr bool Matches(CellKind cell, bool reset_after = true) {
  return CellType::kGates == TraitsOf(cell).gates && CellType::kStates == TraitsOf(cell).states &&
         CellType::kUnitVectors == TraitsOf(cell).unit_vectors &&
         CellType::kKeptSlots == TraitsOf(cell).ResidualSlots(reset_after);
}
static_assert(Matches<LSTM>(CellKind::kLSTM) && Matches<SimpleRNN>(CellKind::kSimpleRNN) &&
              Matches<GRU>(CellKind::kGRU, true) && Matches<GRUResetBefore>(CellKind::kGRU, false));

// How many threads are worth their synchronisation: a step should give each some microseconds of work.
int WorkersFor(const Problem& problem, int64_t directions, int threads) {
  constexpr double kOperations = 4e5;
  const double columns = 1.0 * Gates(problem.cell) * problem.units;
  double step = 2.0 * problem.batch * columns * (problem.units + problem.features);
  if (problem.attends) {
    constexpr double kTanh = 20;  // operations
    step += 2.0 * problem.batch * (columns * problem.memory_units + 1.0 * problem.units * problem.attention_units);
    step += problem.batch * problem.source * (kTanh * problem.attention_units + 2.0 * problem.memory_units);
  }
  const double workers = step * directions / kOperations;
  return workers < threads ? static_cast<int>(workers) + 1 : threads;
}

template <class Pass>
bool RunPass(Pass& pass, const Problem& problem, int64_t directions, const Executor& executor) {
  if (!pass.Allocate()) return false;
  RunTeam(executor, WorkersFor(problem, directions, executor.threads), [&pass](Worker& worker) { pass.Run(worker); });
  return true;
}

template <class S, class Element>
bool ForwardOf(const Problem& problem, const Arguments* arguments, const Results* results, int64_t directions,
               const Executor& executor) {
  const auto run = [&](auto cell) {
    ForwardPass<decltype(cell), S, Element> pass(problem, arguments, results, directions);
    return RunPass(pass, problem, directions, executor);
  };
  if (problem.cell == CellKind::kLSTM) return run(LSTM{});
  if (problem.cell == CellKind::kSimpleRNN) return run(SimpleRNN{});
  return problem.reset_after ? run(GRU{}) : run(GRUResetBefore{});
}

template <class T>
bool BackwardOf(const Problem& problem, const Arguments* arguments, const Results* results, const Upstream* upstream,
                const Gradients* gradients, int64_t directions, const Executor& executor) {
  const auto run = [&](auto cell) {
    BackwardPass<decltype(cell), T> pass(problem, arguments, results, upstream, gradients, directions);
    return RunPass(pass, problem, directions, executor);
  };
  if (problem.cell == CellKind::kLSTM) return run(LSTM{});
  if (problem.cell == CellKind::kSimpleRNN) return run(SimpleRNN{});
  return problem.reset_after ? run(GRU{}) : run(GRUResetBefore{});
}

bool Forward(const Problem& problem, const Arguments* arguments, const Results* results, int64_t directions,
             const Executor& executor) {
#if defined(__AVX512BF16__)
  if (problem.dtype == DataType::kBFloat16) {
    return ForwardOf<BFloat16, BFloat16Pair>(problem, arguments, results, directions, executor);
  }
#endif
  if (problem.dtype == DataType::kFloat64) {
    return ForwardOf<double, double>(problem, arguments, results, directions, executor);
  }
  return ForwardOf<float, float>(problem, arguments, results, directions, executor);
}

bool Backward(const Problem& problem, const Arguments* arguments, const Results* results, const Upstream* upstream,
              const Gradients* gradients, int64_t directions, const Executor& executor) {
  const auto run = problem.dtype == DataType::kFloat64 ? BackwardOf<double> : BackwardOf<float>;
  return run(problem, arguments, results, upstream, gradients, directions, executor);
}

template <class T, Vector<T> (*Function)(Vector<T>)>
void Apply(const void* from, void* to, int64_t count) {
  const T* x = static_cast<const T*>(from);
  T* y = static_cast<T*>(to);
  for (int64_t i = 0; i < count; i += kLanes<T>) StoreFirst(y + i, Function(LoadFirst(x + i, count - i)), count - i);
}

void SigmoidOf(const void* from, void* to, int64_t count, DataType dtype) {
  dtype == DataType::kFloat64 ? Apply<double, Sigmoid<double>>(from, to, count)
                              : Apply<float, Sigmoid<float>>(from, to, count);
}

void TanhOf(const void* from, void* to, int64_t count, DataType dtype) {
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
  static constexpr KernelTable table{Forward, Backward, kBFloat16, SigmoidOf, TanhOf};
  return table;
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq
