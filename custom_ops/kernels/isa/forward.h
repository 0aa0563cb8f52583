// SPDX-License-Identifier: Apache-2.0
// The forward pass: for a chunk of steps at a time one product with the inputs, then step by step the recurrent one,
// whose sums become gates and states while they are still in the first-level cache. A step that attends first adds the
// product with its contexts to that with the inputs.
#ifndef KERAS_SEQ_KERNELS_ISA_FORWARD_H_
#define KERAS_SEQ_KERNELS_ISA_FORWARD_H_

#include "attention.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

constexpr int64_t kChunkRows = 512;  // steps times sequences that are projected at once

inline int64_t ChunkSteps(const Problem& problem) {
  return problem.batch == 0 ? 1 : Smaller(CeilDiv(kChunkRows, problem.batch), problem.time < 1 ? 1 : problem.time);
}

// The row of sequence b at time t, where the mask has one.
template <class S>
inline const S* MaskRow(const UnitMask& mask, const Problem& problem, int64_t b, int64_t t) {
  const int64_t row = mask.per_step ? b * problem.time + t : b;
  return static_cast<const S*>(mask.data) + row * problem.units;
}

// `S` is what the caller's buffers hold, `Element` what is multiplied.
template <class CellType, class S, class Element>
class ForwardPass {
  using Types = ProductTypes<Element>;
  using T = typename Types::Sum;
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kVectors = CellType::kRecurrent.gates * CellType::kRecurrent.unit_vectors;
  static constexpr int kInputVectors = CellType::kInput.gates * CellType::kInput.unit_vectors;
  static constexpr bool kStaged = sizeof(S) != sizeof(Element);  // inputs are copied into whole elements
  static constexpr bool kAttends = !kStaged;  // there is no attention in bfloat16

 public:
  ForwardPass(const Problem& problem, const Arguments* arguments, const Results* results, int64_t directions)
      : problem_(problem),
        arguments_(arguments),
        results_(results),
        directions_(directions),
        layout_(problem.batch, problem.units, CellType::kUnitVectors),
        chunk_(ChunkSteps(problem)),
        depth_(CeilDiv(problem.features, Types::kDepth) * Types::kDepth),
        operand_stride_(layout_.padded / Types::kDepth + 16),  // not a power of two: rows fall into different sets
        input_panels_(PanelCount(CellType::kInput, problem.units, L)),
        panels_(PanelCount(CellType::kRecurrent, problem.units, L)),
        attention_(problem, arguments[0], results[0]) {}

  bool Allocate() {
    lanes_ = workspace_.Allocate<Direction>(directions_);
    if (!workspace_.ok()) return false;
    for (int64_t d = 0; d < directions_; ++d) {
      Direction& lane = lanes_[d] = Direction{};
      const bool keep = results_[d].residuals != nullptr;
      lane.kernel = workspace_.Allocate<Element>(input_panels_ * PanelSize<Element>(depth_, kInputVectors));
      lane.recurrent_kernel = workspace_.Allocate<Element>(panels_ * PanelSize<Element>(layout_.padded, kVectors));
      lane.bias = workspace_.AllocateZeros<T>(input_panels_ * kInputVectors * L);
      lane.recurrent_bias = workspace_.AllocateZeros<T>(layout_.padded);
      lane.slots = keep ? CellType::kKeptSlots : CellType::kSlots;
      lane.gates = keep ? static_cast<T*>(results_[d].residuals)
                        : workspace_.Allocate<T>(chunk_ * layout_.StepSize(lane.slots));
      for (int s = 0; s < CellType::kStates; ++s) {
        lane.state[s] = workspace_.AllocateZeros<T>(problem_.batch * layout_.padded);
      }
      for (Element*& operand : lane.operand) {
        operand = workspace_.AllocateZeros<Element>(problem_.batch * operand_stride_);
      }
      if (CellType::kProducts == 2) {
        lane.candidate_kernel = workspace_.Allocate<Element>(panels_ * PanelSize<Element>(layout_.padded, 1));
        lane.reset_operand = workspace_.AllocateZeros<Element>(problem_.batch * operand_stride_);
      }
      if (kStaged) lane.staged = workspace_.Allocate<Element>(chunk_ * problem_.batch * depth_ / Types::kDepth);
    }
    if (problem_.attends) AllocateAttention();
    return workspace_.ok();
  }

  // The program of every worker.
  void Run(Worker& worker) {
    Prepare(worker);
    for (int64_t begin = 0; begin < problem_.time; begin += chunk_) {
      const int64_t end = Smaller(begin + chunk_, problem_.time);
      if (kStaged) Stage(worker, begin, end);
      Project(worker, begin, end);
      for (int64_t step = begin; step < end; ++step) {
        if (problem_.attends) attention_.Step(worker, step, lanes_[0].state[0]);
        Step(worker, step);
      }
    }
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(directions_ * blocks, [&](int64_t item) { Finish(item / blocks, item % blocks); });
  }

 private:
  struct Direction {
    Element *kernel, *recurrent_kernel, *candidate_kernel;
    T *bias, *recurrent_bias;
    T* gates;  // (steps, groups, batch, slots, width): of a chunk, or of all steps where they are kept
    int slots;
    T* state[2];          // (batch, padded)
    Element* operand[2];  // h times its dropout mask, of the even and of the odd steps
    Element* reset_operand;
    Element* staged;
    Element* context_kernel;  // the rows of the kernel that meet the contexts
  };

  void AllocateAttention() {
    Direction& lane = lanes_[0];
    T* kept = Keeps(lane) ? lane.gates + problem_.time * layout_.StepSize(lane.slots) : nullptr;
    attention_.Allocate(workspace_, layout_.padded, kept);
    const int64_t panel_size = PanelSize<Element>(problem_.memory_units, kInputVectors);
    lane.context_kernel = workspace_.Allocate<Element>(input_panels_ * panel_size);
  }

  T* Gates(const Direction& lane, int64_t step, int64_t unit) const {
    return lane.gates + layout_.Offset(lane.slots, Keeps(lane) ? step : step % chunk_, unit);
  }

  bool Keeps(const Direction& lane) const { return results_[&lane - lanes_].residuals != nullptr; }

  void Prepare(Worker& worker) {
    const int64_t input_blocks = CeilDiv(depth_, kPackBlock), recurrent_blocks = CeilDiv(layout_.padded, kPackBlock);
    const int64_t row_blocks = CeilDiv(problem_.batch, kRowBlock);
    const int64_t items = input_blocks + recurrent_blocks + row_blocks + 1;
    if (problem_.attends) {
      worker.ForEach(attention_.PackItems(), [&](int64_t item) { attention_.Pack(item); });
      worker.ForEach(CeilDiv(problem_.memory_units, kPackBlock),
                     [&](int64_t item) { PackContextKernel(item * kPackBlock); });
    }
    worker.ForEach(directions_ * items, [&](int64_t item) {
      const int64_t d = item / items;
      item %= items;
      if (item < input_blocks) {
        PackInputKernel(d, item * kPackBlock);
      } else if ((item -= input_blocks) < recurrent_blocks) {
        PackRecurrentKernel(d, item * kPackBlock);
      } else if ((item -= recurrent_blocks) < row_blocks) {
        LoadInitialState(d, item);
      } else {
        PackBias(d);
      }
    });
  }

  void PackInputKernel(int64_t d, int64_t first) {
    PackRows<CellType::kInput>(static_cast<const S*>(arguments_[d].kernel), problem_.features, depth_, problem_.units,
                               CellType::kGates, first, Smaller(first + kPackBlock, depth_), lanes_[d].kernel);
  }

  void PackContextKernel(int64_t first) {
    if constexpr (kAttends) {
      const int64_t units = problem_.memory_units, offset = problem_.features * CellType::kGates * problem_.units;
      PackRows<CellType::kInput>(static_cast<const S*>(arguments_[0].kernel) + offset, units, units, problem_.units,
                                 CellType::kGates, first, Smaller(first + kPackBlock, units), lanes_[0].context_kernel);
    }
  }

  void PackRecurrentKernel(int64_t d, int64_t first) {
    const S* matrix = static_cast<const S*>(arguments_[d].recurrent_kernel);
    const int64_t end = Smaller(first + kPackBlock, layout_.padded);
    PackRows<CellType::kRecurrent>(matrix, problem_.units, layout_.padded, problem_.units, CellType::kGates, first, end,
                                   lanes_[d].recurrent_kernel);
    if constexpr (CellType::kProducts == 2) {
      PackRows<CellType::kCandidate>(matrix, problem_.units, layout_.padded, problem_.units, CellType::kGates, first,
                                     end, lanes_[d].candidate_kernel);
    }
  }

  // The recurrent bias of a GRU's z and r joins that of the inputs; that of g stays inside the reset.
  void PackBias(int64_t d) {
    const S* bias = static_cast<const S*>(arguments_[d].bias);
    if (bias == nullptr) return;
    const int64_t units = problem_.units;
    constexpr bool kTwo = CellType::kGates == 3 && CellType::kProducts == 1;
    const S* recurrent = bias + CellType::kGates * units;
    for (int64_t panel = 0; panel < input_panels_; ++panel) {
      for (int v = 0; v < kInputVectors; ++v) {
        const int gate = CellType::kInput.gate[v % CellType::kInput.gates];
        const int64_t unit = (panel * CellType::kInput.unit_vectors + v / CellType::kInput.gates) * L;
        if (unit >= units) continue;
        V sum = LoadUnits<T>(bias + gate * units, unit, units);
        if (kTwo && gate < 2) sum += LoadUnits<T>(recurrent + gate * units, unit, units);
        if (kTwo && gate == 2) Store(lanes_[d].recurrent_bias + unit, LoadUnits<T>(recurrent + 2 * units, unit, units));
        Store(lanes_[d].bias + (panel * kInputVectors + v) * L, sum);
      }
    }
  }

  void LoadInitialState(int64_t d, int64_t block) {
    Direction& lane = lanes_[d];
    for (int s = 0; s < CellType::kStates; ++s) {
      const S* initial = static_cast<const S*>(arguments_[d].initial_state[s]);
      if (initial == nullptr) continue;
      for (int64_t b = block * kRowBlock; b < Smaller((block + 1) * kRowBlock, problem_.batch); ++b) {
        for (int64_t unit = 0; unit < problem_.units; unit += L) {
          const V value = LoadUnits<T>(initial + b * problem_.units, unit, problem_.units);
          Store(lane.state[s] + b * layout_.padded + unit, value);
          if (s == 0) StoreOperand(d, 0, b, unit, value);
        }
      }
    }
  }

  // h as the next step will multiply it.
  void StoreOperand(int64_t d, int64_t step, int64_t b, int64_t unit, V h) {
    const UnitMask& dropout = arguments_[d].recurrent_dropout_mask;
    if (dropout.data != nullptr && step < problem_.time) {
      h *= LoadUnits<T>(MaskRow<S>(dropout, problem_, b, TimeOf(problem_, arguments_[d], step)), unit, problem_.units);
    }
    S* row = reinterpret_cast<S*>(lanes_[d].operand[step % 2] + b * operand_stride_);
    StoreFirst(row + unit, h, L);
  }

  void Stage(Worker& worker, int64_t begin, int64_t end) {
    worker.ForEach(directions_ * (end - begin), [&](int64_t item) {
      const int64_t d = item % directions_, step = begin + item / directions_;
      const int64_t t = TimeOf(problem_, arguments_[d], step), features = problem_.features;
      for (int64_t b = 0; b < problem_.batch; ++b) {
        const S* from = static_cast<const S*>(arguments_[d].inputs) + (b * problem_.time + t) * features;
        S* to = reinterpret_cast<S*>(lanes_[d].staged) + ((step - begin) * problem_.batch + b) * depth_;
        memcpy(to, from, features * sizeof(S));
        for (int64_t i = features; i < depth_; ++i) to[i] = S{};
      }
    });
  }

  // slots = x W + b for the steps [begin, end).
  void Project(Worker& worker, int64_t begin, int64_t end) {
    constexpr int64_t kRows = 2 * kRowBlock;
    const int64_t rows = (end - begin) * problem_.batch, blocks = CeilDiv(rows, kRows);
    worker.ForEach(blocks * directions_ * input_panels_, [&](int64_t item) {
      const int64_t panel = item % input_panels_, d = item / input_panels_ % directions_;
      const int64_t block = item / input_panels_ / directions_;
      const int64_t first = rows * block / blocks, count = rows * (block + 1) / blocks - first;
      const Element* left[kRows];
      T* sums[kRows];
      const int64_t unit = panel * CellType::kInput.unit_vectors * L;
      int64_t visible = 0;
      for (int64_t row = first; row < first + count; ++row) {
        const int64_t step = begin + row / problem_.batch, b = row % problem_.batch;
        if (!Visible(problem_, b, TimeOf(problem_, arguments_[d], step))) continue;
        left[visible] = InputRow(d, begin, step, b);
        sums[visible++] = Gates(lanes_[d], step, unit) + b * lanes_[d].slots * layout_.width;
      }
      const int64_t stride = CellType::kUnitVectors > 1 ? L : layout_.width;
      MultiplyRows<kInputVectors>(Rows<Element>{left, depth_ / Types::kDepth, 0, 1}, visible,
                                  lanes_[d].kernel + panel * PanelSize<Element>(depth_, kInputVectors), sums, stride,
                                  lanes_[d].bias + panel * kInputVectors * L);
    });
  }

  const Element* InputRow(int64_t d, int64_t begin, int64_t step, int64_t b) const {
    if (kStaged) return lanes_[d].staged + ((step - begin) * problem_.batch + b) * (depth_ / Types::kDepth);
    const int64_t t = TimeOf(problem_, arguments_[d], step);
    const S* row = static_cast<const S*>(arguments_[d].inputs) + (b * problem_.time + t) * problem_.features;
    return reinterpret_cast<const Element*>(row);
  }

  void Step(Worker& worker, int64_t step) {
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock), items = directions_ * panels_ * blocks;
    worker.ForEach(items, [&](int64_t item) {
      const int64_t d = item / blocks / panels_, panel = item / blocks % panels_, block = item % blocks;
      if (problem_.attends) AddContexts(step, panel, block);
      T sums[kRowBlock * kVectors * L];
      Product<kVectors>(d, step, panel, block, lanes_[d].operand[step % 2], lanes_[d].recurrent_kernel, sums);
      if constexpr (CellType::kProducts == 1) {
        Update<kVectors>(d, step, panel, block, sums);
      } else {
        Reset(d, step, panel, block, sums);
      }
    }, step % 2 == 1);
    if constexpr (CellType::kProducts == 2) {
      worker.ForEach(items, [&](int64_t item) {
        const int64_t d = item / blocks / panels_, panel = item / blocks % panels_, block = item % blocks;
        T sums[kRowBlock * L];
        Product<1>(d, step, panel, block, lanes_[d].reset_operand, lanes_[d].candidate_kernel, sums);
        Update<1>(d, step, panel, block, sums);
      }, step % 2 == 1);
    }
  }

  int64_t BlockEnd(int64_t block) const { return Smaller((block + 1) * kRowBlock, problem_.batch); }

  // slots += context W_c for the units of a panel.
  void AddContexts(int64_t step, int64_t panel, int64_t block) {
    if constexpr (kAttends) {
      const Direction& lane = lanes_[0];
      const T* left[kRowBlock];
      T* sums[kRowBlock];
      const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_[0], step));
      const int64_t depth = problem_.memory_units;
      T* slots = Gates(lane, step, panel * CellType::kInput.unit_vectors * L);
      for (int64_t i = 0; i < rows.count; ++i) {
        left[i] = attention_.Context(step, rows.sequence[i]);
        sums[i] = slots + rows.sequence[i] * lane.slots * layout_.width;
      }
      MultiplyRows<kInputVectors>(Rows<T>{left, depth, 0, 1}, rows.count,
                                  lane.context_kernel + panel * PanelSize<T>(depth, kInputVectors), sums,
                                  CellType::kUnitVectors > 1 ? L : layout_.width, nullptr);
    }
  }

  // sums (rows of the block, NV vectors) = the slots' x W + b, plus operand times a panel of the kernel. Those of
  // masked sequences are left as they are.
  template <int NV>
  void Product(int64_t d, int64_t step, int64_t panel, int64_t block, const Element* operand, const Element* kernel,
               T* sums) {
    const Direction& lane = lanes_[d];
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_[d], step));
    const Element* left[kRowBlock];
    T* sum_rows[kRowBlock];
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = operand + rows.sequence[i] * operand_stride_;
      sum_rows[i] = sums + (rows.sequence[i] - block * kRowBlock) * NV * L;
    }
    for (int j = 0; j < CellType::kUnitVectors; ++j) {
      const int64_t unit = (panel * CellType::kUnitVectors + j) * L;
      for (int64_t i = 0; i < rows.count; ++i) {
        const T* slots = Gates(lane, step, unit) + rows.sequence[i] * lane.slots * layout_.width;
        T* start = sum_rows[i] + j * L;
        if constexpr (CellType::kProducts == 2 && NV == 1) {
          Store(start, Load(slots + 2 * layout_.width));
        } else {
          CellType::template Start<T>(slots, layout_.width, lane.recurrent_bias + unit, start);
        }
      }
    }
    if (step == 0 && arguments_[d].initial_state[0] == nullptr) return;  // h is zero
    MultiplyRows<NV>(Rows<Element>{left, layout_.padded / Types::kDepth, 0, 1}, rows.count,
                     kernel + panel * PanelSize<Element>(layout_.padded, NV), sum_rows, L, nullptr);
  }

  void Reset(int64_t d, int64_t step, int64_t panel, int64_t block, const T* sums) {
    const Direction& lane = lanes_[d];
    const int64_t unit = panel * L;
    for (int64_t b = block * kRowBlock; b < BlockEnd(block); ++b, sums += kVectors * L) {
      if (!Visible(problem_, b, TimeOf(problem_, arguments_[d], step))) continue;
      T* slots = Gates(lane, step, unit) + b * lane.slots * layout_.width;
      const S* h = reinterpret_cast<const S*>(lane.operand[step % 2] + b * operand_stride_);
      if constexpr (CellType::kProducts == 2) {
        const V reset = CellType::template Gates<T>(sums, layout_.width, slots) * LoadFirst(h + unit, L);
        StoreFirst(reinterpret_cast<S*>(lane.reset_operand + b * operand_stride_) + unit,
                   KeepFirst<T>(reset, problem_.units - unit), L);
      }
    }
  }

  // From sums to states and outputs.
  template <int NV>
  void Update(int64_t d, int64_t step, int64_t panel, int64_t block, const T* sums) {
    const Direction& lane = lanes_[d];
    const Arguments& arguments = arguments_[d];
    const int64_t t = TimeOf(problem_, arguments, step), units = problem_.units;
    const bool keep = Keeps(lane);
    S* outputs = static_cast<S*>(results_[d].outputs);
    for (int j = 0; j < CellType::kUnitVectors; ++j) {
      const int64_t unit = (panel * CellType::kUnitVectors + j) * L;
      if (unit >= units) break;
      T* slots = Gates(lane, step, unit) + block * kRowBlock * lane.slots * layout_.width;
      const T* products = sums + j * L;
      for (int64_t b = block * kRowBlock; b < BlockEnd(block); ++b) {
        V state[2];
        T* memory[2];
        for (int s = 0; s < CellType::kStates; ++s) {
          memory[s] = lane.state[s] + b * layout_.padded + unit;
          state[s] = Load(memory[s]);
        }
        if (Visible(problem_, b, t)) {
          CellType::template Forward<T>(products, problem_.activation, keep, layout_.width, slots, state);
          for (int s = 0; s < CellType::kStates; ++s) {
            if (arguments.zoneout[s].data != nullptr) {
              const V m = LoadUnits<T>(MaskRow<S>(arguments.zoneout[s], problem_, b, t), unit, units);
              state[s] = m * Load(memory[s]) + (1 - m) * state[s];
            }
            if (s == 0 && sizeof(S) < sizeof(T)) state[0] = Rounded(state[0]);
            // 0 in the padding, where Inf times the zeros of a packed kernel is NaN, which later steps would spread.
            state[s] = KeepFirst<T>(state[s], units - unit);
            Store(memory[s], state[s]);
          }
        } else if (keep) {
          for (int slot = 0; slot < CellType::kKeptSlots; ++slot) Store(slots + slot * layout_.width, V{});
        }
        if (keep && CellType::kStates == 2) Store(slots + 4 * layout_.width, state[1]);
        if (keep && unit + L >= units) ClearPadding(unit, slots);
        StoreOperand(d, step + 1, b, unit, state[0]);
        if (outputs != nullptr) StoreFirst(outputs + (b * problem_.time + t) * units + unit, state[0], units - unit);
        slots += lane.slots * layout_.width;
        products += NV * L;
      }
    }
  }

  // Zeros the padding of a row of residuals. The backward pass reads neither it nor masked steps, but a framework sees all
  // residuals (`tf.debugging.enable_check_numerics`), so none may be uninitialised. Without masks this costs a few stores
  // a row where `units` is not a multiple of the group's width, else nothing; a masked row costs its stores.
  void ClearPadding(int64_t unit, T* slots) const {
    if (layout_.padded == problem_.units) return;
    for (int slot = 0; slot < CellType::kKeptSlots; ++slot, slots += layout_.width) {
      Store(slots, KeepFirst<T>(Load(slots), problem_.units - unit));
      for (int64_t lane = L; lane < layout_.padded - unit; lane += L) Store(slots + lane, V{});
    }
  }

  // h is what the outputs hold, also between steps.
  static V Rounded(V h) {
    S lanes[L];
    StoreFirst(lanes, h, L);
    return LoadFirst(lanes, L);
  }

  void Finish(int64_t d, int64_t block) {
    for (int s = 0; s < CellType::kStates; ++s) {
      S* final_state = static_cast<S*>(results_[d].final_state[s]);
      if (final_state == nullptr) continue;
      for (int64_t b = block * kRowBlock; b < BlockEnd(block); ++b) {
        for (int64_t unit = 0; unit < problem_.units; unit += L) {
          StoreFirst(final_state + b * problem_.units + unit, Load(lanes_[d].state[s] + b * layout_.padded + unit),
                     problem_.units - unit);
        }
      }
    }
  }

  const Problem& problem_;
  const Arguments* arguments_;
  const Results* results_;
  const int64_t directions_;
  const Layout layout_;
  const int64_t chunk_, depth_, operand_stride_, input_panels_, panels_;
  AttentionForward<T> attention_;
  Workspace workspace_;
  Direction* lanes_ = nullptr;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_FORWARD_H_
