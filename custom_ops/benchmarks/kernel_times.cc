// SPDX-License-Identifier: Apache-2.0
// Times the kernels alone, without a framework. Cases take turns, so that other load on the machine affects all of them.
//
// Usage: kernel_times THREADS SECONDS CELL,BATCH,TIME,FEATURES,UNITS[,float64]...
//
//   build/kernel_times/benchmarks/kernel_times 2 5 LSTM,64,50,256,256 GRU,1,100,512,512
//
// Runs all cases for about SECONDS in all. Prints a line of JSON for each case and pass, with the milliseconds of all
// runs; "processor" are those that all threads together spent on a processor, which other load hardly changes if there is
// one thread. "forward" is a call at inference, whose weights are packed already; "training" is a forward pass that keeps
// residuals, and the backward pass with all gradients.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <random>
#include <sstream>
#include <string>

#include "../kernels/threads.h"
#include "../tests/threads.h"

namespace keras_seq {
namespace {

using Clock = std::chrono::steady_clock;

double Milliseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
}

struct Pass {
  const char* name;
  std::vector<double> milliseconds, processor;
};

// The buffers of a case in its type T, and its two passes.
template <class T>
class Buffers {
 public:
  Buffers(const Problem& problem, const Executor& executor) : problem_(problem), executor_(executor) {
    const int64_t columns = Gates(problem.cell) * problem.units, states = problem.batch * problem.units;
    const CellTraits& cell = TraitsOf(problem.cell);
    const double scale = 1 / std::sqrt(problem.units + 1.0);
    arguments_.inputs = Draw(problem.batch * problem.time * problem.features, 1);
    arguments_.kernel = Draw(problem.features * columns, scale);
    arguments_.recurrent_kernel = Draw(problem.units * columns, scale);
    arguments_.bias = Draw(columns * (cell.HasTwoBiases(problem.reset_after) ? 2 : 1), 0.1);
    results_.outputs = Draw(states * problem.time, 0);
    upstream_.outputs = Draw(states * problem.time, 1);
    for (int s = 0; s < States(problem.cell); ++s) results_.final_state[s] = Draw(states, 0);
    results_.residuals = Draw(ResidualSize(problem), 0);
    gradients_.inputs = Draw(problem.batch * problem.time * problem.features, 0);
    gradients_.kernel = Draw(problem.features * columns, 0);
    gradients_.recurrent_kernel = Draw(problem.units * columns, 0);
    gradients_.bias = Draw(columns * 2, 0);
    inference_ = arguments_;
    inference_.packed = Pack(problem, arguments_, executor);
    inference_results_ = results_;
    inference_results_.residuals = nullptr;
  }

  bool RunForward() const { return Forward(problem_, {inference_}, {inference_results_}, executor_); }

  bool RunTraining() const {
    return Forward(problem_, {arguments_}, {results_}, executor_) &&
           Backward(problem_, {arguments_}, {results_}, {upstream_}, {gradients_}, executor_);
  }

 private:
  T* Draw(int64_t count, double scale) {
    std::uniform_real_distribution<double> uniform(-scale, scale);
    memory_.emplace_back(count);
    for (T& number : memory_.back()) number = static_cast<T>(scale == 0 ? 0 : uniform(engine_));
    return memory_.back().data();
  }

  const Problem problem_;
  const Executor executor_;
  std::mt19937_64 engine_{1};
  std::deque<std::vector<T>> memory_;
  Arguments arguments_{}, inference_{};
  Results results_{}, inference_results_{};
  Upstream upstream_{};
  Gradients gradients_{};
};

struct Case {
  std::string text;
  std::function<bool()> run[2];
  Pass passes[2] = {{"forward", {}, {}}, {"training", {}, {}}};
};

template <class T>
void AddPasses(const Problem& problem, const Executor& executor, Case& added) {
  auto buffers = std::make_shared<Buffers<T>>(problem, executor);
  added.run[0] = [buffers] { return buffers->RunForward(); };
  added.run[1] = [buffers] { return buffers->RunTraining(); };
}

Case Parse(const std::string& text, const Executor& executor) {
  std::istringstream stream(text);
  std::vector<std::string> parts;
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  KERAS_SEQ_CHECK(parts.size() == 5 || parts.size() == 6, "%s", text.c_str());
  Problem problem{};
  const auto cell = std::find_if(std::begin(kCells), std::end(kCells),
                                 [&](const CellTraits& traits) { return parts[0] == traits.name; });
  KERAS_SEQ_CHECK(cell != std::end(kCells), "unknown cell %s", parts[0].c_str());
  problem.cell = static_cast<CellKind>(cell - std::begin(kCells));
  problem.reset_after = true;
  int64_t* sizes[] = {&problem.batch, &problem.time, &problem.features, &problem.units};
  for (int i = 0; i < 4; ++i) *sizes[i] = std::stoll(parts[i + 1]);
  problem.dtype = parts.size() == 6 ? DataType::kFloat64 : DataType::kFloat32;
  Case added;
  added.text = text;
  problem.dtype == DataType::kFloat64 ? AddPasses<double>(problem, executor, added)
                                      : AddPasses<float>(problem, executor, added);
  return added;
}

// Returns the milliseconds.
double Time(const std::function<bool()>& run, Pass& pass) {
  const std::clock_t processor = std::clock();  // of all threads
  const Clock::time_point start = Clock::now();
  KERAS_SEQ_CHECK(run(), "out of memory");
  pass.milliseconds.push_back(Milliseconds(start));
  pass.processor.push_back(1e3 * (std::clock() - processor) / CLOCKS_PER_SEC);
  return pass.milliseconds.back();
}

// One run that does not count, which brings code and data into the caches, then some that do. In long runs cold caches do
// not matter: only the first of all, which allocates memory, does not count.
void TakeTurn(const std::function<bool()>& run, Pass& pass) {
  constexpr double kTurn = 30, kLongRun = 100;  // milliseconds
  Pass first{pass.name, {}, {}};
  double spent = Time(run, first) > kLongRun ? kTurn : 0;
  if (spent > 0 && !pass.milliseconds.empty()) {
    pass.milliseconds.push_back(first.milliseconds[0]);
    pass.processor.push_back(first.processor[0]);
    return;
  }
  do {
    spent += Time(run, pass);
  } while (spent < kTurn);
}

void Print(const char* name, const std::vector<double>& numbers) {
  std::printf(", \"%s\": [", name);
  for (size_t i = 0; i < numbers.size(); ++i) std::printf(i ? ", %.4g" : "%.4g", numbers[i]);
  std::printf("]");
}

void Print(const Case& timed, int threads) {
  for (const Pass& pass : timed.passes) {
    std::printf("{\"case\": \"%s\", \"pass\": \"%s\", \"isa\": \"%s\", \"threads\": %d", timed.text.c_str(), pass.name,
                InstructionSet(nullptr), threads);
    Print("milliseconds", pass.milliseconds);
    Print("processor", pass.processor);
    std::printf("}\n");
  }
}

}  // namespace
}  // namespace keras_seq

int main(int count, char** values) {
  using namespace keras_seq;
  KERAS_SEQ_CHECK(count > 3, "usage: kernel_times THREADS SECONDS CELL,BATCH,TIME,FEATURES,UNITS[,float64]...");
  RequireInstructionSet();
  const int threads = std::atoi(values[1]);
  const double seconds = std::atof(values[2]);
  std::vector<Case> cases;
  for (int i = 3; i < count; ++i) cases.push_back(Parse(values[i], SharedThreads(threads)));
  const Clock::time_point start = Clock::now();
  do {
    for (Case& each : cases) {
      for (int i = 0; i < 2; ++i) TakeTurn(each.run[i], each.passes[i]);
    }
  } while (Milliseconds(start) < 1e3 * seconds);
  for (const Case& each : cases) Print(each, threads);
}
