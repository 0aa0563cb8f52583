// SPDX-License-Identifier: Apache-2.0
// Random calls of the kernels, for the tests.
#ifndef KERAS_SEQ_TESTS_RANDOM_CALLS_H_
#define KERAS_SEQ_TESTS_RANDOM_CALLS_H_

#include <cmath>
#include <iterator>
#include <random>
#include <vector>

#include "reference.h"

namespace keras_seq {

// Draws random calls.
class RandomCalls {
 public:
  explicit RandomCalls(uint64_t seed) : engine_(seed) {}
  int64_t Integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  bool Chance(double p) { return std::bernoulli_distribution(p)(engine_); }

  Numbers Normal(int64_t count, double scale) {
    std::normal_distribution<double> normal(0, scale);
    Numbers numbers(count);
    for (Complex& number : numbers) number = static_cast<float>(normal(engine_));  // the same in every precision
    return numbers;
  }

  std::vector<double> RealNormal(int64_t count, double scale = 1) {
    std::vector<double> numbers;
    for (const Complex& number : Normal(count, scale)) numbers.push_back(number.real());
    return numbers;
  }

  std::vector<double> DropoutMask(int64_t count) {
    std::vector<double> numbers(count);
    for (double& number : numbers) number = Chance(0.7) ? 1.25 : 0;
    return numbers;
  }

  std::vector<char> Mask(int64_t count) {
    std::vector<char> mask(count);
    for (char& keep : mask) keep = Chance(0.6);
    return mask;
  }

  Case Call() {
    Case c{};
    Problem& p = c.problem;
    const CellVariant& variant = kCellVariants[Integer(0, std::size(kCellVariants) - 1)];
    p.cell = variant.cell, p.reset_after = variant.reset_after;
    if (Chance(0.6)) p.activation = AnyActivation();
    if (Chance(0.4)) p.recurrent_activation = AnyActivation();
    p.batch = Integer(0, 4), p.time = Integer(0, 5), p.features = Integer(0, 5), p.units = Integer(0, 6);
    if (Chance(0.2)) p.units = Integer(14, 35), p.time = Integer(1, 3), p.batch = Integer(1, 2);
    p.layer_norm = HasLayerNorm(p.cell) && Chance(0.4);
    // Two numbers become +-1, and the products with one feature depend on its sign only: the gradients would be
    // rounding errors.
    if (p.layer_norm && (p.units == 1 || p.units == 2)) p.units = 3;
    if (p.cell == CellKind::kLSTM && Chance(0.4)) AddProjection(c, Chance(0.2) ? Integer(60, 70) : Integer(0, 6));
    if (Chance(0.4)) AddAttention(c);
    if (p.layer_norm) {
      if (p.features + FedUnits(p) == 1) p.features = 2;
      AddLayerNorm(c);
    }
    const int64_t gates = Gates(p.cell) * p.units, hidden = HiddenUnits(p), steps = p.batch * p.time;
    c.reverse = Chance(0.5);
    // Gates without bounds multiply states until rounding errors are all that is left.
    const bool bounded = p.recurrent_activation != Activation::kRelu && p.recurrent_activation != Activation::kLinear;
    const double scale = bounded ? 1 : 0.3;
    c.inputs = Normal(steps * p.features, 1);
    c.kernel = Normal((p.features + FedUnits(p)) * gates, scale * WeightScale(p.features + FedUnits(p)));
    c.recurrent_kernel = Normal(hidden * gates, 0.5 * scale);
    if (Chance(0.6)) c.bias = Normal(gates * BiasRows(p), scale);
    if (p.cell == CellKind::kLSTM && Chance(0.5)) c.extra_weights[kPeepholeKernel] = Normal(3 * p.units, 0.5 * scale);
    const bool initial = Chance(0.6), dropout = Chance(0.5), final_gradients = Chance(0.6);
    for (int s = 0; s < States(p.cell); ++s) {
      const int64_t units = StateUnits(p, s);
      if (initial) c.initial_state[s] = Normal(p.batch * units, 1);
      if (final_gradients) c.d_final_state[s] = RealNormal(p.batch * units);
      c.zoneout_per_step[s] = Chance(0.5);
      if (Chance(0.3)) c.zoneout[s] = RealNormal((c.zoneout_per_step[s] ? steps : p.batch) * units, 0.5);
    }
    c.dropout_per_step = Chance(0.5);
    if (dropout) c.recurrent_dropout_mask = DropoutMask((c.dropout_per_step ? steps : p.batch) * hidden);
    if (Chance(0.5)) c.mask = Mask(steps);
    c.d_outputs = RealNormal(steps * hidden);
    if (Chance(0.5)) c.d_attention_weights = RealNormal(steps * p.source);
    if (p.attends_after) DrawFeeding(c);
    if (p.covers && Chance(0.8)) c.d_final_coverage = RealNormal(p.batch * p.source);
    if (!c.initial_weights.empty() && Chance(0.8)) c.d_final_weights = RealNormal(p.batch * p.source);
    return c;
  }

  void AddLayerNorm(Case& c) {
    const int64_t units = c.problem.units, gates = Gates(c.problem.cell) * units;
    const bool has_c = HasCellState(c.problem);
    c.extra_weights[kInputGamma] = Normal(gates, 1);
    c.extra_weights[kRecurrentGamma] = Normal(gates, 1);
    c.extra_weights[kStateGamma] = Normal(has_c * units, 1);
    c.extra_weights[kStateBeta] = Normal(has_c * units, 1);
  }

  void AddProjection(Case& c, int64_t projection_units) {
    Problem& p = c.problem;
    p.projects = true;
    p.projection_units = projection_units;
    c.extra_weights[kProjectionKernel] =
        Normal(p.units * projection_units, WeightScale(p.units));
  }

  void DrawMemory(Case& c) {
    const Problem& p = c.problem;
    c.memory = Normal(p.batch * p.source * p.memory_units, 1);
    // A saturated softmax would leave gradients that are differences of equal numbers.
    const double key_scale = p.score == Score::kDot ? WeightScale(p.attention_units) : 1;
    c.keys = Normal(p.batch * p.source * p.attention_units, key_scale);
    if (p.attends_after) c.initial_fed = Normal(p.batch * FedUnits(p), 1);
    if (p.attentional) {
      const int64_t rows = HiddenUnits(p) + p.memory_units;
      c.attentional_kernel = Normal(rows * p.attentional_units, WeightScale(rows));
    }
    if (p.score == Score::kDot) return;
    c.query_kernel = Normal(HiddenUnits(p) * p.attention_units, 0.5);
    c.score_vector = Normal(p.attention_units, 2 * WeightScale(p.attention_units));
    if (p.weighting != Weighting::kSoftmax) {
      c.energy_bias = Normal(p.batch * p.time * p.source, 1);
      c.initial_weights = Normal(p.batch * p.source, 1);
      for (Complex& weight : c.initial_weights) weight = Chance(0.4) ? 0 : std::abs(weight);
    }
    if (!p.covers) return;
    c.coverage_kernel = Normal(p.attention_units, 1);
    c.initial_coverage = Normal(p.batch * p.source, 1);
  }

  void DrawFeeding(Case& c) {
    const Problem& p = c.problem;
    if (Chance(0.8)) c.d_fed = RealNormal(p.batch * p.time * FedUnits(p));
    if (Chance(0.8)) c.d_final_fed = RealNormal(p.batch * FedUnits(p));
  }

 private:
  Activation AnyActivation() { return static_cast<Activation>(Integer(0, std::size(kActivationNames) - 1)); }

  // Keeps products from growing with the number of rows: rounding errors would grow with them.
  static double WeightScale(int64_t rows) { return 0.5 / std::sqrt(rows < 4 ? 1.0 : rows / 4.0); }

  // Some sizes are just below or above those of a vector or a panel.
  void AddAttention(Case& c) {
    Problem& p = c.problem;
    p.attends = true;
    p.source = Integer(0, 9), p.memory_units = Integer(0, 6), p.attention_units = Integer(0, 6);
    if (Chance(0.2)) p.memory_units = Integer(60, 70), p.attention_units = Integer(60, 70), p.source = Integer(1, 18);
    if (Chance(0.4)) p.score = Score::kDot, p.attention_units = HiddenUnits(p);
    p.attends_after = Chance(0.5), p.attentional = p.attends_after && Chance(0.6), p.linear = Chance(0.3);
    p.covers = p.score == Score::kAdditive && Chance(0.4);
    if (p.score == Score::kAdditive && !p.covers) p.weighting = static_cast<Weighting>(Integer(0, 2));
    if (p.attentional) p.attentional_units = Chance(0.2) ? Integer(60, 70) : Integer(0, 6);
    DrawMemory(c);
    if (Chance(0.5)) c.memory_mask = Mask(p.batch * p.source);
  }

  std::mt19937_64 engine_;
};

}  // namespace keras_seq

#endif  // KERAS_SEQ_TESTS_RANDOM_CALLS_H_
