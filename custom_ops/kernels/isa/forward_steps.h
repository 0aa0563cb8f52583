// SPDX-License-Identifier: Apache-2.0
// The work of the forward pass: the input product of a chunk of steps, and one step. The sums of a step's
// recurrent product become gates and states while they are still in the first-level cache.
#ifndef KERAS_SEQ_KERNELS_ISA_FORWARD_STEPS_H_
#define KERAS_SEQ_KERNELS_ISA_FORWARD_STEPS_H_

#include "../team.h"
#include "forward_weights.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// `S` is the type of the caller's buffers, `Element` what a product multiplies. Attention is no parameter of the class,
// and the functions that take the time are not inlined, so that calls with and without attention share their code.
template <class Equations, class S, class Element>
class ForwardSteps {
  using Types = ProductTypes<Element>;
  using T = typename Types::Sum;
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kInputVectors = Equations::kInput.vectors();
  static constexpr int kStates = Equations::kHasCellState ? 2 : 1;
  static constexpr int kFirstState = Equations::kProjects ? 1 : 0;  // that the equations give

 public:
  ForwardSteps(const Problem& problem, const Arguments* arguments, const Results* results, int64_t direction_count)
      : problem_(problem),
        arguments_(arguments),
        results_(results),
        direction_count_(direction_count),
        options_(problem, arguments[0]),
        packing_(problem, arguments[0]),
        layout_(packing_.layout),
        hidden_units_(packing_.hidden_units),
        hidden_padded_(packing_.hidden_padded),
        chunk_(ChunkSteps(problem)),
        input_depth_(packing_.input_depth),
        operand_stride_(hidden_padded_ / Types::kDepth + 16),  // no power of two: rows fall into different sets
        input_panels_(packing_.input_panels),
        recurrent_panels_(packing_.recurrent_panels),
        projection_panels_(packing_.projection_panels),
        copies_inputs_(input_depth_ != problem.features) {}

  const WeightPacking<Equations, S, Element>& packing() const { return packing_; }
  int64_t chunk() const { return chunk_; }
  const T* Hidden(int64_t d) const { return directions_[d].state[0]; }

  // The first element behind the residuals of a direction; null if none are kept.
  T* ResidualsEnd(int64_t d) const {
    const Direction& direction = directions_[d];
    if (!direction.keeps_residuals) return nullptr;
    return direction.slots + problem_.time * layout_.StepSize(direction.slot_count);
  }

  bool Allocate(Workspace& workspace) {
    directions_ = workspace.Allocate<Direction>(direction_count_);
    if (!workspace.ok()) return false;
    for (int64_t d = 0; d < direction_count_; ++d) AllocateDirection(workspace, d);
    return workspace.ok();
  }

  void Export(PackedWeights* packed) const { directions_[0].Export(packed); }

  // Packs the weights, if the caller did not, and loads the initial states.
  void Prepare(Worker& worker) {
    const int64_t weights = arguments_[0].packed == nullptr ? packing_.Items() : 0;  // all directions are packed or none
    const int64_t items = weights + CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(direction_count_ * items, [&](int64_t item) {
      const int64_t d = item / items;
      item %= items;
      if (item < weights) {
        packing_.Pack(arguments_[d], item, directions_[d]);
      } else {
        LoadInitialState(d, item - weights);
      }
    });
  }

  // slots = x W + b for the steps [begin, end); or x W, which is normalized before b is added.
  void MultiplyInputs(Worker& worker, int64_t begin, int64_t end) {
    if (problem_.multiplied) return LoadProducts(worker, begin, end);
    if (copies_inputs_) CopyInputs(worker, begin, end);
    constexpr int64_t kRows = 2 * kRowBlock;
    const int64_t rows = (end - begin) * problem_.batch, blocks = CeilDiv(rows, kRows);
    worker.ForEach(blocks * direction_count_ * input_panels_, [&](int64_t item) {
      const int64_t panel = item % input_panels_, d = item / input_panels_ % direction_count_;
      const int64_t block = item / input_panels_ / direction_count_;
      const int64_t first = rows * block / blocks, count = rows * (block + 1) / blocks - first;
      const Direction& direction = directions_[d];
      const Element* left[kRows];
      T* sums[kRows];
      const int64_t unit = panel * Equations::kInput.unit_vectors * L;
      int64_t visible = 0, step = begin + first / problem_.batch, b = first % problem_.batch;
      for (int64_t row = 0; row < count; ++row) {
        if (Visible(problem_, b, TimeOf(problem_, arguments_[d], step))) {
          left[visible] = InputRow(d, begin, step, b);
          sums[visible++] = InputProducts(direction, step, unit) + b * direction.slot_count * layout_.width;
        }
        if (++b == problem_.batch) b = 0, ++step;
      }
      MultiplyRows<kInputVectors>(Rows<Element>{left, input_depth_ / Types::kDepth, 0, 1}, visible,
                                  direction.kernel + panel * PanelSize<Element>(input_depth_, kInputVectors), sums,
                                  VectorStride<Equations, T>(layout_), InputBias(direction, panel));
    });
  }

  // One step of the cell. Adds the products of what attention feeds it first.
  template <class Attention>
  void RunStep(Worker& worker, int64_t step, const Attention& attention) {
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock), items = direction_count_ * recurrent_panels_ * blocks;
    worker.ForEach(items, [&](int64_t item) {
      const int64_t d = item / blocks / recurrent_panels_, panel = item / blocks % recurrent_panels_;
      const int64_t block = item % blocks;
      const Direction& direction = directions_[d];
      T* slots = InputProducts(direction, step, panel * Equations::kInput.unit_vectors * L);
      attention.AddFedProducts(step, panel, block, slots, direction.slot_count * layout_.width);
      if constexpr (Equations::kNormalizes) {
        StoreProducts<Equations::kRecurrent>(d, step, panel, block, direction.operand[step % 2],
                                             direction.recurrent_kernel);
      } else {
        T sums[kRowBlock * Equations::kRecurrent.vectors() * L];
        MultiplyHidden<Equations::kRecurrent>(d, step, panel, block, direction.operand[step % 2],
                                              direction.recurrent_kernel, sums);
        Consume<Equations::kRecurrent>(d, step, panel, block * kRowBlock, BlockEnd(problem_, block), sums);
      }
    }, step % 2 == 1);
    if constexpr (Equations::kNormalizes) NormalizeProducts<Equations::kRecurrent>(worker, step);
    if constexpr (Equations::kHasCandidateProduct) {
      worker.ForEach(items, [&](int64_t item) {
        const int64_t d = item / blocks / recurrent_panels_, panel = item / blocks % recurrent_panels_;
        const int64_t block = item % blocks;
        const Direction& direction = directions_[d];
        if constexpr (Equations::kNormalizes) {
          StoreProducts<Equations::kCandidate>(d, step, panel, block, direction.gated_operand,
                                               direction.candidate_kernel);
        } else {
          T sums[kRowBlock * Equations::kCandidate.vectors() * L];
          MultiplyHidden<Equations::kCandidate>(d, step, panel, block, direction.gated_operand,
                                                direction.candidate_kernel, sums);
          Consume<Equations::kCandidate>(d, step, panel, block * kRowBlock, BlockEnd(problem_, block), sums);
        }
      }, step % 2 == 1);
      if constexpr (Equations::kNormalizes) NormalizeProducts<Equations::kCandidate>(worker, step);
    }
    if constexpr (Equations::kProjects) ProjectStates(worker, step);
  }

  void StoreFinalStates(Worker& worker) {
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(direction_count_ * blocks,
                   [&](int64_t item) { StoreFinalStatesOfBlock(item / blocks, item % blocks); });
  }

 private:
  // What each direction has in the workspace.
  struct Direction : ForwardWeights<Element> {
    Element* full_hidden;     // what the projection multiplies
    bool keeps_residuals;
    int slot_count;
    T* slots;                 // (steps, groups, batch, slots, width): of a chunk, or of all steps if residuals are kept
    T* state[2];              // (batch, padded)
    Element* operand[2];      // h times its recurrent dropout mask, for even and for odd steps
    Element* gated_operand;   // that times a gate, for the product of the candidate
    Element* copied_inputs;   // of a chunk
  };

  void AllocateDirection(Workspace& workspace, int64_t d) {
    Direction& direction = directions_[d] = Direction{};
    if (arguments_[d].packed == nullptr) {
      packing_.Allocate(workspace, &direction);
    } else {
      direction.Take(*arguments_[d].packed);
    }
    direction.keeps_residuals = results_[d].residuals != nullptr;
    direction.slot_count =
        direction.keeps_residuals || Equations::kNormalizes ? int{Equations::kResidualSlots} : Equations::kGates;
    direction.slots = direction.keeps_residuals
                          ? static_cast<T*>(results_[d].residuals)
                          : workspace.Allocate<T>(chunk_ * layout_.StepSize(direction.slot_count));
    for (int s = 0; s < kStates; ++s) {
      direction.state[s] = workspace.AllocateZeros<T>(problem_.batch * StatePadded(s));
    }
    for (Element*& operand : direction.operand) {
      operand = workspace.AllocateZeros<Element>(problem_.batch * operand_stride_);
    }
    if constexpr (Equations::kHasCandidateProduct) {
      direction.gated_operand = workspace.AllocateZeros<Element>(problem_.batch * operand_stride_);
    }
    if constexpr (Equations::kProjects) {
      direction.full_hidden = workspace.AllocateZeros<Element>(problem_.batch * layout_.padded);
    }
    if (copies_inputs_) {
      direction.copied_inputs = workspace.Allocate<Element>(chunk_ * problem_.batch * input_depth_ / Types::kDepth);
    }
  }

  // Loads the products that the caller gave, and adds the bias. One row at a time: a row of products is read once.
  __attribute__((noinline)) void LoadProducts(Worker& worker, int64_t begin, int64_t end) {
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach((end - begin) * direction_count_ * blocks, [&](int64_t item) {
      const int64_t block = item % blocks, d = item / blocks % direction_count_;
      const int64_t step = begin + item / blocks / direction_count_, t = TimeOf(problem_, arguments_[d], step);
      for (int64_t b = block * kRowBlock; b < BlockEnd(problem_, block); ++b) {
        if (Visible(problem_, b, t)) LoadProductsOfRow(d, step, b, t);
      }
    });
  }

  void LoadProductsOfRow(int64_t d, int64_t step, int64_t b, int64_t t) {
    const Direction& direction = directions_[d];
    const int64_t units = problem_.units, stride = VectorStride<Equations, T>(layout_);
    const S* products =
        static_cast<const S*>(arguments_[d].inputs) + (b * problem_.time + t) * Equations::kGates * units;
    const T* bias = direction.bias;
    for (int64_t panel = 0; panel < input_panels_; ++panel) {
      const int64_t first = panel * Equations::kInput.unit_vectors * L;
      T* slots = InputProducts(direction, step, first) + b * direction.slot_count * layout_.width;
      for (int v = 0; v < kInputVectors; ++v, bias += L) {
        const int64_t unit = first + v / Equations::kInput.gates * L;
        const int64_t gate = Equations::kInput.gate[v % Equations::kInput.gates];
        V sum = Equations::kNormalizes ? V{} : Load(bias);
        if (unit < units) sum += LoadUnits<T>(products + gate * units, unit, units);
        Store(slots + v * stride, sum);
      }
    }
  }

  // The slots of sequence 0.
  T* Slots(const Direction& direction, int64_t step, int64_t unit) const {
    return direction.slots +
           layout_.Offset(direction.slot_count, direction.keeps_residuals ? step : step % chunk_, unit);
  }

  // The slots of sequence 0 where the products with the input kernel are stored.
  T* InputProducts(const Direction& direction, int64_t step, int64_t unit) const {
    return Slots(direction, step, unit) + Equations::kInputProducts * layout_.width;
  }

  // What the products of a panel with the input kernel start from.
  static const T* InputBias(const Direction& direction, int64_t panel) {
    static const T kZeros[kInputVectors * L] = {};
    return Equations::kNormalizes ? kZeros : direction.bias + panel * kInputVectors * L;
  }

  void LoadInitialState(int64_t d, int64_t block) {
    Direction& direction = directions_[d];
    for (int s = 0; s < kStates; ++s) {
      const S* initial = static_cast<const S*>(arguments_[d].initial_state[s]);
      if (initial == nullptr) continue;
      const int64_t units = StateUnits(s);
      for (int64_t b = block * kRowBlock; b < BlockEnd(problem_, block); ++b) {
        for (int64_t unit = 0; unit < units; unit += L) {
          const V value = LoadUnits<T>(initial + b * units, unit, units);
          Store(direction.state[s] + b * StatePadded(s) + unit, value);
          if (s == 0) StoreOperand(d, 0, b, unit, value);
        }
      }
    }
  }

  // Stores h as `step` multiplies it: times its recurrent dropout mask.
  void StoreOperand(int64_t d, int64_t step, int64_t b, int64_t unit, V h) {
    const UnitMask& mask = arguments_[d].recurrent_dropout_mask;
    if (mask.data != nullptr && step < problem_.time) {
      const S* row = MaskRow<S>(mask, problem_, b, TimeOf(problem_, arguments_[d], step), hidden_units_);
      h *= LoadUnits<T>(row, unit, hidden_units_);
    }
    S* row = reinterpret_cast<S*>(directions_[d].operand[step % 2] + b * operand_stride_);
    StoreFirst(row + unit, h, L);
  }

  void CopyInputs(Worker& worker, int64_t begin, int64_t end) {
    worker.ForEach(direction_count_ * (end - begin), [&](int64_t item) {
      const int64_t d = item % direction_count_, step = begin + item / direction_count_;
      const int64_t t = TimeOf(problem_, arguments_[d], step), features = problem_.features;
      S* copied = reinterpret_cast<S*>(directions_[d].copied_inputs);
      for (int64_t b = 0; b < problem_.batch; ++b) {
        const S* from = static_cast<const S*>(arguments_[d].inputs) + (b * problem_.time + t) * features;
        S* to = copied + ((step - begin) * problem_.batch + b) * input_depth_;
        memcpy(to, from, features * sizeof(S));
        for (int64_t i = features; i < input_depth_; ++i) to[i] = S{};
      }
    });
  }

  const Element* InputRow(int64_t d, int64_t begin, int64_t step, int64_t b) const {
    if (copies_inputs_) {
      return directions_[d].copied_inputs + ((step - begin) * problem_.batch + b) * (input_depth_ / Types::kDepth);
    }
    const int64_t t = TimeOf(problem_, arguments_[d], step);
    const S* row = static_cast<const S*>(arguments_[d].inputs) + (b * problem_.time + t) * problem_.features;
    return reinterpret_cast<const Element*>(row);
  }

  // sums (rows of the block, vectors) = x W + b of the slots, plus `operand` times a panel of `kernel`. The rows of
  // masked sequences are left as they are.
  template <const Columns& kColumns>
  __attribute__((noinline)) void MultiplyHidden(int64_t d, int64_t step, int64_t panel, int64_t block,
                                                const Element* operand, const Element* kernel, T* sums) {
    constexpr int NV = kColumns.vectors();
    const Direction& direction = directions_[d];
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_[d], step));
    const Element* left[kRowBlock];
    T* sum_rows[kRowBlock];
    const T* slot_rows[kRowBlock];
    const T* slots = Slots(direction, step, panel * kColumns.unit_vectors * L);
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = operand + rows.sequence[i] * operand_stride_;
      sum_rows[i] = sums + (rows.sequence[i] - block * kRowBlock) * NV * L;
      slot_rows[i] = slots + rows.sequence[i] * direction.slot_count * layout_.width;
    }
    const bool multiplies = step > 0 || arguments_[d].initial_state[0] != nullptr;  // else h is zero
    Start<T> start(sum_rows, L);
    if constexpr (Equations::kHasRecurrentBias) {
      LoadInputProducts<kColumns>(rows.count, slot_rows, direction.recurrent_bias + panel * L, sum_rows);
    } else {  // the product reads x W + b where they lie
      for (int64_t i = 0; i < rows.count; ++i) slot_rows[i] += kColumns.gate[0] * layout_.width;
      start = {slot_rows, VectorStride<Equations, T>(layout_)};
    }
    const Rows<Element> operands{left, multiplies ? hidden_padded_ / Types::kDepth : 0, 0, 1};
    MultiplyRows<NV>(operands, rows.count, kernel + panel * PanelSize<Element>(hidden_padded_, NV), sum_rows, L, start);
  }

  // sums = x W + b of each gate, or the recurrent bias of a gate that adds x W + b itself.
  template <const Columns& kColumns>
  void LoadInputProducts(int64_t rows, const T* const* slots, const T* recurrent_bias, T* const* sums) const {
    for (int64_t i = 0; i < rows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kColumns.gates; ++v) {
        const bool candidate = kColumns.gate[v] == Equations::kCandidateGate;
        Store(sums[i] + v * L, Load(candidate ? recurrent_bias : slots[i] + kColumns.gate[v] * layout_.width));
      }
    }
  }

  // Goes on with the sums of a product, of the sequences [first, end).
  template <const Columns& kColumns>
  void Consume(int64_t d, int64_t step, int64_t panel, int64_t first, int64_t end, const T* sums) {
    if constexpr (Equations::kHasCandidateProduct && kAreSame<kColumns, Equations::kRecurrent>) {
      GateHidden(d, step, panel, first, end, sums);
    } else {
      UpdateStates<kColumns>(d, step, panel, first, end, sums);
    }
  }

  // The products of a panel as they are, in their slots.
  template <const Columns& kColumns>
  __attribute__((noinline)) void StoreProducts(int64_t d, int64_t step, int64_t panel, int64_t block,
                                               const Element* operand, const Element* kernel);

  // Normalizes the products of a step, by rows, and goes on with them as with sums that are not normalized.
  template <const Columns& kColumns>
  void NormalizeProducts(Worker& worker, int64_t step);

  template <const Columns& kColumns>
  __attribute__((noinline)) void NormalizeBlock(int64_t d, int64_t step, int64_t first, int64_t end);

  // Computes, for the sequences [first, end), the gates of the first product, and h times one of them: the operand of
  // the second product.
  __attribute__((noinline)) void GateHidden(int64_t d, int64_t step, int64_t panel, int64_t first, int64_t end,
                                            const T* sums) {
    const Direction& direction = directions_[d];
    constexpr int kVectors = Equations::kRecurrent.vectors();
    const int64_t unit = panel * L;
    for (int64_t b = first; b < end; ++b, sums += kVectors * L) {
      if (!Visible(problem_, b, TimeOf(problem_, arguments_[d], step))) continue;
      T* slots = Slots(direction, step, unit) + b * direction.slot_count * layout_.width;
      const S* h = reinterpret_cast<const S*>(direction.operand[step % 2] + b * operand_stride_);
      const V gated =
          Equations::template ComputeGates<T>(sums, options_, layout_.width, slots) * LoadFirst(h + unit, L);
      StoreFirst(reinterpret_cast<S*>(direction.gated_operand + b * operand_stride_) + unit,
                 KeepFirst<T>(gated, problem_.units - unit), L);
    }
  }

  // Computes states and outputs of the sequences [first, end) from `sums`, whose rows are as wide as a panel of
  // `kColumns`.
  template <const Columns& kColumns>
  __attribute__((noinline)) void UpdateStates(int64_t d, int64_t step, int64_t panel, int64_t first, int64_t end,
                                              const T* sums) {
    const Direction& direction = directions_[d];
    const Arguments& arguments = arguments_[d];
    const int64_t t = TimeOf(problem_, arguments, step), units = problem_.units;
    const bool keep = direction.keeps_residuals;
    for (int j = 0; j < kColumns.unit_vectors; ++j) {
      const int64_t unit = (panel * kColumns.unit_vectors + j) * L;
      if (unit >= units) break;
      T* slots = Slots(direction, step, unit) + first * direction.slot_count * layout_.width;
      const T* products = sums + j * L;
      const CellOptions<T> options = options_.At(unit, direction.peephole_kernel, nullptr, layout_.padded);
      for (int64_t b = first; b < end; ++b) {
        V state[2] = {};
        T* stored[2];
        for (int s = kFirstState; s < kStates; ++s) {
          stored[s] = direction.state[s] + b * layout_.padded + unit;
          state[s] = Load(stored[s]);
        }
        if (Visible(problem_, b, t)) {
          Equations::template Forward<T>(products, options, keep, layout_.width, slots, state);
          for (int s = kFirstState; s < kStates; ++s) {
            if (arguments.zoneout_masks[s].data != nullptr) {
              const V m = LoadUnits<T>(MaskRow<S>(arguments.zoneout_masks[s], problem_, b, t, units), unit, units);
              state[s] = m * Load(stored[s]) + (1 - m) * state[s];
            }
            if (s == 0 && sizeof(S) < sizeof(T)) state[0] = Rounded(state[0]);
            // Padding must be 0: infinity times the zeros of a packed kernel is NaN, which later steps would spread.
            state[s] = KeepFirst<T>(state[s], units - unit);
            Store(stored[s], state[s]);
          }
          if constexpr (Equations::kProjects) StoreFullHidden(direction, b, unit, state[0], slots);
        } else if (keep) {
          for (int slot = 0; slot < Equations::kResidualSlots; ++slot) Store(slots + slot * layout_.width, V{});
        }
        if constexpr (Equations::kHasCellState) {
          if (keep) Store(slots + Equations::kCellStateSlot * layout_.width, state[1]);
        }
        if (keep && unit + L >= units) ClearPadding(unit, slots);
        if constexpr (!Equations::kProjects) StoreHidden(d, step, b, unit, state[0]);
        slots += direction.slot_count * layout_.width;
        products += kColumns.vectors() * L;
      }
    }
  }

  // h after a step: where the next one reads it, and in the outputs.
  void StoreHidden(int64_t d, int64_t step, int64_t b, int64_t unit, V h) {
    StoreOperand(d, step + 1, b, unit, h);
    S* outputs = static_cast<S*>(results_[d].outputs);
    if (outputs == nullptr) return;
    const int64_t row = b * problem_.time + TimeOf(problem_, arguments_[d], step);
    StoreFirst(outputs + row * hidden_units_ + unit, h, hidden_units_ - unit);
  }

  // What the projection multiplies.
  void StoreFullHidden(const Direction& direction, int64_t b, int64_t unit, V h, T* slots) {
    h = KeepFirst<T>(h, problem_.units - unit);
    Store(direction.full_hidden + b * layout_.padded + unit, h);
    if (direction.keeps_residuals) Store(slots + Equations::kFullHiddenSlot * layout_.width, h);
  }

  // The last phase of a step with a projected state: h.
  void ProjectStates(Worker& worker, int64_t step);

  __attribute__((noinline)) void ProjectPanel(int64_t d, int64_t step, int64_t panel, int64_t block);

  int64_t StateUnits(int state) const { return state == 0 ? hidden_units_ : problem_.units; }
  int64_t StatePadded(int state) const { return state == 0 ? hidden_padded_ : layout_.padded; }

  // Zeros the padding of a row of residuals. The backward pass reads neither it nor masked steps, but a framework sees
  // all residuals (`tf.debugging.enable_check_numerics`), so none may be uninitialised. Without masks this costs a few
  // stores a row where `units` is not a multiple of the group's width, else nothing; a masked row costs its stores.
  void ClearPadding(int64_t unit, T* slots) const {
    if (layout_.padded == problem_.units) return;
    for (int slot = 0; slot < Equations::kResidualSlots; ++slot, slots += layout_.width) {
      Store(slots, KeepFirst<T>(Load(slots), problem_.units - unit));
      for (int64_t lane = L; lane < layout_.padded - unit; lane += L) Store(slots + lane, V{});
    }
  }

  // h as the outputs hold it. Steps read the same h.
  static V Rounded(V h) {
    S lanes[L];
    StoreFirst(lanes, h, L);
    return LoadFirst(lanes, L);
  }

  void StoreFinalStatesOfBlock(int64_t d, int64_t block) {
    for (int s = 0; s < kStates; ++s) {
      S* final_state = static_cast<S*>(results_[d].final_state[s]);
      if (final_state == nullptr) continue;
      const int64_t units = StateUnits(s);
      for (int64_t b = block * kRowBlock; b < BlockEnd(problem_, block); ++b) {
        for (int64_t unit = 0; unit < units; unit += L) {
          StoreFirst(final_state + b * units + unit, Load(directions_[d].state[s] + b * StatePadded(s) + unit),
                     units - unit);
        }
      }
    }
  }

  const Problem& problem_;
  const Arguments* arguments_;
  const Results* results_;
  const int64_t direction_count_;
  const CellOptions<T> options_;
  const WeightPacking<Equations, S, Element> packing_;
  const Layout layout_;
  const int64_t hidden_units_, hidden_padded_;  // of h
  const int64_t chunk_;                         // steps
  const int64_t input_depth_, operand_stride_, input_panels_, recurrent_panels_, projection_panels_;
  const bool copies_inputs_;  // into whole elements
  Direction* directions_ = nullptr;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#include "forward_phases.h"

#endif  // KERAS_SEQ_KERNELS_ISA_FORWARD_STEPS_H_
