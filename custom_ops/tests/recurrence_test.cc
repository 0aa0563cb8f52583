// SPDX-License-Identifier: Apache-2.0
// Drawn calls of every cell against the plain computation: outputs and all gradients, in float64 and float32, with one,
// two and three threads, which must agree to the last bit; and many directions in one call against one call for each.
// Usage: recurrence_test [calls] [seed]
#include <cstring>
#include <random>
#include <string>

#include "reference.h"
#include "threads.h"

namespace keras_seq {
namespace {

class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  int64_t Integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  bool Chance(double p) { return std::bernoulli_distribution(p)(engine_); }

  Numbers Normal(int64_t count, double scale) {
    std::normal_distribution<double> normal(0, scale);
    Numbers numbers(count);
    for (Complex& number : numbers) number = static_cast<float>(normal(engine_));  // the same in every precision
    return numbers;
  }

  std::vector<double> Real(int64_t count, double scale = 1) {
    std::vector<double> numbers;
    for (const Complex& number : Normal(count, scale)) numbers.push_back(number.real());
    return numbers;
  }

  std::vector<double> Kept(int64_t count) {
    std::vector<double> numbers(count);
    for (double& number : numbers) number = Chance(0.7) ? 1.25 : 0;
    return numbers;
  }

  Case Call() {
    Case c{};
    Problem& p = c.problem;
    p.cell = static_cast<CellKind>(Integer(0, 2));
    p.activation = static_cast<Activation>(Integer(0, 2));
    p.reset_after = Chance(0.5);
    p.batch = Integer(0, 4), p.time = Integer(0, 5), p.features = Integer(0, 5), p.units = Integer(0, 6);
    if (Chance(0.2)) p.units = Integer(14, 35), p.time = Integer(1, 3), p.batch = Integer(1, 2);
    const int64_t gates = Gates(p.cell) * p.units, states = p.batch * p.units, steps = p.batch * p.time;
    if (Chance(0.4)) Attend(c);
    c.reverse = Chance(0.5);
    c.inputs = Normal(steps * p.features, 1);
    c.kernel = Normal((p.features + p.memory_units) * gates, Scale(p.features + p.memory_units));
    c.recurrent_kernel = Normal(p.units * gates, 0.5);
    if (Chance(0.6)) c.bias = Normal(gates * (p.cell == CellKind::kGRU && p.reset_after ? 2 : 1), 1);
    const bool initial = Chance(0.6), dropout = Chance(0.5), final_gradients = Chance(0.6);
    for (int s = 0; s < States(p.cell); ++s) {
      if (initial) c.initial[s] = Normal(states, 1);
      if (final_gradients) c.d_final[s] = Real(states);
      c.zoneout_per_step[s] = Chance(0.5);
      if (Chance(0.3)) c.zoneout[s] = Real(c.zoneout_per_step[s] ? steps * p.units : states, 0.5);
    }
    c.dropout_per_step = Chance(0.5);
    if (dropout) c.dropout = Kept(c.dropout_per_step ? steps * p.units : states);
    if (Chance(0.5)) {
      c.mask.resize(steps);
      for (char& keep : c.mask) keep = Chance(0.6);
    }
    c.d_outputs = Real(steps * p.units);
    if (Chance(0.5)) c.d_attention_weights = Real(steps * p.source);
    return c;
  }

  // Of weights whose products do not grow with their number: rounding would with them.
  static double Scale(int64_t rows) { return 0.5 / std::sqrt(rows < 4 ? 1.0 : rows / 4.0); }

  // Sizes beside a vector's and a panel's among them.
  void Attend(Case& c) {
    Problem& p = c.problem;
    p.attends = true;
    p.source = Integer(0, 9), p.memory_units = Integer(0, 6), p.attention_units = Integer(0, 6);
    if (Chance(0.2)) p.memory_units = Integer(60, 70), p.attention_units = Integer(60, 70), p.source = Integer(1, 18);
    Memorize(c);
    if (Chance(0.5)) {
      c.memory_mask.resize(p.batch * p.source);
      for (char& keep : c.memory_mask) keep = Chance(0.6);
    }
  }

  void Memorize(Case& c) {
    const Problem& p = c.problem;
    c.memory = Normal(p.batch * p.source * p.memory_units, 1);
    c.keys = Normal(p.batch * p.source * p.attention_units, 1);
    c.query_kernel = Normal(p.units * p.attention_units, 0.5);
    c.score_vector = Normal(p.attention_units, 2 * Scale(p.attention_units));
  }

 private:
  std::mt19937_64 engine_;
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
const void* OrNull(const std::vector<T>& buffer, bool present) {
  static const T kNothing[1] = {};
  return present ? (buffer.empty() ? kNothing : buffer.data()) : nullptr;
}

// Outputs, final states, attention_weights, and gradients in the order of `kNames`.
template <class T>
using Everything = std::vector<std::vector<T>>;
const char* kNames[] = {"outputs", "h",   "c",   "attention_weights", "d inputs", "d kernel",       "d recurrent_kernel",
                        "d bias",  "d h", "d c", "d memory",   "d keys",   "d query_kernel", "d score_vector"};

// Runs one call whose directions differ only in `reverse`.
template <class T>
std::vector<Everything<T>> RunDirections(const Case& c, const std::vector<bool>& reverse, const Executor& executor,
                                         bool keep) {
  Problem p = c.problem;
  p.dtype = sizeof(T) == 8 ? DataType::kFloat64 : DataType::kFloat32;
  std::vector<char> mask = c.mask;
  if (!mask.empty()) p.mask = reinterpret_cast<const bool*>(mask.data());
  const auto inputs = Cast<T>(c.inputs), kernel = Cast<T>(c.kernel), recurrent = Cast<T>(c.recurrent_kernel);
  const auto bias = Cast<T>(c.bias), h = Cast<T>(c.initial[0]), cell = Cast<T>(c.initial[1]);
  const auto dropout = Cast<T>(c.dropout), zone_h = Cast<T>(c.zoneout[0]), zone_c = Cast<T>(c.zoneout[1]);
  const auto d_outputs = Cast<T>(c.d_outputs), d_h = Cast<T>(c.d_final[0]), d_c = Cast<T>(c.d_final[1]);
  std::vector<char> memory_mask = c.memory_mask;
  if (!memory_mask.empty()) p.memory_mask = reinterpret_cast<const bool*>(memory_mask.data());
  const auto memory = Cast<T>(c.memory), keys = Cast<T>(c.keys), query_kernel = Cast<T>(c.query_kernel);
  const auto score_vector = Cast<T>(c.score_vector), d_attention_weights = Cast<T>(c.d_attention_weights);
  Arguments arguments;
  arguments.memory = memory.data(), arguments.keys = keys.data();
  arguments.query_kernel = query_kernel.data(), arguments.score_vector = score_vector.data();
  arguments.inputs = inputs.data(), arguments.kernel = kernel.data(), arguments.recurrent_kernel = recurrent.data();
  arguments.bias = OrNull(bias, !bias.empty());
  arguments.initial_state[0] = OrNull(h, !h.empty()), arguments.initial_state[1] = OrNull(cell, !cell.empty());
  arguments.recurrent_dropout_mask = {OrNull(dropout, !dropout.empty()), c.dropout_per_step};
  arguments.zoneout[0] = {OrNull(zone_h, !zone_h.empty()), c.zoneout_per_step[0]};
  arguments.zoneout[1] = {OrNull(zone_c, !zone_c.empty()), c.zoneout_per_step[1]};

  const int64_t states = p.batch * p.units;
  const T nan = std::numeric_limits<T>::quiet_NaN();  // an output left unwritten shows
  const auto sized = [nan](size_t size) { return std::vector<T>(size, nan); };
  const Upstream upstream{d_outputs.data(), {OrNull(d_h, !d_h.empty()), OrNull(d_c, !d_c.empty())},
                          OrNull(d_attention_weights, !d_attention_weights.empty())};
  std::vector<Everything<T>> directions(reverse.size());
  std::vector<std::vector<T>> residuals(reverse.size(), sized(keep ? ResidualSize(p) : 0));
  std::vector<Arguments> all_arguments;
  std::vector<Results> results;
  std::vector<Gradients> gradients;
  for (size_t d = 0; d < reverse.size(); ++d) {
    Everything<T>& all = directions[d];
    all = {sized(states * p.time), sized(states), sized(p.cell == CellKind::kLSTM ? states : 0)};
    all.push_back(sized(p.batch * p.time * p.source));
    for (const auto* argument : {&inputs, &kernel, &recurrent, &bias, &h, &cell, &memory, &keys, &query_kernel,
                                 &score_vector}) {
      all.push_back(sized(argument->size()));
    }
    arguments.reverse = reverse[d];
    all_arguments.push_back(arguments);
    results.push_back({all[0].data(), {all[1].data(), p.cell == CellKind::kLSTM ? all[2].data() : nullptr},
                       keep ? residuals[d].data() : nullptr, all[3].data()});
    const auto found = [&all](size_t i) { return all[i].empty() ? nullptr : all[i].data(); };
    gradients.push_back({all[4].data(), all[5].data(), all[6].data(), found(7), {found(8), found(9)},
                         found(10),     found(11),     found(12),     found(13)});
  }
  KERAS_SEQ_CHECK(Forward(p, all_arguments, results, executor), "forward");
  for (const std::vector<T>& of_direction : residuals) {
    for (T number : of_direction) KERAS_SEQ_CHECK(number == number, "a residual was left unwritten");
  }
  const std::vector<Upstream> all_upstream(reverse.size(), upstream);
  KERAS_SEQ_CHECK(Backward(p, all_arguments, results, all_upstream, gradients, executor), "backward");
  return directions;
}

template <class T>
Everything<T> RunKernels(const Case& c, const Executor& executor, bool keep) {
  return RunDirections<T>(c, {c.reverse}, executor, keep)[0];
}

template <class T>
bool Same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

template <class T>
void Compare(const std::vector<T>& actual, const std::vector<double>& expected, double tolerance, const std::string& at) {
  double distance = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    distance += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  KERAS_SEQ_CHECK(std::sqrt(distance) <= tolerance * (std::sqrt(norm) + 1e-3), "%s: off by %g of %g", at.c_str(),
                  std::sqrt(distance), std::sqrt(norm));
}

std::vector<double> RealParts(const Numbers& numbers) { return Cast<double>(numbers); }

void TestCall(Case& c, ThreadPool& pool, const std::string& name) {
  Outcome plain = RunPlainly(c);
  std::vector<std::vector<double>> expected{RealParts(plain.outputs), RealParts(plain.final_state[0]),
                                            RealParts(plain.final_state[1])};
  if (c.problem.cell != CellKind::kLSTM) expected[2].clear();
  expected.push_back(RealParts(plain.attention_weights));
  for (Numbers* argument : {&c.inputs, &c.kernel, &c.recurrent_kernel, &c.bias, &c.initial[0], &c.initial[1], &c.memory,
                            &c.keys, &c.query_kernel, &c.score_vector}) {
    expected.push_back(Differentiate(c, *argument));
  }
  const auto alone = RunKernels<double>(c, pool.WithThreads(1), true);
  const auto single = RunKernels<float>(c, pool.WithThreads(2), true);
  for (size_t i = 0; i < expected.size(); ++i) {
    Compare(alone[i], expected[i], 1e-11, name + " " + kNames[i] + " float64");
    Compare(single[i], expected[i], 3e-5, name + " " + kNames[i] + " float32");
  }
  for (int threads : {2, 3}) {
    const auto together = RunKernels<double>(c, pool.WithThreads(threads), threads == 2);  // kept or recomputed
    for (size_t i = 0; i < expected.size(); ++i) {
      KERAS_SEQ_CHECK(Same(alone[i], together[i]), "%s %s differs with %d threads", name.c_str(), kNames[i], threads);
    }
  }
}

// A call that attends has one direction; any other may have any number of them.
void TestDirections(Case& c, int64_t count, ThreadPool& pool, const std::string& name) {
  std::vector<bool> reverse;
  for (int64_t d = 0; d < count; ++d) reverse.push_back((d % 3 == 1) != c.reverse);
  const auto together = RunDirections<float>(c, reverse, pool.WithThreads(1 + count % 3), count % 2);
  for (bool reversed : {false, true}) {
    const auto alone = RunDirections<float>(c, {reversed}, pool.WithThreads(1), true)[0];
    for (int64_t d = 0; d < count; ++d) {
      for (size_t i = 0; i < alone.size() && reverse[d] == reversed; ++i) {
        KERAS_SEQ_CHECK(Same(alone[i], together[d][i]), "%s %s of direction %d of %d is not that of one alone",
                        name.c_str(), kNames[i], static_cast<int>(d), static_cast<int>(count));
      }
    }
  }
}

// Large enough that several threads share every step, and that there are several chunks of steps.
void TestThreads(CellKind cell, bool reset_after, bool attends, ThreadPool& pool, Draw& draw) {
  Case c{};
  c.problem = {cell, DataType::kFloat32, Activation::kTanh, reset_after, 70, 19, 40, 150};
  if (attends) {
    c.problem.attends = true;
    c.problem.source = 21, c.problem.memory_units = 130, c.problem.attention_units = 90;
    draw.Memorize(c);
  }
  const int64_t gates = Gates(cell) * 150, steps = 70 * 19;
  c.inputs = draw.Normal(steps * 40, 1), c.kernel = draw.Normal((40 + c.problem.memory_units) * gates, 0.1);
  c.recurrent_kernel = draw.Normal(150 * gates, 0.1), c.d_outputs = draw.Real(steps * 150);
  c.bias = draw.Normal(gates * (cell == CellKind::kGRU && reset_after ? 2 : 1), 1);
  c.dropout = draw.Kept(70 * 150);
  const auto alone = RunKernels<float>(c, pool.WithThreads(1), true);
  for (int threads : {2, 3, 3}) {
    const auto together = RunKernels<float>(c, pool.WithThreads(threads), threads == 2);
    for (size_t i = 0; i < alone.size(); ++i) {
      KERAS_SEQ_CHECK(Same(alone[i], together[i]), "part %zu differs with %d threads", i, threads);
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
  ThreadPool pool(3);
  for (int call = 0; call < calls; ++call) {
    Draw draw(seed * 1000003 + call);
    Case c = draw.Call();
    TestCall(c, pool, "call " + std::to_string(call));
    if (!c.problem.attends) TestDirections(c, draw.Integer(1, 33), pool, "call " + std::to_string(call));
  }
  Draw draw(seed);
  for (bool attends : {false, true}) {
    for (CellKind cell : {CellKind::kSimpleRNN, CellKind::kGRU, CellKind::kLSTM}) TestThreads(cell, true, attends, pool, draw);
    TestThreads(CellKind::kGRU, false, attends, pool, draw);
  }
  std::printf("recurrence: %d calls passed with %s\n", calls, InstructionSet(nullptr));
}
