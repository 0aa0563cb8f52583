// SPDX-License-Identifier: Apache-2.0
// The recurrences written plainly, one number at a time, for complex numbers too: the derivative of f at x is
// Im f(x + ih) / h, with no difference to lose digits in (Squire & Trapp 1998).
#ifndef KERAS_SEQ_TESTS_REFERENCE_H_
#define KERAS_SEQ_TESTS_REFERENCE_H_

#include <cmath>
#include <complex>
#include <vector>

#include "../kernels/recurrence.h"

namespace keras_seq {

using Complex = std::complex<double>;
using Numbers = std::vector<Complex>;

struct Case {
  Problem problem;
  bool reverse, dropout_per_step, zoneout_per_step[2];
  std::vector<char> mask;                                          // empty where absent, as are all optional ones
  std::vector<char> memory_mask;
  Numbers inputs, kernel, recurrent_kernel, bias, initial[2];      // what has gradients
  Numbers memory, keys, query_kernel, score_vector;                // likewise
  std::vector<double> dropout, zoneout[2];
  std::vector<double> d_outputs, d_final[2], d_attention_weights;
};

struct Outcome {
  Numbers outputs, final_state[2], attention_weights;
};

inline Complex Squash(Complex x) { return 1.0 / (1.0 + std::exp(-x)); }

inline Complex Activate(Activation activation, Complex x) {
  if (activation == Activation::kTanh) return std::tanh(x);
  return activation == Activation::kLinear || x.real() > 0 ? x : Complex(0);
}

inline double MaskEntry(const Problem& p, const std::vector<double>& mask, bool per_step, int64_t b, int64_t t, int64_t u) {
  return mask[(per_step ? b * p.time + t : b) * p.units + u];
}

// The weights of sequence b over the source, where h is the state before the step.
inline Numbers Align(const Case& c, int64_t b, const Numbers& h) {
  const Problem& p = c.problem;
  const int64_t A = p.attention_units;
  Numbers weights(p.source);
  Complex total = 0;
  for (int64_t s = 0; s < p.source; ++s) {
    if (!c.memory_mask.empty() && !c.memory_mask[b * p.source + s]) continue;
    Complex energy = 0;
    for (int64_t a = 0; a < A; ++a) {
      Complex sum = c.keys[(b * p.source + s) * A + a];
      for (int64_t u = 0; u < p.units; ++u) sum += h[u] * c.query_kernel[u * A + a];
      energy += c.score_vector[a] * std::tanh(sum);
    }
    total += weights[s] = std::exp(energy);
  }
  for (Complex& weight : weights) weight /= total == Complex(0) ? 1 : total;
  return weights;
}

inline Outcome RunPlainly(const Case& c) {
  const Problem& p = c.problem;
  const int64_t H = p.units, gates = Gates(p.cell) * H;
  Outcome out{Numbers(p.batch * p.time * H), {Numbers(p.batch * H), Numbers(p.batch * H)}, {}};
  if (p.attends) out.attention_weights.resize(p.batch * p.time * p.source);
  for (int64_t b = 0; b < p.batch; ++b) {
    Numbers h(H), cell(H);
    if (!c.initial[0].empty()) h.assign(&c.initial[0][b * H], &c.initial[0][b * H] + H);
    if (!c.initial[1].empty()) cell.assign(&c.initial[1][b * H], &c.initial[1][b * H] + H);
    for (int64_t s = 0; s < p.time; ++s) {
      const int64_t t = c.reverse ? p.time - 1 - s : s;
      Numbers dropped = h, new_h(H), new_cell(H), x(gates), hu(gates);
      for (int64_t u = 0; u < H && !c.dropout.empty(); ++u) {
        dropped[u] *= MaskEntry(p, c.dropout, c.dropout_per_step, b, t, u);
      }
      Numbers context(p.memory_units);
      if (p.attends) {
        const Numbers weights = Align(c, b, h);
        for (int64_t i = 0; i < p.source; ++i) {
          if (c.mask.empty() || c.mask[b * p.time + t]) out.attention_weights[(b * p.time + t) * p.source + i] = weights[i];
          for (int64_t d = 0; d < p.memory_units; ++d) {
            context[d] += weights[i] * c.memory[(b * p.source + i) * p.memory_units + d];
          }
        }
      }
      const bool two_biases = p.cell == CellKind::kGRU && p.reset_after;
      for (int64_t j = 0; j < gates; ++j) {
        if (!c.bias.empty()) x[j] = c.bias[j];
        if (!c.bias.empty() && two_biases) hu[j] = c.bias[gates + j];
        for (int64_t i = 0; i < p.features; ++i) x[j] += c.inputs[(b * p.time + t) * p.features + i] * c.kernel[i * gates + j];
        for (int64_t i = 0; i < p.memory_units; ++i) x[j] += context[i] * c.kernel[(p.features + i) * gates + j];
        for (int64_t i = 0; i < H; ++i) hu[j] += dropped[i] * c.recurrent_kernel[i * gates + j];
      }
      for (int64_t u = 0; u < H; ++u) {
        if (p.cell == CellKind::kSimpleRNN) {
          new_h[u] = Activate(p.activation, x[u] + hu[u]);
        } else if (p.cell == CellKind::kLSTM) {
          const Complex i = Squash(x[u] + hu[u]), f = Squash(x[H + u] + hu[H + u]);
          new_cell[u] = f * cell[u] + i * std::tanh(x[2 * H + u] + hu[2 * H + u]);
          new_h[u] = Squash(x[3 * H + u] + hu[3 * H + u]) * std::tanh(new_cell[u]);
        } else {
          Complex candidate = Squash(x[H + u] + hu[H + u]) * hu[2 * H + u];
          if (!p.reset_after) {
            candidate = 0;
            for (int64_t i = 0; i < H; ++i) {
              candidate += Squash(x[H + i] + hu[H + i]) * dropped[i] * c.recurrent_kernel[i * gates + 2 * H + u];
            }
          }
          const Complex z = Squash(x[u] + hu[u]);
          new_h[u] = z * h[u] + (1.0 - z) * std::tanh(x[2 * H + u] + candidate);
        }
      }
      for (int64_t u = 0; u < H; ++u) {
        if (!c.mask.empty() && !c.mask[b * p.time + t]) continue;
        for (int state = 0; state < States(p.cell); ++state) {
          Complex &old = state == 0 ? h[u] : cell[u], fresh = state == 0 ? new_h[u] : new_cell[u];
          const std::vector<double>& zoneout = c.zoneout[state];
          const double m = zoneout.empty() ? 0 : MaskEntry(p, zoneout, c.zoneout_per_step[state], b, t, u);
          old = m * old + (1 - m) * fresh;
        }
      }
      for (int64_t u = 0; u < H; ++u) out.outputs[(b * p.time + t) * H + u] = h[u];
    }
    for (int64_t u = 0; u < H; ++u) {
      out.final_state[0][b * H + u] = h[u];
      out.final_state[1][b * H + u] = cell[u];
    }
  }
  return out;
}

// The derivative of sum(d_outputs * outputs), likewise with final states and attention_weights, by every entry of `argument`, one of `c`.
inline std::vector<double> Differentiate(Case& c, Numbers& argument) {
  constexpr double kStep = 1e-30;
  std::vector<double> gradient;
  for (Complex& entry : argument) {
    entry += Complex(0, kStep);
    const Outcome out = RunPlainly(c);
    entry = entry.real();
    double sum = 0;
    for (size_t i = 0; i < c.d_outputs.size(); ++i) sum += c.d_outputs[i] * out.outputs[i].imag();
    for (size_t i = 0; i < c.d_attention_weights.size(); ++i) sum += c.d_attention_weights[i] * out.attention_weights[i].imag();
    for (int s = 0; s < States(c.problem.cell); ++s) {
      for (size_t i = 0; i < c.d_final[s].size(); ++i) sum += c.d_final[s][i] * out.final_state[s][i].imag();
    }
    gradient.push_back(sum / kStep);
  }
  return gradient;
}

}  // namespace keras_seq

#endif  // KERAS_SEQ_TESTS_REFERENCE_H_
