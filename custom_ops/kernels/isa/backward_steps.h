// SPDX-License-Identifier: Apache-2.0
// The work of the loop of the backward pass. A step multiplies the gradients of its slots by U^T. While the sums are in
// the first-level cache, it turns them into the slot gradients of the step before.
#ifndef KERAS_SEQ_KERNELS_ISA_BACKWARD_STEPS_H_
#define KERAS_SEQ_KERNELS_ISA_BACKWARD_STEPS_H_

#include "../team.h"
#include "backward_call.h"
#include "layer_norm_backward.h"
#include "projection_backward.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// Attention is no parameter of the class, and the functions that take the time are not inlined, so that calls with and
// without attention share their code.
template <class Equations, class S, class Element>
class BackwardSteps {
  using Call = BackwardCall<Equations, S, Element>;
  using T = typename Call::T;
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kStates = Equations::kHasCellState ? 2 : 1;
  // The sequences of an item of work that calls `DifferentiateCell`.
  static constexpr int64_t kPeepholeRows = Equations::kNormalizesState ? kNormRows : kRowBlock;
  static constexpr int kFirstState = Equations::kProjects ? 1 : 0;  // that the equations give
  static constexpr int kResidualSlots = Equations::kResidualSlots, kGradientSlots = Equations::kGradientSlots;
  static constexpr int kProducts = Equations::kHasCandidateProduct ? 2 : 1;

 public:
  // `call` must outlive this object.
  explicit BackwardSteps(const Call& call)
      : call_(call),
        problem_(call.problem),
        arguments_(call.arguments),
        upstream_(call.upstream),
        gradients_(call.gradients),
        direction_count_(call.direction_count),
        unit_panels_(CeilDiv(call.hidden_units, kPanelVectors * L)),
        options_(call.problem, call.arguments[0]),
        layout_(call.layout),
        hidden_padded_(Equations::kProjects ? PaddedUnits(call.hidden_units, kPanelVectors) : layout_.padded),
        layer_norm_(call),
        projection_(call) {}

  bool Allocate(Workspace& workspace) {
    directions_ = workspace.Allocate<Direction>(direction_count_);
    if (!workspace.ok()) return false;
    for (int64_t d = 0; d < direction_count_; ++d) AllocateDirection(workspace, directions_[d]);
    layer_norm_.Allocate(workspace);
    projection_.Allocate(workspace);
    return workspace.ok();
  }

  // The items of work of `Prepare` for each direction.
  int64_t PrepareItems() const { return unit_panels_ * kProducts + 1; }

  // Packs a panel of the weights, or loads c and the other extra weights.
  void Prepare(int64_t d, int64_t item) {
    if (item < unit_panels_) {
      PackRecurrentKernel(d, item);
    } else if ((item -= unit_panels_) < unit_panels_ * (kProducts - 1)) {
      PackCandidateKernel(d, item);
    } else {
      LoadCellStates(d);
      if (options_.has_peepholes) {
        LoadPeepholes(static_cast<const S*>(arguments_[d].extra_weights[kPeepholeKernel]), layout_,
                      directions_[d].peepholes);
      }
      layer_norm_.Prepare(d);
      projection_.Prepare(d);
    }
  }

  // Adds up and stores the gradients of the peepholes, once all steps are done.
  void StorePeepholeGradients(Worker& worker) const {
    if (!WantsPeepholes()) return;
    worker.ForEach(direction_count_, [&](int64_t d) {
      S* to = static_cast<S*>(gradients_[d].extra_weights[kPeepholeKernel]);
      for (int64_t gate = 0; gate < 3; ++gate, to += problem_.units) {
        for (int64_t unit = 0; unit < problem_.units; unit += L) {
          V sum{};
          for (int64_t block = 0; block < CeilDiv(problem_.batch, kPeepholeRows); ++block) {
            sum += Load(directions_[d].d_peepholes + (3 * block + gate) * layout_.padded + unit);
          }
          StoreFirst(to + unit, sum, problem_.units - unit);
        }
      }
    });
  }

  // From the slot gradients of `step` to those of the step before it. `step` may be the number of steps, which has no
  // slot gradients yet, or 0, before which come the initial states.
  template <class Attention>
  void StepBack(Worker& worker, int64_t step, Attention& attention) {
    attention.DifferentiateStep(worker, step, [&](int64_t block, const Element* kernel, T* sums) {
      MultiplySlotGradients(0, step, block, Equations::kInputSlots, kernel, sums);
    });
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock), items = direction_count_ * unit_panels_ * blocks;
    worker.ForEach(items, [&](int64_t item) {
      const int64_t d = item / blocks / unit_panels_, panel = item / blocks % unit_panels_, block = item % blocks;
      T sums[kRowBlock * kPanelVectors * L];
      LoadGatedHiddenGradients(d, step, panel, block, sums);
      if (step < problem_.time) {
        MultiplySlotGradients(d, step, block, Equations::kRecurrentSlots, RecurrentPanel(d, panel), sums);
      }
      attention.AddHiddenGradients(step, panel, block, directions_[d].d_h, hidden_padded_);
      DifferentiateStates(d, step, panel, block, sums);
    }, step % 2 == 1);
    if constexpr (Equations::kProjects) DifferentiateProjection(worker, step);
    if constexpr (Equations::kHasCandidateProduct) {
      DifferentiateNorms<Equations::kCandidate, false>(worker, step);
    } else {
      DifferentiateNorms<Equations::kRecurrent, true>(worker, step);
    }
    if constexpr (Equations::kHasCandidateProduct) {
      if (step == 0) return;
      worker.ForEach(items, [&](int64_t item) {
        const int64_t d = item / blocks / unit_panels_, panel = item / blocks % unit_panels_, block = item % blocks;
        T sums[kRowBlock * kPanelVectors * L];
        memset(sums, 0, sizeof sums);
        MultiplySlotGradients(d, step - 1, block, Equations::kCandidateSlots, CandidatePanel(d, panel), sums);
        DifferentiateGatedHidden(d, step - 1, panel, block, sums);
      }, step % 2 == 1);
      DifferentiateNorms<Equations::kRecurrent, true>(worker, step);
    }
  }

  // After the last step back: the gradients that are sums over all steps.
  void StoreSums(Worker& worker) {
    StorePeepholeGradients(worker);
    layer_norm_.StoreGradients(worker);
  }

  // After the steps of a chunk: those of the projection kernel.
  void AddProjectionGradients(Worker& worker, int64_t begin, int64_t end) {
    projection_.AddWeightGradients(worker, begin, end);
  }

 private:
  // What each direction has in the workspace. `d_h` is the gradient of the previous h, as far as it does not pass
  // through the recurrent product; `d_gated_h` is its part through the product of the candidate, before recurrent
  // dropout.
  struct Direction {
    Element *recurrent_kernel, *candidate_kernel;  // transposed, in panels
    T *d_h, *d_gated_h, *d_c;                      // (batch, padded)
    T* initial_c;                                  // (batch, padded)
    T *peepholes, *d_peepholes;                    // (3, padded), and (blocks, 3, padded): sums over the steps so far
  };

  void AllocateDirection(Workspace& workspace, Direction& direction) {
    const int64_t states = problem_.batch * layout_.padded;
    direction = Direction{};
    direction.recurrent_kernel =
        workspace.Allocate<Element>(unit_panels_ * call_.TransposedPanelSize(Equations::kRecurrentSlots));
    direction.d_h = workspace.AllocateZeros<T>(problem_.batch * hidden_padded_);
    if constexpr (Equations::kHasCellState) {
      direction.d_c = workspace.AllocateZeros<T>(states);
      direction.initial_c = workspace.AllocateZeros<T>(states);
    }
    if constexpr (Equations::kHasCandidateProduct) {
      direction.candidate_kernel =
          workspace.Allocate<Element>(unit_panels_ * call_.TransposedPanelSize(Equations::kCandidateSlots));
      direction.d_gated_h = workspace.AllocateZeros<T>(states);
    }
    if (options_.has_peepholes) direction.peepholes = workspace.AllocateZeros<T>(3 * layout_.padded);
    if (WantsPeepholes()) {
      direction.d_peepholes = workspace.AllocateZeros<T>(3 * CeilDiv(problem_.batch, kPeepholeRows) * layout_.padded);
    }
  }

  bool WantsPeepholes() const { return gradients_[0].extra_weights[kPeepholeKernel] != nullptr; }

  void PackRecurrentKernel(int64_t d, int64_t panel) {
    PackTransposed(static_cast<const S*>(arguments_[d].recurrent_kernel), call_.hidden_units, layout_,
                   Equations::kGates, Equations::kRecurrentGradient, panel, RecurrentPanel(d, panel));
  }

  void PackCandidateKernel(int64_t d, int64_t panel) {
    if constexpr (Equations::kHasCandidateProduct) {
      PackTransposed(static_cast<const S*>(arguments_[d].recurrent_kernel), problem_.units, layout_, Equations::kGates,
                     Equations::kCandidate, panel, CandidatePanel(d, panel));
    }
  }

  Element* RecurrentPanel(int64_t d, int64_t panel) const {
    return directions_[d].recurrent_kernel + panel * call_.TransposedPanelSize(Equations::kRecurrentSlots);
  }

  Element* CandidatePanel(int64_t d, int64_t panel) const {
    return directions_[d].candidate_kernel + panel * call_.TransposedPanelSize(Equations::kCandidateSlots);
  }

  void LoadCellStates(int64_t d) {
    if constexpr (Equations::kHasCellState) {
      const int64_t units = problem_.units;
      const S* initial = static_cast<const S*>(arguments_[d].initial_state[1]);
      const S* upstream = static_cast<const S*>(upstream_[d].final_state[1]);
      for (int64_t b = 0; b < problem_.batch; ++b) {
        for (int64_t unit = 0; unit < units; unit += L) {
          const int64_t at = b * layout_.padded + unit;
          if (initial) Store(directions_[d].initial_c + at, LoadUnits<T>(initial + b * units, unit, units));
          if (upstream) Store(directions_[d].d_c + at, LoadUnits<T>(upstream + b * units, unit, units));
        }
      }
    }
  }

  // sums = the gradients of h through the product of the candidate; zeros for a cell without that product.
  void LoadGatedHiddenGradients(int64_t d, int64_t step, int64_t panel, int64_t block, T* sums) const {
    for (int64_t b = block * kRowBlock; b < BlockEnd(problem_, block); ++b, sums += kPanelVectors * L) {
      for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t unit = (panel * kPanelVectors + v) * L;
        const bool gated = Equations::kHasCandidateProduct && step < problem_.time && unit < problem_.units;
        Store(sums + v * L, gated ? Load(directions_[d].d_gated_h + b * layout_.padded + unit) : V{});
      }
    }
  }

  // sums += the slot gradients of a step times a panel of a transposed kernel. Masked sequences have none.
  __attribute__((noinline)) void MultiplySlotGradients(int64_t d, int64_t step, int64_t block, const SlotRange& slots,
                                                       const Element* kernel, T* sums) const {
    const VisibleSequences rows(problem_, block, call_.Time(d, step));
    const Element* left[kRowBlock];
    T* sum_rows[kRowBlock];
    const S* gradients = call_.SlotGradients(d, step, 0) + slots.first * layout_.width;
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = reinterpret_cast<const Element*>(gradients + rows.sequence[i] * kGradientSlots * layout_.width);
      sum_rows[i] = sums + (rows.sequence[i] - block * kRowBlock) * kPanelVectors * L;
    }
    call_.MultiplySlots(slots, rows.count, left, kernel, sum_rows);
  }

  // `sums` are the gradients of h, with its dropout applied, as `step` multiplies it.
  __attribute__((noinline)) void DifferentiateStates(int64_t d, int64_t step, int64_t panel, int64_t block,
                                                     const T* sums) const {
    const Direction& direction = directions_[d];
    const int64_t units = call_.hidden_units;
    for (int v = 0; v < kPanelVectors; ++v) {
      const int64_t unit = (panel * kPanelVectors + v) * L;
      if (unit >= units) break;
      [[maybe_unused]] const CellOptions<T> options = OptionsAt(d, block * kRowBlock, unit);
      for (int64_t b = block * kRowBlock; b < BlockEnd(problem_, block); ++b) {
        V dh = Load(sums + ((b - block * kRowBlock) * kPanelVectors + v) * L);
        if (step == problem_.time) {
          const S* final_h = static_cast<const S*>(upstream_[d].final_state[0]);
          if (final_h) dh = LoadUnits<T>(final_h + b * units, unit, units);
        } else {
          dh = call_.Drop(d, step, b, unit, dh);
        }
        // Padding must be 0: infinity times the zeros of a packed kernel is NaN, which later products would spread.
        dh = KeepFirst<T>(dh + Load(direction.d_h + b * hidden_padded_ + unit), units - unit);
        if (step == 0) {
          StoreInitialStateGradients(d, b, unit, dh);
        } else if constexpr (Equations::kProjects) {
          Store(direction.d_h + b * hidden_padded_ + unit, ProjectedGradient(d, step - 1, b, unit, dh));
        } else if constexpr (Equations::kNormalizesState) {  // the derivative of c needs whole rows
          Store(direction.d_h + b * layout_.padded + unit, dh);
        } else {
          DifferentiateCell(d, step - 1, b, unit, options, dh);
        }
      }
    }
  }

  void StoreInitialStateGradients(int64_t d, int64_t b, int64_t unit, V dh) const {
    const int64_t units = call_.hidden_units;
    S* h = static_cast<S*>(gradients_[d].initial_state[0]);
    if (h) StoreFirst(h + b * units + unit, dh, units - unit);
    if constexpr (!Equations::kProjects) StoreInitialCellStateGradients(d, b, unit);
  }

  void StoreInitialCellStateGradients(int64_t d, int64_t b, int64_t unit) const {
    if constexpr (Equations::kHasCellState) {
      const int64_t units = problem_.units;
      S* c = static_cast<S*>(gradients_[d].initial_state[1]);
      if (c) StoreFirst(c + b * units + unit, Load(directions_[d].d_c + b * layout_.padded + unit), units - unit);
    }
  }

  // From the gradient of h after `step` to that of the product with the projection kernel, which is stored, and to the
  // part of the gradient of the previous h that passes through neither product, which is returned.
  V ProjectedGradient(int64_t d, int64_t step, int64_t b, int64_t unit, V dh) const {
    const int64_t units = call_.hidden_units, t = call_.Time(d, step);
    const UnitMask& zoneout = arguments_[d].zoneout_masks[0];
    const S* d_outputs = static_cast<const S*>(upstream_[d].outputs);
    if (d_outputs) dh += LoadUnits<T>(d_outputs + (b * problem_.time + t) * units, unit, units);
    if (!Visible(problem_, b, t)) return dh;
    V kept{};
    if (zoneout.data != nullptr) kept = LoadUnits<T>(MaskRow<S>(zoneout, problem_, b, t, units), unit, units);
    Store(projection_.Gradients(d, step, b) + unit, KeepFirst<T>((1 - kept) * dh, units - unit));
    return kept * dh;
  }

  // The second phase of a step with a projected state, from the gradients of the projections of the step before `step`
  // to its slot gradients. Before step 0 come the initial states.
  void DifferentiateProjection(Worker& worker, int64_t step) {
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock), panels = projection_.panels();
    worker.ForEach(direction_count_ * panels * blocks, [&](int64_t item) {
      const int64_t d = item / blocks / panels, panel = item / blocks % panels, block = item % blocks;
      T sums[kRowBlock * kPanelVectors * L];
      if (step > 0) projection_.Multiply(d, step - 1, panel, block, sums);
      for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t unit = (panel * kPanelVectors + v) * L;
        if (unit >= problem_.units) break;
        for (int64_t b = block * kRowBlock; b < BlockEnd(problem_, block); ++b) {
          const T* dh = sums + ((b - block * kRowBlock) * kPanelVectors + v) * L;
          if (step == 0) {
            StoreInitialCellStateGradients(d, b, unit);
          } else if constexpr (Equations::kNormalizesState) {
            Store(projection_.FullHiddenGradients(d, b) + unit, Load(dh));
          } else {
            DifferentiateCell(d, step - 1, b, unit, OptionsAt(d, b, unit), Load(dh));
          }
        }
      }
    }, step % 2 == 1);
  }

  // The options of a sequence. Each block of sequences has its own sums of the gradients of peepholes.
  CellOptions<T> OptionsAt(int64_t d, int64_t b, int64_t unit) const {
    const Direction& direction = directions_[d];
    T* d_peepholes = direction.d_peepholes;
    if (d_peepholes != nullptr) d_peepholes += b / kPeepholeRows * 3 * layout_.padded;
    return options_.At(unit, direction.peepholes, d_peepholes, layout_.padded);
  }

  // From the gradient of h after `step` to the slot gradients of that step.
  void DifferentiateCell(int64_t d, int64_t step, int64_t b, int64_t unit, const CellOptions<T>& options, V dh) const {
    const Direction& direction = directions_[d];
    const Arguments& arguments = arguments_[d];
    const int64_t units = problem_.units, t = call_.Time(d, step), at = b * layout_.padded + unit;
    S* d_slots = call_.SlotGradients(d, step, unit) + b * kGradientSlots * layout_.width;
    const S* d_outputs = static_cast<const S*>(upstream_[d].outputs);
    if (d_outputs && !Equations::kProjects) {
      dh += LoadUnits<T>(d_outputs + (b * problem_.time + t) * units, unit, units);
    }
    if (!Visible(problem_, b, t)) {  // the step handed its states on
      for (int slot = 0; slot < kGradientSlots; ++slot) StoreFirst(d_slots + slot * layout_.width, V{}, L);
      if constexpr (!Equations::kProjects) Store(direction.d_h + at, dh);
      return;
    }
    V d_state[2] = {dh, V{}}, d_zoneout[2] = {}, previous[2] = {};
    if constexpr (Equations::kHasCellState) d_state[1] = Load(direction.d_c + at);
    for (int s = kFirstState; s < kStates; ++s) {
      if (arguments.zoneout_masks[s].data == nullptr) continue;
      const V m = LoadUnits<T>(MaskRow<S>(arguments.zoneout_masks[s], problem_, b, t, units), unit, units);
      d_zoneout[s] = m * d_state[s];
      d_state[s] = (1 - m) * d_state[s];
    }
    if constexpr (Equations::kReadsPreviousHidden) previous[0] = call_.PreviousHidden(d, step, b, unit);
    if constexpr (Equations::kHasCellState) {
      previous[1] = PreviousCellState(d, step, b, unit);
    }
    const T* residuals = call_.Residuals(d, step, unit) + b * kResidualSlots * layout_.width;
    WithSlots(d_slots, {0, kGradientSlots}, [&](T* slots) {
      Equations::template Backward<T>(residuals, options, layout_.width, previous, d_state, slots);
    });
    if constexpr (!Equations::kProjects) Store(direction.d_h + at, d_zoneout[0] + d_state[0]);
    if constexpr (Equations::kHasCellState) Store(direction.d_c + at, d_zoneout[1] + d_state[1]);
  }

  // Calls function(slots) with the gradient slots of a vector of units as the equations write them: in place, or a copy
  // if they are kept with fewer bits. It writes those of the range `written`; other workers may read the others.
  template <class Function>
  void WithSlots(S* kept, const SlotRange& written, Function&& function) const {
    if constexpr (sizeof(S) == sizeof(T)) {
      function(kept);
    } else {
      static_assert(Equations::kUnitVectors == 1 || kGradientSlots == 1);  // so all lie within the copy
      T slots[kGradientSlots * kWidth];
      for (int64_t at = 0; at < kGradientSlots * layout_.width; at += layout_.width) {
        Store(slots + at, LoadFirst(kept + at, L));
      }
      function(slots);
      for (int slot = written.first; slot < written.first + written.count; ++slot) {
        StoreFirst(kept + slot * layout_.width, Load(slots + slot * layout_.width), L);
      }
    }
  }

  // c before a step.
  V PreviousCellState(int64_t d, int64_t step, int64_t b, int64_t unit) const {
    if (step == 0) return Load(directions_[d].initial_c + b * layout_.padded + unit);
    const int64_t slot = b * kResidualSlots + Equations::kCellStateSlot;
    return Load(call_.Residuals(d, step - 1, unit) + slot * layout_.width);
  }

  // The second phase of a step of a cell with layer normalization: the gradients of one product of the step before
  // `step`, and if it is the last product to be differentiated, of the input product.
  template <const Columns& kColumns, bool last>
  void DifferentiateNorms(Worker& worker, int64_t step) {
    if constexpr (Equations::kNormalizes) {
      if (step == 0) return;
      const int64_t blocks = NormBlocks(problem_);
      worker.ForEach(direction_count_ * blocks, [&](int64_t item) {
        const int64_t d = item / blocks, block = item % blocks;
        for (int64_t b = block * kNormRows; b < NormBlockEnd(problem_, block); ++b) {
          if constexpr (Equations::kNormalizesState) DifferentiateCellOfRow(d, step - 1, b);
          if (!Visible(problem_, b, call_.Time(d, step - 1))) continue;
          layer_norm_.template DifferentiateRecurrent<kColumns>(d, step - 1, b);
          if (last) layer_norm_.DifferentiateInputs(d, step - 1, b);
        }
      }, step % 2 == 1);
    }
  }

  // `DifferentiateCell` for all units of a sequence, after the gradient of c through its normalized value.
  __attribute__((noinline)) void DifferentiateCellOfRow(int64_t d, int64_t step, int64_t b) const {
    const Arguments& arguments = arguments_[d];
    const int64_t units = problem_.units, t = call_.Time(d, step);
    const T* d_h = directions_[d].d_h + b * layout_.padded;
    if constexpr (Equations::kProjects) d_h = projection_.FullHiddenGradients(d, b);
    const S* d_outputs = static_cast<const S*>(upstream_[d].outputs);
    const auto cell_state = [&](int64_t unit) {
      const T* residuals = call_.Residuals(d, step, unit) + b * kResidualSlots * layout_.width;
      return Equations::template CellState<T>(residuals, layout_.width, PreviousCellState(d, step, b, unit));
    };
    const auto d_hidden = [&](int64_t unit) {
      V dh = Load(d_h + unit);
      if (Equations::kProjects) return dh;
      if (d_outputs) dh += LoadUnits<T>(d_outputs + (b * problem_.time + t) * units, unit, units);
      if (arguments.zoneout_masks[0].data == nullptr) return dh;
      return (1 - LoadUnits<T>(MaskRow<S>(arguments.zoneout_masks[0], problem_, b, t, units), unit, units)) * dh;
    };
    if (Visible(problem_, b, t)) layer_norm_.DifferentiateState(d, step, b, cell_state, d_hidden);
    for (int64_t unit = 0; unit < units; unit += L) {
      DifferentiateCell(d, step, b, unit, OptionsAt(d, b, unit), Load(d_h + unit));
    }
  }

  // `sums` are the gradients of the operand of the candidate's product: h times a gate.
  __attribute__((noinline)) void DifferentiateGatedHidden(int64_t d, int64_t step, int64_t panel, int64_t block,
                                                          const T* sums) const {
    for (int64_t b = block * kRowBlock; b < BlockEnd(problem_, block); ++b, sums += kPanelVectors * L) {
      const bool visible = Visible(problem_, b, call_.Time(d, step));
      for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t unit = (panel * kPanelVectors + v) * L;
        if (unit >= problem_.units) break;
        V d_h = V{};
        if (visible) {
          const V h = call_.Drop(d, step, b, unit, call_.PreviousHidden(d, step, b, unit));
          const V d_gated_h = KeepFirst<T>(Load(sums + v * L), problem_.units - unit);
          S* d_slots = call_.SlotGradients(d, step, unit) + b * kGradientSlots * layout_.width;
          WithSlots(d_slots, Equations::kRecurrentSlots, [&](T* slots) {
            d_h = Equations::template BackwardGatedHidden<T>(
                call_.Residuals(d, step, unit) + b * kResidualSlots * layout_.width, options_, layout_.width, h,
                d_gated_h, slots);
          });
        }
        Store(directions_[d].d_gated_h + b * layout_.padded + unit, d_h);
      }
    }
  }

  const Call& call_;
  const Problem& problem_;
  const Arguments* arguments_;
  const Upstream* upstream_;
  const Gradients* gradients_;
  const int64_t direction_count_, unit_panels_;
  const CellOptions<T> options_;
  const Layout layout_;
  const int64_t hidden_padded_;
  LayerNormBackward<Equations, T> layer_norm_;
  ProjectionBackward<Equations, T> projection_;
  Direction* directions_ = nullptr;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_BACKWARD_STEPS_H_
