// SPDX-License-Identifier: Apache-2.0
// The recurrences in plain code, one number at a time. Numbers are complex, because the derivative of f at x is then
// Im f(x + ih) / h, which loses no digits in a difference (Squire & Trapp 1998).
#ifndef KERAS_SEQ_TESTS_REFERENCE_H_
#define KERAS_SEQ_TESTS_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <complex>
#include <vector>

#include "../kernels/recurrence.h"

namespace keras_seq {

using Complex = std::complex<double>;
using Numbers = std::vector<Complex>;

// Every cell under test.
struct CellVariant {
  CellKind cell;
  bool reset_after;
};
constexpr CellVariant kCellVariants[] = {
    {CellKind::kSimpleRNN, true}, {CellKind::kGRU, true}, {CellKind::kGRU, false}, {CellKind::kLSTM, true},
    {CellKind::kMGU, true}};

inline bool HasCellState(const Problem& p) { return States(p.cell) == 2; }
inline bool HasLayerNorm(CellKind cell) { return cell == CellKind::kGRU || cell == CellKind::kLSTM; }
inline int64_t StateUnits(const Problem& p, int state) { return state == 0 ? HiddenUnits(p) : p.units; }
inline int64_t BiasRows(const Problem& p) { return p.cell == CellKind::kGRU && p.reset_after ? 2 : 1; }

// A call of one direction. Optional arguments that are absent are empty.
struct Case {
  Problem problem;
  bool reverse, dropout_per_step, zoneout_per_step[2];
  std::vector<char> mask, memory_mask;
  Numbers inputs, kernel, recurrent_kernel, bias, initial_state[2];  // these and the next have gradients
  Numbers memory, keys, query_kernel, score_vector;
  Numbers extra_weights[kExtraWeightCount];
  Numbers initial_fed, attentional_kernel, coverage_kernel, initial_coverage, energy_bias, initial_weights;
  std::vector<double> recurrent_dropout_mask, zoneout[2];
  std::vector<double> d_outputs, d_final_state[2], d_attention_weights, d_fed, d_final_fed,
      d_final_coverage, d_final_weights;

  // The arguments that have gradients, in the order of `Gradients`.
  std::vector<Numbers*> Differentiable() {
    std::vector<Numbers*> all{&inputs,           &kernel, &recurrent_kernel, &bias,         &initial_state[0],
                              &initial_state[1], &memory, &keys,             &query_kernel, &score_vector};
    for (Numbers& weight : extra_weights) all.push_back(&weight);
    for (Numbers* argument : {&initial_fed, &attentional_kernel, &coverage_kernel, &initial_coverage, &energy_bias,
                              &initial_weights}) {
      all.push_back(argument);
    }
    return all;
  }
};

struct Outcome {
  Numbers outputs, final_state[2], attention_weights, fed, final_fed, final_coverage, final_weights;
};

inline Complex Activate(Activation activation, Complex x) {
  switch (activation) {
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kRelu:
      return x.real() > 0 ? x : Complex(0);
    case Activation::kLinear:
      return x;
    case Activation::kSigmoid:
      return 1.0 / (1.0 + std::exp(-x));
    case Activation::kHardSigmoid:
      return x.real() <= -3 ? Complex(0) : x.real() >= 3 ? Complex(1) : (x + 3.0) / 6.0;
  }
  return x;
}

inline double MaskEntry(const Problem& p, const std::vector<double>& mask, bool per_step, int64_t b, int64_t t,
                        int64_t u, int64_t units) {
  return mask[(per_step ? b * p.time + t : b) * units + u];
}

// The attention weights of sequence b, where h is the state that it attends with.
inline Numbers AttentionWeights(const Case& c, int64_t b, int64_t t, const Numbers& h, const Outcome& out) {
  const Problem& p = c.problem;
  const int64_t A = p.attention_units;
  Numbers weights(p.source);
  Complex total = 0, reach = 0;
  bool stopped = false;
  for (int64_t s = 0; s < p.source; ++s) {
    if (p.weighting != Weighting::kSoftmax) reach += out.final_weights[b * p.source + s];
    if (!c.memory_mask.empty() && !c.memory_mask[b * p.source + s]) continue;
    Complex energy = 0;
    for (int64_t a = 0; a < A; ++a) {
      Complex sum = c.keys[(b * p.source + s) * A + a];
      if (p.covers) sum += out.final_coverage[b * p.source + s] * c.coverage_kernel[a];
      if (p.score == Score::kDot) {
        energy += sum * h[a];
        continue;
      }
      for (int64_t u = 0; u < HiddenUnits(p); ++u) sum += h[u] * c.query_kernel[u * A + a];
      energy += c.score_vector[a] * std::tanh(sum);
    }
    if (p.weighting == Weighting::kSoftmax) {
      total += weights[s] = std::exp(energy);
      continue;
    }
    energy += c.energy_bias[(b * p.time + t) * p.source + s];
    if (p.weighting == Weighting::kMonotonic) {
      weights[s] = Activate(Activation::kSigmoid, energy) * reach;
      reach *= Activate(Activation::kSigmoid, -energy);
    } else if (!stopped && reach.real() > 0 && energy.real() > 0) {
      weights[s] = stopped = true;
    }
  }
  if (p.weighting != Weighting::kSoftmax) return weights;
  for (Complex& weight : weights) weight /= total == Complex(0) ? 1 : total;
  return weights;
}

// Scales the entries [begin, end) to mean 0 and variance 1, and multiplies them by their gains.
inline void Normalize(const Numbers& gains, int64_t begin, int64_t end, Numbers& row) {
  Complex mean = 0, variance = 0;
  for (int64_t i = begin; i < end; ++i) mean += row[i] / double(end - begin);
  for (int64_t i = begin; i < end; ++i) variance += (row[i] - mean) * (row[i] - mean) / double(end - begin);
  for (int64_t i = begin; i < end; ++i) row[i] = gains[i] * (row[i] - mean) / std::sqrt(variance + 1e-3);
}

// Normalizes the products of the gates [first, end) if the call has layer normalization: of an LSTM all together, of a
// GRU the candidate by itself.
inline void NormalizeGates(const Case& c, ExtraWeight gains, int64_t first, int64_t end, Numbers& product) {
  const int64_t H = c.problem.units, together = c.problem.cell == CellKind::kGRU ? 2 : 4;
  if (!c.problem.layer_norm) return;
  if (first < together) Normalize(c.extra_weights[gains], 0, together * H, product);
  if (end > together) Normalize(c.extra_weights[gains], together * H, end * H, product);
}

// x W + b with what attention feeds as further inputs, in the order of the gates.
inline Numbers InputProduct(const Case& c, int64_t b, int64_t t, const Numbers& fed) {
  const Problem& p = c.problem;
  const int64_t gates = Gates(p.cell) * p.units;
  Numbers product(gates);
  for (int64_t j = 0; j < gates; ++j) {
    for (int64_t i = 0; i < p.features; ++i) {
      product[j] += c.inputs[(b * p.time + t) * p.features + i] * c.kernel[i * gates + j];
    }
    for (size_t i = 0; i < fed.size(); ++i) product[j] += fed[i] * c.kernel[(p.features + i) * gates + j];
  }
  NormalizeGates(c, kInputGamma, 0, Gates(p.cell), product);
  for (int64_t j = 0; j < gates && !c.bias.empty(); ++j) product[j] += c.bias[j];
  return product;
}

// h U, plus the second row of the bias if there is one, in the order of the gates.
inline Numbers RecurrentProduct(const Case& c, const Numbers& h) {
  const Problem& p = c.problem;
  const int64_t gates = Gates(p.cell) * p.units;
  Numbers product(gates);
  for (int64_t j = 0; j < gates; ++j) {
    for (int64_t i = 0; i < HiddenUnits(p); ++i) product[j] += h[i] * c.recurrent_kernel[i * gates + j];
  }
  NormalizeGates(c, kRecurrentGamma, 0, Gates(p.cell), product);
  for (int64_t j = 0; j < gates && BiasRows(p) == 2 && !c.bias.empty(); ++j) product[j] += c.bias[gates + j];
  return product;
}

struct CellStates {
  Numbers h, c;
};

// (r * h) U of a GRU that resets before the product, where the candidate's part is; else nothing.
template <class Gate>
Numbers ResetProduct(const Case& call, const Numbers& dropped, const Gate& gate) {
  const Problem& p = call.problem;
  const int64_t H = p.units;
  Numbers product(3 * H);
  if (p.cell != CellKind::kGRU || p.reset_after) return product;
  for (int64_t i = 0; i < H; ++i) {
    const Complex gated = gate(1, i) * dropped[i];
    for (int64_t u = 2 * H; u < 3 * H; ++u) product[u] += gated * call.recurrent_kernel[i * 3 * H + u];
  }
  NormalizeGates(call, kRecurrentGamma, 2, 3, product);
  return product;
}

// The equations of the cells. `dropped` is h times its recurrent dropout mask.
inline CellStates Step(const Case& call, const CellStates& state, const Numbers& dropped, const Numbers& x) {
  const Problem& p = call.problem;
  const int64_t H = p.units;
  const Numbers hu = RecurrentProduct(call, dropped);
  const auto sum = [&](int64_t gate, int64_t u) { return x[gate * H + u] + hu[gate * H + u]; };
  const auto activate = [&](Complex value) { return Activate(p.activation, value); };
  const auto gate = [&](int64_t gate, int64_t u, Complex more = 0) {
    return Activate(p.recurrent_activation, sum(gate, u) + more);
  };
  const auto peephole = [&](int64_t row, int64_t u) {
    const Numbers& kernel = call.extra_weights[kPeepholeKernel];
    return kernel.empty() ? Complex(0) : kernel[row * H + u];
  };
  CellStates next{Numbers(H), Numbers(H)};
  const Numbers reset = ResetProduct(call, dropped, gate);
  for (int64_t u = 0; u < H; ++u) {
    switch (p.cell) {
      case CellKind::kSimpleRNN:
        next.h[u] = activate(sum(0, u));
        break;
      case CellKind::kLSTM:
        next.c[u] = gate(1, u, peephole(1, u) * state.c[u]) * state.c[u] +
                    gate(0, u, peephole(0, u) * state.c[u]) * activate(sum(2, u));
        break;
      case CellKind::kGRU: {
        const Complex candidate = p.reset_after ? gate(1, u) * hu[2 * H + u] : reset[2 * H + u];
        const Complex z = gate(0, u);
        next.h[u] = z * state.h[u] + (1.0 - z) * activate(x[2 * H + u] + candidate);
        break;
      }
      case CellKind::kMGU: {
        Complex candidate = 0;
        for (int64_t i = 0; i < H; ++i) {
          candidate += gate(0, i) * dropped[i] * call.recurrent_kernel[i * 2 * H + H + u];
        }
        const Complex f = gate(0, u);
        next.h[u] = (1.0 - f) * state.h[u] + f * activate(x[H + u] + candidate);
        break;
      }
    }
  }
  if (p.cell != CellKind::kLSTM) return next;
  Numbers read = next.c;
  if (p.layer_norm) Normalize(call.extra_weights[kStateGamma], 0, H, read);
  for (int64_t u = 0; u < H; ++u) {
    if (p.layer_norm) read[u] += call.extra_weights[kStateBeta][u];
    next.h[u] = gate(3, u, peephole(2, u) * next.c[u]) * activate(read[u]);
  }
  if (!p.projects) return next;
  Numbers projected(p.projection_units);
  for (int64_t u = 0; u < p.projection_units; ++u) {
    const Numbers& kernel = call.extra_weights[kProjectionKernel];
    for (int64_t i = 0; i < H; ++i) projected[u] += next.h[i] * kernel[i * p.projection_units + u];
  }
  next.h = projected;
  return next;
}

// state = zoneout mask * state + (1 - zoneout mask) * next.
inline void ApplyZoneout(const Case& c, int index, int64_t b, int64_t t, const Numbers& next, Numbers& state) {
  for (size_t u = 0; u < state.size(); ++u) {
    const std::vector<double>& zoneout = c.zoneout[index];
    const double m = zoneout.empty() ? 0 : MaskEntry(c.problem, zoneout, c.zoneout_per_step[index], b, t, u, state.size());
    state[u] = m * state[u] + (1 - m) * next[u];
  }
}

inline Numbers InitialState(const Case& c, int index, int64_t b) {
  const Numbers& all = c.initial_state[index];
  const int64_t H = StateUnits(c.problem, index);
  return all.empty() ? Numbers(H) : Numbers(all.begin() + b * H, all.begin() + (b + 1) * H);
}

// The attentional vector of [h, context], or the context itself without a kernel.
inline Numbers Attentional(const Case& c, const Numbers& h, const Numbers& context) {
  const Problem& p = c.problem;
  if (!p.attentional) return context;
  const int64_t O = p.attentional_units, H = HiddenUnits(p);
  Numbers vector(O);
  for (int64_t j = 0; j < O; ++j) {
    for (int64_t i = 0; i < H; ++i) vector[j] += h[i] * c.attentional_kernel[i * O + j];
    for (int64_t i = 0; i < p.memory_units; ++i) vector[j] += context[i] * c.attentional_kernel[(H + i) * O + j];
    if (!p.linear) vector[j] = std::tanh(vector[j]);
  }
  return vector;
}

// Attends with h, writes the attention weights and returns the context.
inline Numbers Attend(const Case& c, int64_t b, int64_t t, const Numbers& h, Outcome* out) {
  const Problem& p = c.problem;
  Numbers context(p.memory_units);
  const Numbers weights = AttentionWeights(c, b, t, h, *out);
  for (int64_t s = 0; s < p.source; ++s) {
    out->attention_weights[(b * p.time + t) * p.source + s] = weights[s];
    if (p.weighting != Weighting::kSoftmax) out->final_weights[b * p.source + s] = weights[s];
    if (p.covers) out->final_coverage[b * p.source + s] += weights[s];
    for (int64_t i = 0; i < p.memory_units; ++i) {
      context[i] += weights[s] * c.memory[(b * p.source + s) * p.memory_units + i];
    }
  }
  return context;
}

inline Outcome RunReference(const Case& c) {
  const Problem& p = c.problem;
  const int64_t H = HiddenUnits(p);
  Outcome out{Numbers(p.batch * p.time * H), {Numbers(p.batch * H), Numbers(p.batch * p.units)}, {}, {}, {},
              c.initial_coverage, c.initial_weights};
  const int64_t F = p.attends_after ? FedUnits(p) : 0;
  if (p.attends) out.attention_weights.resize(p.batch * p.time * p.source);
  out.fed.resize(p.batch * p.time * F), out.final_fed.resize(p.batch * F);
  for (int64_t b = 0; b < p.batch; ++b) {
    CellStates state{InitialState(c, 0, b), InitialState(c, 1, b)};
    Numbers fed(c.initial_fed.begin() + b * F, c.initial_fed.begin() + (b + 1) * F);
    for (int64_t step = 0; step < p.time; ++step) {
      const int64_t t = c.reverse ? p.time - 1 - step : step;
      if (c.mask.empty() || c.mask[b * p.time + t]) {
        if (p.attends && !p.attends_after) fed = Attend(c, b, t, state.h, &out);
        Numbers dropped = state.h;
        for (int64_t u = 0; u < H && !c.recurrent_dropout_mask.empty(); ++u) {
          dropped[u] *= MaskEntry(p, c.recurrent_dropout_mask, c.dropout_per_step, b, t, u, H);
        }
        const CellStates next = Step(c, state, dropped, InputProduct(c, b, t, fed));
        ApplyZoneout(c, 0, b, t, next.h, state.h);
        if (HasCellState(p)) ApplyZoneout(c, 1, b, t, next.c, state.c);
        if (p.attends_after) fed = Attentional(c, state.h, Attend(c, b, t, state.h, &out));
      }
      if (p.attends_after) std::copy(fed.begin(), fed.end(), out.fed.begin() + (b * p.time + t) * F);
      for (int64_t u = 0; u < H; ++u) out.outputs[(b * p.time + t) * H + u] = state.h[u];
    }
    for (int64_t u = 0; u < H; ++u) out.final_state[0][b * H + u] = state.h[u];
    for (int64_t u = 0; u < p.units; ++u) out.final_state[1][b * p.units + u] = state.c[u];
    if (p.attends_after) std::copy(fed.begin(), fed.end(), out.final_fed.begin() + b * F);
  }
  return out;
}

// The derivative of sum(d_outputs * outputs) + sum(d_final_state * final_state) and so on, for every result with an
// upstream gradient, by every entry of `argument`, which is one of `c`.
inline std::vector<double> Differentiate(Case& c, Numbers& argument) {
  constexpr double kStep = 1e-30;
  const auto dot = [](const std::vector<double>& upstream, const Numbers& results) {
    double sum = 0;
    for (size_t i = 0; i < upstream.size(); ++i) sum += upstream[i] * results[i].imag();
    return sum;
  };
  std::vector<double> gradient;
  for (Complex& entry : argument) {
    entry += Complex(0, kStep);
    const Outcome out = RunReference(c);
    entry = entry.real();
    double sum = dot(c.d_outputs, out.outputs) + dot(c.d_attention_weights, out.attention_weights) +
                 dot(c.d_fed, out.fed) + dot(c.d_final_fed, out.final_fed) +
                 dot(c.d_final_coverage, out.final_coverage) + dot(c.d_final_weights, out.final_weights);
    for (int s = 0; s < States(c.problem.cell); ++s) sum += dot(c.d_final_state[s], out.final_state[s]);
    gradient.push_back(sum / kStep);
  }
  return gradient;
}

}  // namespace keras_seq

#endif  // KERAS_SEQ_TESTS_REFERENCE_H_
