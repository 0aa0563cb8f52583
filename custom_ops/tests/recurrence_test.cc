// SPDX-License-Identifier: Apache-2.0
// Compares random calls of every cell with the reference: outputs and all gradients, in float64 and float32; and those
// in bfloat16 with float64. Checks that results are bitwise equal for one, two and three threads, and for many
// directions in one call or one call for each.
//
// Usage: recurrence_test [calls] [seed] [units]
#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "../kernels/kernel_table.h"
#include "random_calls.h"
#include "threads.h"

namespace keras_seq {
namespace {

// Rounds to the nearest, ties to even.
struct BFloat16 {
  explicit BFloat16(double number) {
    const float value = static_cast<float>(number);
    uint32_t all;
    std::memcpy(&all, &value, sizeof all);
    bits = static_cast<uint16_t>(number == number ? (all + 0x7fffu + (all >> 16 & 1u)) >> 16 : 0x7fc0u);
  }

  operator double() const {
    const uint32_t all = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &all, sizeof value);
    return value;
  }

  uint16_t bits;
};

template <class T>
struct TypesOf {
  static constexpr DataType kType = sizeof(T) == 8 ? DataType::kFloat64 : DataType::kFloat32;
  using Residual = T;
};

template <>
struct TypesOf<BFloat16> {
  static constexpr DataType kType = DataType::kBFloat16;
  using Residual = float;
};

template <class T>
std::vector<T> Cast(const Numbers& numbers) {
  std::vector<T> result;
  for (const Complex& number : numbers) result.push_back(static_cast<T>(number.real()));
  return result;
}

template <class T>
std::vector<T> Cast(const std::vector<double>& numbers) {
  return std::vector<T>(numbers.begin(), numbers.end());
}

template <class T>
const void* DataOrNull(const std::vector<T>& buffer) {
  return buffer.empty() ? nullptr : buffer.data();
}

template <class T>
T* DataOrNull(std::vector<T>& buffer) {
  return buffer.empty() ? nullptr : buffer.data();
}

const bool* DataOrNull(const std::vector<char>& mask) {
  return mask.empty() ? nullptr : reinterpret_cast<const bool*>(mask.data());
}

// What a direction returns: outputs, final states, attention weights and gradients, in the order of `kNames`.
template <class T>
using Buffers = std::vector<std::vector<T>>;
const char* kNames[] = {"outputs",  "h",        "c",                  "attention_weights",
                        "d inputs", "d kernel", "d recurrent_kernel", "d bias",
                        "d h",      "d c",      "d memory",           "d keys",
                        "d query_kernel", "d score_vector",
                        "d peephole_kernel", "d projection_kernel", "d input_gamma", "d recurrent_gamma",
                        "d state_gamma", "d state_beta", "d initial_fed", "d attentional_kernel",
                        "d coverage_kernel", "d initial_coverage", "d energy_bias", "d initial_weights",
                        "fed", "final_fed", "final_coverage", "final_weights"};

template <class T>
std::vector<T> Unwritten(size_t size) {
  return std::vector<T>(size, T(std::numeric_limits<double>::quiet_NaN()));
}

// The problem and the arguments of a call in the precision of T, with their buffers.
template <class T>
struct CallOf {
  explicit CallOf(const Case& c)
      : problem(c.problem), inputs(Cast<T>(c.inputs)), kernel(Cast<T>(c.kernel)),
        recurrent_kernel(Cast<T>(c.recurrent_kernel)), bias(Cast<T>(c.bias)), initial_h(Cast<T>(c.initial_state[0])),
        initial_c(Cast<T>(c.initial_state[1])), dropout(Cast<T>(c.recurrent_dropout_mask)),
        zoneout_h(Cast<T>(c.zoneout[0])), zoneout_c(Cast<T>(c.zoneout[1])), memory(Cast<T>(c.memory)),
        keys(Cast<T>(c.keys)), query_kernel(Cast<T>(c.query_kernel)), score_vector(Cast<T>(c.score_vector)),
        initial_fed(Cast<T>(c.initial_fed)), attentional_kernel(Cast<T>(c.attentional_kernel)),
        coverage_kernel(Cast<T>(c.coverage_kernel)), initial_coverage(Cast<T>(c.initial_coverage)),
        energy_bias(Cast<T>(c.energy_bias)), initial_weights(Cast<T>(c.initial_weights)) {
    problem.dtype = TypesOf<T>::kType;
    problem.mask = DataOrNull(c.mask), problem.memory_mask = DataOrNull(c.memory_mask);
    arguments.reverse = c.reverse;
    arguments.inputs = inputs.data(), arguments.kernel = kernel.data();
    arguments.recurrent_kernel = recurrent_kernel.data(), arguments.bias = DataOrNull(bias);
    arguments.initial_state[0] = DataOrNull(initial_h), arguments.initial_state[1] = DataOrNull(initial_c);
    arguments.recurrent_dropout_mask = {DataOrNull(dropout), c.dropout_per_step};
    arguments.zoneout_masks[0] = {DataOrNull(zoneout_h), c.zoneout_per_step[0]};
    arguments.zoneout_masks[1] = {DataOrNull(zoneout_c), c.zoneout_per_step[1]};
    arguments.memory = memory.data(), arguments.keys = keys.data();
    arguments.query_kernel = query_kernel.data(), arguments.score_vector = score_vector.data();
    arguments.initial_fed = initial_fed.data(), arguments.attentional_kernel = attentional_kernel.data();
    arguments.coverage_kernel = coverage_kernel.data(), arguments.initial_coverage = initial_coverage.data();
    arguments.energy_bias = energy_bias.data(), arguments.initial_weights = initial_weights.data();
    for (int i = 0; i < kExtraWeightCount; ++i) {
      extra_weights[i] = Cast<T>(c.extra_weights[i]);
      arguments.extra_weights[i] = DataOrNull(extra_weights[i]);
    }
  }

  Problem problem;
  std::vector<T> inputs, kernel, recurrent_kernel, bias, initial_h, initial_c, dropout, zoneout_h, zoneout_c;
  std::vector<T> memory, keys, query_kernel, score_vector, extra_weights[kExtraWeightCount];
  std::vector<T> initial_fed, attentional_kernel, coverage_kernel, initial_coverage, energy_bias, initial_weights;
  Arguments arguments;
};

// Runs one call forward and backward. Its directions differ only in `reverse`.
template <class T>
std::vector<Buffers<T>> RunDirections(const Case& c, const std::vector<bool>& reverse, const Executor& executor,
                                      bool keep_residuals) {
  const CallOf<T> call(c);
  const Problem& p = call.problem;
  Arguments arguments = call.arguments;
  const auto d_outputs = Cast<T>(c.d_outputs), d_attention_weights = Cast<T>(c.d_attention_weights);
  const auto d_h = Cast<T>(c.d_final_state[0]), d_c = Cast<T>(c.d_final_state[1]);
  const auto d_fed = Cast<T>(c.d_fed), d_final_fed = Cast<T>(c.d_final_fed);
  const auto d_final_coverage = Cast<T>(c.d_final_coverage), d_final_weights = Cast<T>(c.d_final_weights);
  const Upstream upstream{d_outputs.data(), {DataOrNull(d_h), DataOrNull(d_c)}, DataOrNull(d_attention_weights),
                          DataOrNull(d_fed), DataOrNull(d_final_fed), DataOrNull(d_final_coverage),
                          DataOrNull(d_final_weights)};
  const int64_t fed = p.attends_after ? p.batch * FedUnits(p) : 0;
  constexpr int fed_at = 14 + kExtraWeightCount + 6;  // in `kNames`

  const int64_t states = p.batch * HiddenUnits(p), cell_states = HasCellState(p) ? p.batch * p.units : 0;
  std::vector<Buffers<T>> directions(reverse.size());
  using Residual = typename TypesOf<T>::Residual;
  std::vector<std::vector<Residual>> residuals(reverse.size(),
                                               Unwritten<Residual>(keep_residuals ? ResidualSize(p) : 0));
  std::vector<Arguments> all_arguments;
  std::vector<Results> results;
  std::vector<Gradients> gradients;
  for (size_t d = 0; d < reverse.size(); ++d) {
    Buffers<T>& all = directions[d];
    all = {Unwritten<T>(states * p.time), Unwritten<T>(states), Unwritten<T>(cell_states),
           Unwritten<T>(p.batch * p.time * p.source)};
    for (const auto* argument : {&call.inputs, &call.kernel, &call.recurrent_kernel, &call.bias, &call.initial_h,
                                 &call.initial_c, &call.memory, &call.keys, &call.query_kernel, &call.score_vector}) {
      all.push_back(Unwritten<T>(argument->size()));
    }
    for (const std::vector<T>& weight : call.extra_weights) all.push_back(Unwritten<T>(weight.size()));
    for (const auto* argument : {&call.initial_fed, &call.attentional_kernel, &call.coverage_kernel,
                                 &call.initial_coverage, &call.energy_bias, &call.initial_weights}) {
      all.push_back(Unwritten<T>(argument->size()));
    }
    all.push_back(Unwritten<T>(fed * p.time));
    all.push_back(Unwritten<T>(fed));
    all.push_back(Unwritten<T>(call.initial_coverage.size()));
    all.push_back(Unwritten<T>(call.initial_weights.size()));
    arguments.reverse = reverse[d];
    all_arguments.push_back(arguments);
    results.push_back({all[0].data(), {all[1].data(), HasCellState(p) ? all[2].data() : nullptr},
                       keep_residuals ? residuals[d].data() : nullptr, all[3].data(), DataOrNull(all[fed_at]),
                       DataOrNull(all[fed_at + 1]), DataOrNull(all[fed_at + 2]), DataOrNull(all[fed_at + 3])});
    gradients.push_back({all[4].data(), all[5].data(), all[6].data(), DataOrNull(all[7]),
                         {DataOrNull(all[8]), DataOrNull(all[9])}, DataOrNull(all[10]), DataOrNull(all[11]),
                         DataOrNull(all[12]), DataOrNull(all[13]), DataOrNull(all[fed_at - 6]),
                         DataOrNull(all[fed_at - 5]), DataOrNull(all[fed_at - 4]), DataOrNull(all[fed_at - 3]),
                         DataOrNull(all[fed_at - 2]), DataOrNull(all[fed_at - 1])});
    for (int i = 0; i < kExtraWeightCount; ++i) gradients[d].extra_weights[i] = DataOrNull(all[14 + i]);
  }
  KERAS_SEQ_CHECK(Forward(p, all_arguments, results, executor), "forward");
  for (const std::vector<Residual>& of_direction : residuals) {
    for (Residual number : of_direction) KERAS_SEQ_CHECK(number == number, "a residual was left unwritten");
  }
  const std::vector<Upstream> all_upstream(reverse.size(), upstream);
  KERAS_SEQ_CHECK(Backward(p, all_arguments, results, all_upstream, gradients, executor), "backward");
  return directions;
}

template <class T>
Buffers<T> RunOneDirection(const Case& c, const Executor& executor, bool keep_residuals) {
  return RunDirections<T>(c, {c.reverse}, executor, keep_residuals)[0];
}

template <class T>
bool BitwiseEqual(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

template <class T>
void CheckClose(const std::vector<T>& actual, const std::vector<double>& expected, double tolerance,
                const std::string& name, double small = 1e-3) {
  double distance = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    distance += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  KERAS_SEQ_CHECK(std::sqrt(distance) <= tolerance * (std::sqrt(norm) + small), "%s: off by %g of %g", name.c_str(),
                  std::sqrt(distance), std::sqrt(norm));
}

std::vector<double> RealParts(const Numbers& numbers) { return Cast<double>(numbers); }

void TestAgainstReference(Case& c, ThreadPool& pool, const std::string& name) {
  const Outcome outcome = RunReference(c);
  std::vector<std::vector<double>> expected{RealParts(outcome.outputs), RealParts(outcome.final_state[0]),
                                            RealParts(outcome.final_state[1]), RealParts(outcome.attention_weights)};
  if (!HasCellState(c.problem)) expected[2].clear();
  for (Numbers* argument : c.Differentiable()) expected.push_back(Differentiate(c, *argument));
  expected.push_back(RealParts(outcome.fed));
  expected.push_back(RealParts(outcome.final_fed));
  expected.push_back(RealParts(outcome.final_coverage));
  expected.push_back(RealParts(outcome.final_weights));
  const auto float64 = RunOneDirection<double>(c, pool.WithThreads(1), true);
  const auto float32 = RunOneDirection<float>(c, pool.WithThreads(2), true);
  for (size_t i = 0; i < expected.size(); ++i) {
    CheckClose(float64[i], expected[i], 1e-11, name + " " + kNames[i] + " float64");
    CheckClose(float32[i], expected[i], 3e-5, name + " " + kNames[i] + " float32");
  }
  for (int threads : {2, 3}) {
    const bool keep_residuals = threads == 2;  // else they are recomputed
    const auto together = RunOneDirection<double>(c, pool.WithThreads(threads), keep_residuals);
    for (size_t i = 0; i < expected.size(); ++i) {
      KERAS_SEQ_CHECK(BitwiseEqual(float64[i], together[i]), "%s %s differs with %d threads", name.c_str(), kNames[i],
                      threads);
    }
  }
}

void Round(Numbers& numbers) {
  for (Complex& number : numbers) number = BFloat16(number.real());
}

void Round(std::vector<double>& numbers) {
  for (double& number : numbers) number = BFloat16(number);
}

// Compares with float64 of the same numbers. Not where rounding moves numbers across a jump of a derivative, nor where
// gates without bounds multiply the errors.
void TestBFloat16(Case c, ThreadPool& pool, const std::string& name) {
  const Activation activation = c.problem.activation, gate = c.problem.recurrent_activation;
  const bool comparable = activation != Activation::kRelu && activation != Activation::kHardSigmoid &&
                          (gate == Activation::kSigmoid || gate == Activation::kTanh) &&
                          c.problem.weighting != Weighting::kHard;  // rounding turns decisions over
  for (Numbers* argument : c.Differentiable()) Round(*argument);
  for (auto* numbers : {&c.recurrent_dropout_mask, &c.zoneout[0], &c.zoneout[1], &c.d_outputs, &c.d_final_state[0],
                        &c.d_final_state[1], &c.d_attention_weights, &c.d_fed, &c.d_final_fed, &c.d_final_coverage,
                        &c.d_final_weights}) {
    Round(*numbers);
  }
  const auto expected = RunOneDirection<double>(c, pool.WithThreads(1), true);
  const auto alone = RunOneDirection<BFloat16>(c, pool.WithThreads(1), true);
  const auto together = RunOneDirection<BFloat16>(c, pool.WithThreads(3), false);
  const double tolerance = c.problem.attends ? 5e-2 : 2e-2;  // the backward pass reads rounded attention weights
  for (size_t i = 0; i < expected.size(); ++i) {
    // A small gradient is the difference of larger ones.
    if (comparable) CheckClose(alone[i], expected[i], tolerance, name + " " + kNames[i] + " bfloat16", 0.05);
    KERAS_SEQ_CHECK(BitwiseEqual(alone[i], together[i]), "%s %s in bfloat16 differs with threads", name.c_str(),
                    kNames[i]);
  }
}

// The caller allocates residuals by `ResidualSize`, which must be what the kernels fill.
void TestResidualSize(const Problem& problem, const std::string& name) {
  const int64_t actual = ResidualSize(problem), expected = SelectedKernels()->residual_size(problem);
  KERAS_SEQ_CHECK(actual == expected, "%s: residuals are %ld elements, the kernels fill %ld", name.c_str(),
                  static_cast<long>(actual), static_cast<long>(expected));
}

// Directions in one call give what each gives alone. Calls that attend have only one.
template <class T>
void TestDirections(Case& c, int64_t count, ThreadPool& pool, const std::string& name) {
  std::vector<bool> reverse;
  for (int64_t d = 0; d < count; ++d) reverse.push_back((d % 3 == 1) != c.reverse);
  const auto together = RunDirections<T>(c, reverse, pool.WithThreads(1 + count % 3), count % 2);
  for (bool reversed : {false, true}) {
    const auto alone = RunDirections<T>(c, {reversed}, pool.WithThreads(1), true)[0];
    for (int64_t d = 0; d < count; ++d) {
      for (size_t i = 0; i < alone.size() && reverse[d] == reversed; ++i) {
        KERAS_SEQ_CHECK(BitwiseEqual(alone[i], together[d][i]), "%s %s of direction %d of %d differs from one alone",
                        name.c_str(), kNames[i], static_cast<int>(d), static_cast<int>(count));
      }
    }
  }
}

// Runs the forward pass without residuals, as at inference.
template <class T>
Buffers<T> RunAtInference(const Case& c, const Executor& executor, bool packs = false) {
  CallOf<T> call(c);
  const Problem& p = call.problem;
  const int64_t states = p.batch * HiddenUnits(p), cell_states = HasCellState(p) ? p.batch * p.units : 0;
  if (packs) {
    call.arguments.packed = Pack(p, call.arguments, executor);
    KERAS_SEQ_CHECK(call.arguments.packed != nullptr, "pack");
    for (auto* weights : {&call.kernel, &call.recurrent_kernel, &call.bias, &call.query_kernel, &call.score_vector,
                          &call.attentional_kernel, &call.coverage_kernel}) {
      std::fill(weights->begin(), weights->end(), T(std::nan("")));  // nothing reads them
    }
    for (std::vector<T>& weight : call.extra_weights) {
      std::fill(weight.begin(), weight.end(), T(std::nan("")));
    }
  }
  Buffers<T> all{Unwritten<T>(states * p.time), Unwritten<T>(states), Unwritten<T>(cell_states),
                 Unwritten<T>(p.batch * p.time * p.source)};
  Results results{all[0].data(), {all[1].data(), HasCellState(p) ? all[2].data() : nullptr}, nullptr, all[3].data()};
  if (p.attends_after) {
    for (int64_t size : {p.batch * p.time * FedUnits(p), p.batch * FedUnits(p)}) all.push_back(Unwritten<T>(size));
    results.fed = DataOrNull(all[4]), results.final_fed = DataOrNull(all[5]);
  }
  KERAS_SEQ_CHECK(Forward(p, {call.arguments}, {results}, executor), "forward");
  return all;
}

// a (rows, depth) times the rows of `b` (.., columns) from `first` on.
Numbers Product(const Numbers& a, int64_t rows, int64_t depth, const Numbers& b, int64_t first, int64_t columns) {
  Numbers product(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < columns; ++j) {
        product[i * columns + j] += a[i * depth + k] * b[(first + k) * columns + j];
      }
    }
  }
  return product;
}

// The memory of every sequence is that of the first of its `neighbours`: given once, or once for each.
template <class Buffer>
Buffer TakeMemories(const Buffer& buffer, int64_t size, int64_t neighbours, bool shared) {
  Buffer taken;
  for (size_t at = 0; at < buffer.size(); at += neighbours * size) {
    for (int64_t i = 0; i < (shared ? 1 : neighbours); ++i) {
      taken.insert(taken.end(), buffer.begin() + at, buffer.begin() + at + size);
    }
  }
  return taken;
}

void TestSharedMemory(const Case& c, ThreadPool& pool, const std::string& name) {
  const Problem& p = c.problem;
  const int64_t row = HasMemoryProducts(p) ? Gates(p.cell) * p.units : p.memory_units;
  for (int64_t neighbours = 1; neighbours <= p.batch; ++neighbours) {
    if (p.batch % neighbours) continue;
    Buffers<double> results[2];
    for (bool shared : {false, true}) {
      Case taken = c;
      taken.memory = TakeMemories(c.memory, p.source * row, neighbours, shared);
      taken.keys = TakeMemories(c.keys, p.source * p.attention_units, neighbours, shared);
      taken.memory_mask = TakeMemories(c.memory_mask, p.source, neighbours, shared);
      if (shared) taken.problem.sequences_per_memory = neighbours;
      results[shared] = RunAtInference<double>(taken, pool.WithThreads(1 + shared));
    }
    for (size_t i = 0; i < results[0].size(); ++i) {
      KERAS_SEQ_CHECK(BitwiseEqual(results[0][i], results[1][i]), "%s %s differs if memories are shared", name.c_str(),
                      kNames[i]);
    }
  }
}

// Computes products ahead. No step reads what attention feeds then if it attends after the cell, as if the rows of the
// kernel for it were zeros.
void TestProducts(const Case& c, ThreadPool& pool, const std::string& name) {
  const Problem& p = c.problem;
  const int64_t columns = Gates(p.cell) * p.units;
  Case given = c, ahead = c;
  if (p.attends_after) std::fill(given.kernel.begin() + p.features * columns, given.kernel.end(), 0);
  ahead.problem.multiplied = true;
  ahead.problem.features = 0;
  ahead.inputs = Product(c.inputs, p.batch * p.time, p.features, c.kernel, 0, columns);
  if (!p.attends_after) {
    ahead.memory = Product(c.memory, p.batch * p.source, p.memory_units, c.kernel, p.features, columns);
    ahead.problem.memory_units = 0;
  }
  ahead.kernel.clear();
  const auto expected = RunAtInference<double>(given, pool.WithThreads(1));
  for (bool packed : {false, true}) {
    const auto multiplied = RunAtInference<double>(ahead, pool.WithThreads(2), packed);
    for (size_t i = 0; i < expected.size(); ++i) {
      CheckClose(multiplied[i], expected[i], 1e-11, name + " " + kNames[i] + " of products");
    }
  }
  if (p.attends && p.source > 0) TestSharedMemory(ahead, pool, name);
}

// What a search does otherwise than a layer: it packs weights once, computes products ahead, and its beams share a
// memory.
void TestSearchSteps(const Case& c, ThreadPool& pool, const std::string& name) {
  const Problem& p = c.problem;
  const auto rounded = RunAtInference<BFloat16>(c, pool.WithThreads(1));
  const auto packed_rounded = RunAtInference<BFloat16>(c, pool.WithThreads(2), true);
  for (size_t i = 0; i < rounded.size(); ++i) {
    KERAS_SEQ_CHECK(BitwiseEqual(rounded[i], packed_rounded[i]), "%s %s in bfloat16 differs if packed", name.c_str(),
                    kNames[i]);
  }
  const auto expected = RunAtInference<double>(c, pool.WithThreads(1));
  const auto packed = RunAtInference<double>(c, pool.WithThreads(3), true);
  for (size_t i = 0; i < expected.size(); ++i) {
    KERAS_SEQ_CHECK(BitwiseEqual(expected[i], packed[i]), "%s %s differs if packed", name.c_str(), kNames[i]);
  }
  if (p.attends && p.source > 0) TestSharedMemory(c, pool, name);
  TestProducts(c, pool, name);
}

// Large enough that several threads share every step, and that there are several chunks of steps.
template <class T>
void TestThreads(const CellVariant& variant, bool attends, bool layer_norm, bool projects, int64_t units,
                 ThreadPool& pool, RandomCalls& draw, Score score = Score::kAdditive, bool after = false) {
  Case c{};
  Problem& p = c.problem;
  p = {variant.cell, DataType::kFloat32, Activation::kTanh, Activation::kSigmoid, variant.reset_after,
       70,           19,                 40,                units};
  p.layer_norm = layer_norm;
  if (layer_norm) draw.AddLayerNorm(c);
  if (projects) draw.AddProjection(c, (units + 1) / 2);
  if (attends) {
    p.attends = true;
    p.covers = after && score == Score::kAdditive;
    p.score = score, p.attends_after = p.attentional = after, p.attentional_units = after ? 140 : 0;
    p.source = 21, p.memory_units = 130, p.attention_units = score == Score::kDot ? HiddenUnits(p) : 90;
    draw.DrawMemory(c);
  }
  const int64_t gates = Gates(p.cell) * p.units, steps = p.batch * p.time;
  c.inputs = draw.Normal(steps * p.features, 1);
  c.kernel = draw.Normal((p.features + FedUnits(p)) * gates, 0.1);
  c.recurrent_kernel = draw.Normal(HiddenUnits(p) * gates, 0.1);
  c.bias = draw.Normal(gates * BiasRows(p), 1);
  if (p.cell == CellKind::kLSTM) c.extra_weights[kPeepholeKernel] = draw.Normal(3 * p.units, 0.1);
  c.recurrent_dropout_mask = draw.DropoutMask(p.batch * HiddenUnits(p));
  c.d_outputs = draw.RealNormal(steps * HiddenUnits(p));
  const auto alone = RunOneDirection<T>(c, pool.WithThreads(1), true);
  for (int threads : {2, 3, 3}) {
    const auto together = RunOneDirection<T>(c, pool.WithThreads(threads), threads == 2);
    for (size_t i = 0; i < alone.size(); ++i) {
      KERAS_SEQ_CHECK(BitwiseEqual(alone[i], together[i]), "%s differs with %d threads", kNames[i], threads);
    }
  }
}

}  // namespace
}  // namespace keras_seq

int main(int count, char** arguments) {
  using namespace keras_seq;
  RequireInstructionSet();
  const int calls = count > 1 ? std::atoi(arguments[1]) : 300;
  const uint64_t seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1;
  const int64_t units = count > 3 ? std::atoll(arguments[3]) : 150;  // of the calls that threads share
  ThreadPool pool(3);
  for (int call = 0; call < calls; ++call) {
    RandomCalls draw(seed * 1000003 + call);
    Case c = draw.Call();
    const std::string name = "call " + std::to_string(call);
    TestResidualSize(c.problem, name);
    TestAgainstReference(c, pool, name);
    TestSearchSteps(c, pool, name);
    TestBFloat16(c, pool, name);
    if (c.problem.attends) continue;
    TestDirections<float>(c, draw.Integer(1, 33), pool, name);
    TestDirections<BFloat16>(c, draw.Integer(1, 5), pool, name);
  }
  RandomCalls draw(seed);
  for (const CellVariant& variant : kCellVariants) {
    for (Score score : {Score::kAdditive, Score::kDot}) {
      TestThreads<float>(variant, true, false, false, units, pool, draw, score, true);
    }
    TestThreads<float>(variant, true, false, false, units, pool, draw, Score::kDot);
  }
  for (bool attends : {false, true}) {
    for (const CellVariant& variant : kCellVariants) {
      TestThreads<float>(variant, attends, false, false, units, pool, draw);
      TestThreads<BFloat16>(variant, attends, false, false, units, pool, draw);
    }
  }
  for (const CellVariant& variant : kCellVariants) {
    if (HasLayerNorm(variant.cell)) TestThreads<float>(variant, false, true, false, units, pool, draw);
  }
  for (bool layer_norm : {false, true}) {
    TestThreads<float>({CellKind::kLSTM, true}, false, layer_norm, true, units, pool, draw);
  }
  TestThreads<float>({CellKind::kGRU, false}, true, true, false, units, pool, draw);
  TestThreads<float>({CellKind::kLSTM, true}, true, true, true, units, pool, draw, Score::kAdditive, true);
  TestThreads<float>({CellKind::kLSTM, true}, true, false, true, units, pool, draw, Score::kDot, true);
  std::printf("recurrence: %d calls passed with %s\n", calls, InstructionSet(nullptr));
}
