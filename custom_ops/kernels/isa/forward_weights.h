// SPDX-License-Identifier: Apache-2.0
// The weights of one direction as the forward pass reads them, and how they are packed.
#ifndef KERAS_SEQ_KERNELS_ISA_FORWARD_WEIGHTS_H_
#define KERAS_SEQ_KERNELS_ISA_FORWARD_WEIGHTS_H_

#include "../packed_weights.h"
#include "../workspace.h"
#include "attention_memory.h"
#include "layer_norm_forward.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// Null where the cell or the call has no such weight.
template <class Element>
struct ForwardWeights {
  using T = typename ProductTypes<Element>::Sum;
  Element *kernel, *recurrent_kernel, *candidate_kernel, *projection_kernel;  // in panels
  T *bias, *recurrent_bias;
  T* peephole_kernel;  // (3, padded)
  T* gains;            // of a cell with layer normalization; see `GainRows`

  void Take(const PackedWeights& packed) {
    kernel = static_cast<Element*>(packed.kernel);
    recurrent_kernel = static_cast<Element*>(packed.recurrent_kernel);
    candidate_kernel = static_cast<Element*>(packed.candidate_kernel);
    projection_kernel = static_cast<Element*>(packed.projection_kernel);
    bias = static_cast<T*>(packed.bias);
    recurrent_bias = static_cast<T*>(packed.recurrent_bias);
    peephole_kernel = static_cast<T*>(packed.peephole_kernel);
    gains = static_cast<T*>(packed.gains);
  }

  void Export(PackedWeights* packed) const {
    packed->kernel = kernel;
    packed->recurrent_kernel = recurrent_kernel;
    packed->candidate_kernel = candidate_kernel;
    packed->projection_kernel = projection_kernel;
    packed->bias = bias;
    packed->recurrent_bias = recurrent_bias;
    packed->peephole_kernel = peephole_kernel;
    packed->gains = gains;
  }
};

template <class Equations, class S, class Element>
class WeightPacking {
  using Types = ProductTypes<Element>;
  using T = typename Types::Sum;
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kInputVectors = Equations::kInput.vectors();

 public:
  // `arguments` are those of any direction.
  WeightPacking(const Problem& problem, const Arguments& arguments)
      : features(problem.features),
        units(problem.units),
        hidden_units(HiddenUnits(problem)),
        input_depth(CeilDiv(problem.features, Types::kDepth) * Types::kDepth),
        layout(problem.batch, problem.units, Equations::kUnitVectors),
        hidden_padded(Equations::kProjects ? PaddedUnits(hidden_units, kPanelVectors) : layout.padded),
        input_panels(PanelCount(Equations::kInput, problem.units, L)),
        recurrent_panels(PanelCount(Equations::kRecurrent, problem.units, L)),
        projection_panels(PanelCount(kPlainColumns, hidden_units, L)),
        has_peepholes_(arguments.extra_weights[kPeepholeKernel] != nullptr) {}

  void Allocate(Workspace& workspace, ForwardWeights<Element>* weights) const {
    constexpr int kVectors = Equations::kRecurrent.vectors();
    weights->kernel = workspace.Allocate<Element>(input_panels * PanelSize<Element>(input_depth, kInputVectors));
    weights->recurrent_kernel =
        workspace.Allocate<Element>(recurrent_panels * PanelSize<Element>(hidden_padded, kVectors));
    weights->bias = workspace.AllocateZeros<T>(input_panels * kInputVectors * L);
    weights->recurrent_bias = workspace.AllocateZeros<T>(layout.padded);
    if (has_peepholes_) weights->peephole_kernel = workspace.AllocateZeros<T>(3 * layout.padded);
    if constexpr (Equations::kNormalizes) {
      weights->gains = workspace.Allocate<T>(GainRows<Equations>::kCount * layout.padded);
    }
    if constexpr (Equations::kProjects) {
      weights->projection_kernel =
          workspace.Allocate<Element>(projection_panels * PanelSize<Element>(layout.padded, kPanelVectors));
    }
    if constexpr (Equations::kHasCandidateProduct) {
      constexpr int kCandidateVectors = Equations::kCandidate.vectors();
      weights->candidate_kernel =
          workspace.Allocate<Element>(recurrent_panels * PanelSize<Element>(layout.padded, kCandidateVectors));
    }
  }

  // The items of work of `Pack`.
  int64_t Items() const { return InputBlocks() + CeilDiv(hidden_padded, kPackBlock) + 1; }

  void Pack(const Arguments& arguments, int64_t item, const ForwardWeights<Element>& weights) const {
    if (item < InputBlocks()) return PackInputKernel(arguments, item * kPackBlock, weights);
    item -= InputBlocks();
    if (item < CeilDiv(hidden_padded, kPackBlock)) return PackRecurrentKernel(arguments, item * kPackBlock, weights);
    PackBias(arguments, weights);
    if (has_peepholes_) {
      const void* peepholes = arguments.extra_weights[kPeepholeKernel];
      LoadPeepholes(static_cast<const S*>(peepholes), layout, weights.peephole_kernel);
    }
    if constexpr (Equations::kNormalizes) PackGains<Equations, S>(arguments, layout, weights.gains);
    if constexpr (Equations::kProjects) {
      const void* kernel = arguments.extra_weights[kProjectionKernel];
      PackRows<kPlainColumns>(static_cast<const S*>(kernel), units, layout.padded, hidden_units, 1, 0, layout.padded,
                              weights.projection_kernel);
    }
  }

  const int64_t features, units, hidden_units;  // `hidden_units` are those of h
  const int64_t input_depth;                    // features with padding to whole elements
  const Layout layout;
  const int64_t hidden_padded;
  const int64_t input_panels, recurrent_panels, projection_panels;

 private:
  int64_t InputBlocks() const { return CeilDiv(input_depth, kPackBlock); }

  void PackInputKernel(const Arguments& arguments, int64_t first, const ForwardWeights<Element>& weights) const {
    PackRows<Equations::kInput>(static_cast<const S*>(arguments.kernel), features, input_depth, units,
                                Equations::kGates, first, Smaller(first + kPackBlock, input_depth), weights.kernel);
  }

  void PackRecurrentKernel(const Arguments& arguments, int64_t first, const ForwardWeights<Element>& weights) const {
    const S* matrix = static_cast<const S*>(arguments.recurrent_kernel);
    const int64_t end = Smaller(first + kPackBlock, hidden_padded);
    PackRows<Equations::kRecurrent>(matrix, hidden_units, hidden_padded, units, Equations::kGates, first, end,
                                    weights.recurrent_kernel);
    if constexpr (Equations::kHasCandidateProduct) {
      PackRows<Equations::kCandidate>(matrix, units, layout.padded, units, Equations::kGates, first, end,
                                      weights.candidate_kernel);
    }
  }

  void PackBias(const Arguments& arguments, const ForwardWeights<Element>& weights) const {
    const S* bias = static_cast<const S*>(arguments.bias);
    if (bias == nullptr) return;
    for (int64_t panel = 0; panel < input_panels; ++panel) {
      for (int v = 0; v < kInputVectors; ++v) {
        const int gate = Equations::kInput.gate[v % Equations::kInput.gates];
        const int64_t unit = (panel * Equations::kInput.unit_vectors + v / Equations::kInput.gates) * L;
        if (unit >= units) continue;
        V sum = LoadUnits<T>(bias + gate * units, unit, units);
        if constexpr (Equations::kHasRecurrentBias) {
          const V recurrent = LoadUnits<T>(bias + (Equations::kGates + gate) * units, unit, units);
          if (gate == Equations::kCandidateGate) {
            Store(weights.recurrent_bias + unit, recurrent);
          } else {
            sum += recurrent;
          }
        }
        Store(weights.bias + (panel * kInputVectors + v) * L, sum);
      }
    }
  }

  const bool has_peepholes_;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_FORWARD_WEIGHTS_H_
