// SPDX-License-Identifier: Apache-2.0
// Backpropagation through time. A step multiplies the gradients of its slots by U^T and, while the sums are in the
// first-level cache, turns them into the slot gradients of the step before. After each chunk of steps come the products
// over all its rows: the gradients of inputs and weights.
#ifndef KERAS_SEQ_KERNELS_ISA_BACKWARD_H_
#define KERAS_SEQ_KERNELS_ISA_BACKWARD_H_

#include "forward.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

constexpr int64_t kDepthBlock = 512;  // of a product at a time, so that its part of the panel stays in cache
constexpr int64_t kOuterBlock = 32;   // tiles of weight gradients in an item of work

template <class CellType, class T>
class BackwardPass {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kPlain = 4;  // vectors of a panel whose columns are units or features
  static constexpr int kSlots = CellType::kKeptSlots, kGradientSlots = CellType::kGradientSlots;
  static constexpr bool kTwoProducts = CellType::kProducts == 2;

 public:
  BackwardPass(const Problem& problem, const Arguments* arguments, const Results* results, const Upstream* upstream,
               const Gradients* gradients, int64_t directions)
      : problem_(problem),
        arguments_(arguments),
        results_(results),
        upstream_(upstream),
        gradients_(gradients),
        directions_(directions),
        layout_(problem.batch, problem.units, CellType::kUnitVectors),
        chunk_(ChunkSteps(problem)),
        input_panels_(CeilDiv(problem.features, kPlain * L)),
        unit_panels_(CeilDiv(problem.units, kPlain * L)),
        attention_(problem, arguments[0], results[0], upstream[0], gradients[0]) {}

  bool Allocate() {
    lanes_ = workspace_.Allocate<Direction>(directions_);
    if (!workspace_.ok()) return false;
    const int64_t rows = chunk_ * problem_.batch, states = problem_.batch * layout_.padded;
    for (int64_t d = 0; d < directions_; ++d) {
      Direction& lane = lanes_[d] = Direction{};
      lane.kernel = workspace_.Allocate<T>(input_panels_ * InputPanelSize());
      lane.recurrent_kernel = workspace_.Allocate<T>(unit_panels_ * UnitPanelSize());
      lane.slots = workspace_.AllocateZeros<T>((chunk_ + 1) * layout_.StepSize(kGradientSlots));
      lane.carry = workspace_.AllocateZeros<T>(states);
      if (CellType::kStates == 2) lane.d_c = workspace_.AllocateZeros<T>(states);
      lane.initial_c = workspace_.AllocateZeros<T>(CellType::kStates == 2 ? states : 0);
      if (problem_.mask != nullptr) lane.visible_before = workspace_.Allocate<int64_t>(problem_.time + 1);
      lane.rows = workspace_.Allocate<int64_t>(rows);
      lane.left_inputs = workspace_.Allocate<T>(rows * (problem_.features + kMaxTile));
      lane.left_h = workspace_.Allocate<T>(rows * (problem_.units + kMaxTile));
      if (kTwoProducts) {
        lane.candidate_kernel = workspace_.Allocate<T>(unit_panels_ * kPlain * L * layout_.padded);
        lane.reset_carry = workspace_.AllocateZeros<T>(states);
        lane.left_reset = workspace_.Allocate<T>(rows * (problem_.units + kMaxTile));
      }
    }
    if (problem_.attends) {
      attention_.Allocate(workspace_, Kept(0, problem_.time, 0));
      lanes_[0].context_kernel = workspace_.Allocate<T>(attention_.ContextPanels() * InputPanelSize());
      lanes_[0].left_contexts = workspace_.Allocate<T>(rows * (problem_.memory_units + kMaxTile));
    }
    return workspace_.ok();
  }

  // The program of every worker.
  void Run(Worker& worker) {
    Prepare(worker);
    StepBefore(worker, problem_.time);
    for (int64_t end = problem_.time, begin; ; end = begin) {
      begin = end > chunk_ ? end - chunk_ : 0;
      for (int64_t step = end - 1; step > begin; --step) StepBefore(worker, step);
      Products(worker, begin, end);
      if (end > 0) StepBefore(worker, begin);
      if (begin == 0) break;
    }
    if (problem_.attends) {
      attention_.Finish(worker,
                        [&](int64_t step, int64_t b, int64_t unit) { return PreviousHidden(0, step, b, unit); });
    }
  }

 private:
  static constexpr int64_t kMaxTile = 8;

  struct Direction {
    T *kernel, *recurrent_kernel, *candidate_kernel;  // transposed, in panels
    T* slots;        // gradients: (chunk + 1 steps in turn, groups, batch, slots, width)
    T* carry;        // of h, what does not pass the product; (batch, padded)
    T* reset_carry;  // of the dropped h, through r * h
    T *d_c, *initial_c;
    // The chunk's rows that are not masked, for `OuterTile`: where their slot gradients lie, and what they meet, packed.
    int64_t* rows;
    int64_t* visible_before;  // how many rows of the steps before each step are not masked; only with a mask
    T *left_inputs, *left_h, *left_reset;
    T *context_kernel, *left_contexts;  // of attention
  };

  int64_t InputPanelSize() const { return CellType::kInputSlots.count * layout_.padded * kPlain * L; }
  int64_t UnitPanelSize() const { return CellType::kRecurrentSlots.count * layout_.padded * kPlain * L; }

  T* SlotGradients(const Direction& lane, int64_t step, int64_t unit) const {
    return lane.slots + layout_.Offset(kGradientSlots, step % (chunk_ + 1), unit);
  }

  const T* Kept(int64_t d, int64_t step, int64_t unit) const {
    return static_cast<const T*>(results_[d].residuals) + layout_.Offset(kSlots, step, unit);
  }

  int64_t BlockEnd(int64_t block) const { return Smaller((block + 1) * kRowBlock, problem_.batch); }

  void Prepare(Worker& worker) {
    if (problem_.attends) PrepareAttention(worker);
    const int64_t units = problem_.units;
    const int64_t panels = input_panels_ + unit_panels_ * CellType::kProducts;
    worker.ForEach(directions_ * (panels + 1), [&](int64_t item) {
      const int64_t d = item / (panels + 1);
      Direction& lane = lanes_[d];
      item %= panels + 1;
      const T* kernel = static_cast<const T*>(arguments_[d].kernel);
      const T* recurrent_kernel = static_cast<const T*>(arguments_[d].recurrent_kernel);
      if (item < input_panels_) {
        PackTransposed(kernel, problem_.features, layout_, CellType::kGates, CellType::kInputGradient, item,
                       lane.kernel + item * InputPanelSize());
      } else if ((item -= input_panels_) < unit_panels_) {
        PackTransposed(recurrent_kernel, units, layout_, CellType::kGates, CellType::kRecurrentGradient, item,
                       lane.recurrent_kernel + item * UnitPanelSize());
      } else if ((item -= unit_panels_) < unit_panels_ * (CellType::kProducts - 1)) {
        if constexpr (kTwoProducts) {
          PackTransposed(recurrent_kernel, units, layout_, CellType::kGates, CellType::kCandidate, item,
                         lane.candidate_kernel + item * kPlain * L * layout_.padded);
        }
      } else {
        LoadStates(d);
        if (problem_.mask != nullptr) CountVisibleRows(d);
      }
    });
  }

  void PrepareAttention(Worker& worker) {
    const T* kernel = static_cast<const T*>(arguments_[0].kernel) + problem_.features * CellType::kGates * problem_.units;
    worker.ForEach(attention_.PackItems(), [&](int64_t item) { attention_.Pack(item); });
    worker.ForEach(attention_.ContextPanels(), [&](int64_t panel) {
      PackTransposed(kernel, problem_.memory_units, layout_, CellType::kGates, CellType::kInputGradient, panel,
                     lanes_[0].context_kernel + panel * InputPanelSize());
    });
  }

  void CountVisibleRows(int64_t d) {
    int64_t count = lanes_[d].visible_before[0] = 0;
    for (int64_t step = 0; step < problem_.time; ++step) {
      const int64_t t = TimeOf(problem_, arguments_[d], step);
      for (int64_t b = 0; b < problem_.batch; ++b) count += Visible(problem_, b, t);
      lanes_[d].visible_before[step + 1] = count;
    }
  }

  void LoadStates(int64_t d) {
    const int64_t units = problem_.units;
    const T* initial = static_cast<const T*>(arguments_[d].initial_state[1]);
    const T* upstream = static_cast<const T*>(upstream_[d].final_state[1]);
    if constexpr (CellType::kStates == 2) {
      for (int64_t b = 0; b < problem_.batch; ++b) {
        for (int64_t unit = 0; unit < units; unit += L) {
          const int64_t at = b * layout_.padded + unit;
          if (initial) Store(lanes_[d].initial_c + at, LoadUnits<T>(initial + b * units, unit, units));
          if (upstream) Store(lanes_[d].d_c + at, LoadUnits<T>(upstream + b * units, unit, units));
        }
      }
    }
  }

  // From the slot gradients of `step` to those of the step before it; `step` may be the number of steps, or 0.
  void StepBefore(Worker& worker, int64_t step) {
    const bool attended = problem_.attends && step < problem_.time;
    if (attended) DifferentiateAttention(worker, step);
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock), items = directions_ * unit_panels_ * blocks;
    worker.ForEach(items, [&](int64_t item) {
      const int64_t d = item / blocks / unit_panels_, panel = item / blocks % unit_panels_, block = item % blocks;
      T sums[kRowBlock * kPlain * L];
      StartHidden(d, step, panel, block, sums);
      if (step < problem_.time) {
        Product(d, step, block, CellType::kRecurrentSlots, lanes_[d].recurrent_kernel + panel * UnitPanelSize(), sums);
      }
      if (attended) AddQueries(step, panel, block);
      Differentiate(d, step, panel, block, sums);
    }, step % 2 == 1);
    if constexpr (kTwoProducts) {
      if (step == 0) return;
      worker.ForEach(items, [&](int64_t item) {
        const int64_t d = item / blocks / unit_panels_, panel = item / blocks % unit_panels_, block = item % blocks;
        T sums[kRowBlock * kPlain * L];
        memset(sums, 0, sizeof sums);
        Product(d, step - 1, block, CellType::kCandidateSlots,
                lanes_[d].candidate_kernel + panel * kPlain * L * layout_.padded, sums);
        DifferentiateReset(d, step - 1, panel, block, sums);
      }, step % 2 == 1);
    }
  }

  // From the slot gradients of a step to those of its contexts, and from these to those of its queries.
  void DifferentiateAttention(Worker& worker, int64_t step) {
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(attention_.ContextPanels() * blocks, [&](int64_t item) {
      const int64_t panel = item / blocks, block = item % blocks, first = block * kRowBlock;
      T sums[kRowBlock * kPlain * L] = {};
      Product(0, step, block, CellType::kInputSlots, lanes_[0].context_kernel + panel * InputPanelSize(), sums);
      for (int64_t b = first; b < BlockEnd(block); ++b) {
        T* d_context = attention_.ContextGradient(step, b) + panel * kPlain * L;
        for (int v = 0; v < kPlain; ++v) {
          const int64_t unit = (panel * kPlain + v) * L;
          Store(d_context + v * L,
                KeepFirst<T>(Load(sums + ((b - first) * kPlain + v) * L), problem_.memory_units - unit));
        }
      }
    });
    attention_.Step(worker, step);
  }

  // The gradient of h by way of the queries joins what does not pass the recurrent product.
  void AddQueries(int64_t step, int64_t panel, int64_t block) {
    T sums[kRowBlock * kPlain * L];
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_[0], step));
    attention_.HiddenGradients(step, panel, rows, sums);
    for (int64_t i = 0; i < rows.count; ++i) {
      for (int v = 0; v < kPlain; ++v) {
        const int64_t unit = (panel * kPlain + v) * L;
        if (unit >= problem_.units) break;
        T* carry = lanes_[0].carry + rows.sequence[i] * layout_.padded + unit;
        Store(carry, Load(carry) + Load(sums + (i * kPlain + v) * L));
      }
    }
  }

  void StartHidden(int64_t d, int64_t step, int64_t panel, int64_t block, T* sums) {
    for (int64_t b = block * kRowBlock; b < BlockEnd(block); ++b, sums += kPlain * L) {
      for (int v = 0; v < kPlain; ++v) {
        const int64_t unit = (panel * kPlain + v) * L;
        const bool carried = kTwoProducts && step < problem_.time && unit < problem_.units;
        Store(sums + v * L, carried ? Load(lanes_[d].reset_carry + b * layout_.padded + unit) : V{});
      }
    }
  }

  // sums += the slot gradients of a step, which are zero where it is masked, times a panel of a transposed kernel.
  void Product(int64_t d, int64_t step, int64_t block, const Slots& slots, const T* kernel, T* sums) {
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_[d], step));
    const T* left[kRowBlock];
    T* sum_rows[kRowBlock];
    const T* gradients = SlotGradients(lanes_[d], step, 0) + slots.first * layout_.width;
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = gradients + rows.sequence[i] * kGradientSlots * layout_.width;
      sum_rows[i] = sums + (rows.sequence[i] - block * kRowBlock) * kPlain * L;
    }
    MultiplySlots(slots, rows.count, left, kernel, sum_rows);
  }

  // The whole depth of the product, a part of all groups at a time. Moves the `left` pointers.
  void MultiplySlots(const Slots& slots, int64_t count, const T** left, const T* kernel, T* const* sums) {
    const int64_t block = slots.count * layout_.width, stride = problem_.batch * kGradientSlots * layout_.width;
    const int64_t groups = block > 0 && block < kDepthBlock ? kDepthBlock / block : 1;
    for (int64_t group = 0; group < layout_.groups; group += groups) {
      const int64_t blocks = Smaller(groups, layout_.groups - group);
      MultiplyRows<kPlain>(Rows<T>{left, block, stride, blocks}, count, kernel, sums, L, nullptr);
      kernel += blocks * block * kPlain * L;
      for (int64_t row = 0; row < count; ++row) left[row] += blocks * stride;
    }
  }

  V PreviousHidden(int64_t d, int64_t step, int64_t b, int64_t unit) const {
    const int64_t units = problem_.units;
    if (step == 0) {
      const T* initial = static_cast<const T*>(arguments_[d].initial_state[0]);
      return initial ? LoadUnits<T>(initial + b * units, unit, units) : V{};
    }
    const int64_t t = TimeOf(problem_, arguments_[d], step - 1);
    return LoadUnits<T>(static_cast<const T*>(results_[d].outputs) + (b * problem_.time + t) * units, unit, units);
  }

  // The recurrent dropout of a step: `value` times it.
  V Drop(int64_t d, int64_t step, int64_t b, int64_t unit, V value) const {
    const UnitMask& mask = arguments_[d].recurrent_dropout_mask;
    if (mask.data == nullptr) return value;
    const T* row = MaskRow<T>(mask, problem_, b, TimeOf(problem_, arguments_[d], step));
    return value * LoadUnits<T>(row, unit, problem_.units);
  }

  // `sums` are the gradients of the dropped h that `step` multiplied.
  void Differentiate(int64_t d, int64_t step, int64_t panel, int64_t block, const T* sums) {
    const Direction& lane = lanes_[d];
    const int64_t units = problem_.units;
    for (int v = 0; v < kPlain; ++v) {
      const int64_t unit = (panel * kPlain + v) * L;
      if (unit >= units) break;
      for (int64_t b = block * kRowBlock; b < BlockEnd(block); ++b) {
        V dh = Load(sums + ((b - block * kRowBlock) * kPlain + v) * L);
        if (step == problem_.time) {
          const T* final_h = static_cast<const T*>(upstream_[d].final_state[0]);
          if (final_h) dh = LoadUnits<T>(final_h + b * units, unit, units);
        } else {
          // 0 in the padding, where Inf times the zeros of a packed kernel is NaN, which later products would spread.
          dh = KeepFirst<T>(Drop(d, step, b, unit, dh) + Load(lane.carry + b * layout_.padded + unit), units - unit);
        }
        if (step == 0) {
          StoreInitial(d, b, unit, dh);
        } else {
          DifferentiateCell(d, step - 1, b, unit, dh);
        }
      }
    }
  }

  void StoreInitial(int64_t d, int64_t b, int64_t unit, V dh) {
    const int64_t units = problem_.units, at = b * units + unit;
    T* h = static_cast<T*>(gradients_[d].initial_state[0]);
    T* c = static_cast<T*>(gradients_[d].initial_state[1]);
    if (h) StoreFirst(h + at, dh, units - unit);
    if (CellType::kStates == 2 && c) StoreFirst(c + at, Load(lanes_[d].d_c + b * layout_.padded + unit), units - unit);
  }

  // From the gradient of h after `step` to the slot gradients of that step.
  void DifferentiateCell(int64_t d, int64_t step, int64_t b, int64_t unit, V dh) {
    const Direction& lane = lanes_[d];
    const Arguments& arguments = arguments_[d];
    const int64_t units = problem_.units, t = TimeOf(problem_, arguments, step), at = b * layout_.padded + unit;
    T* d_slots = SlotGradients(lane, step, unit) + b * kGradientSlots * layout_.width;
    const T* d_outputs = static_cast<const T*>(upstream_[d].outputs);
    if (d_outputs) dh += LoadUnits<T>(d_outputs + (b * problem_.time + t) * units, unit, units);
    if (!Visible(problem_, b, t)) {  // hands everything to the step before
      for (int slot = 0; slot < kGradientSlots; ++slot) Store(d_slots + slot * layout_.width, V{});
      Store(lane.carry + at, dh);
      return;
    }
    V d_state[2] = {dh, V{}}, carried[2] = {}, previous[2] = {};
    if (CellType::kStates == 2) d_state[1] = Load(lane.d_c + at);
    for (int s = 0; s < CellType::kStates; ++s) {
      if (arguments.zoneout[s].data == nullptr) continue;
      const V m = LoadUnits<T>(MaskRow<T>(arguments.zoneout[s], problem_, b, t), unit, units);
      carried[s] = m * d_state[s];
      d_state[s] = (1 - m) * d_state[s];
    }
    if (CellType::kStates == 2) {
      previous[1] = step == 0 ? Load(lane.initial_c + at)
                              : Load(Kept(d, step - 1, unit) + (b * kSlots + 4) * layout_.width);
    } else if (CellType::kGates == 3) {
      previous[0] = PreviousHidden(d, step, b, unit);
    }
    const T* kept = Kept(d, step, unit) + b * kSlots * layout_.width;
    CellType::template Backward<T>(kept, problem_.activation, layout_.width, previous, d_state, d_slots);
    Store(lane.carry + at, carried[0] + d_state[0]);
    if (CellType::kStates == 2) Store(lane.d_c + at, carried[1] + d_state[1]);
  }

  // `sums` are the gradients of r * h.
  void DifferentiateReset(int64_t d, int64_t step, int64_t panel, int64_t block, const T* sums) {
    const Direction& lane = lanes_[d];
    for (int64_t b = block * kRowBlock; b < BlockEnd(block); ++b, sums += kPlain * L) {
      const bool visible = Visible(problem_, b, TimeOf(problem_, arguments_[d], step));
      for (int v = 0; v < kPlain; ++v) {
        const int64_t unit = (panel * kPlain + v) * L;
        if (unit >= problem_.units) break;
        V d_dropped = V{};
        if constexpr (kTwoProducts) {
          if (visible) {
            const V dropped = Drop(d, step, b, unit, PreviousHidden(d, step, b, unit));
            d_dropped = CellType::template BackwardReset<T>(
                Kept(d, step, unit) + b * kSlots * layout_.width, layout_.width, dropped,
                KeepFirst<T>(Load(sums + v * L), problem_.units - unit),
                SlotGradients(lane, step, unit) + b * kGradientSlots * layout_.width);
          }
        }
        Store(lane.reset_carry + b * layout_.padded + unit, d_dropped);
      }
    }
  }

  // The gradients of inputs and weights by the steps [begin, end).
  void Products(Worker& worker, int64_t begin, int64_t end) {
    const int64_t steps = end - begin;
    const int64_t lefts = 1 + CellType::kProducts + problem_.attends;
    worker.ForEach(directions_ * steps * lefts, [&](int64_t item) {
      const int64_t d = item % directions_, which = item / directions_ / steps;
      const int64_t step = begin + item / directions_ % steps;
      const PackedRows rows{step, VisibleRows(d, begin, step), VisibleRows(d, begin, end)};
      if (which == 0) ListRows(d, rows);
      PackLeft(d, which, rows);
    });
    const int64_t rows = steps * problem_.batch, blocks = CeilDiv(rows, kRowBlock);
    const int64_t inputs = blocks * input_panels_;
    const int64_t kernel = OuterItems<CellType::kInputSlots.count>(problem_.features);
    const int64_t recurrent = OuterItems<CellType::kRecurrentSlots.count>(problem_.units);
    const int64_t candidate = kTwoProducts ? OuterItems<1>(problem_.units) : 0;
    const int64_t contexts = problem_.attends ? OuterItems<CellType::kInputSlots.count>(problem_.memory_units) : 0;
    const int64_t items = inputs + kernel + recurrent + candidate + contexts;
    const bool first = end == problem_.time;  // the sums of weights start here
    worker.ForEach(directions_ * items, [&](int64_t item) {
      const int64_t d = item / items;
      const Direction& lane = lanes_[d];
      const Gradients& gradients = gradients_[d];
      const int64_t depth = VisibleRows(d, begin, end);
      item %= items;
      if (item < inputs) {
        InputGradients(d, begin, rows, blocks, item);
      } else if ((item -= inputs) < kernel) {
        WeightGradients<CellType::kInputSlots.count>(d, depth, first, item, CellType::kInputGradient,
                                                     CellType::kInputSlots, lane.left_inputs, problem_.features,
                                                     gradients.kernel, gradients.bias);
      } else if ((item -= kernel) < recurrent) {
        T* bias = static_cast<T*>(gradients.bias);
        constexpr bool kBias = CellType::kGates == 3 && CellType::kProducts == 1;
        WeightGradients<CellType::kRecurrentSlots.count>(
            d, depth, first, item, CellType::kRecurrentGradient, CellType::kRecurrentSlots, lane.left_h, problem_.units,
            gradients.recurrent_kernel, kBias && bias ? bias + CellType::kGates * problem_.units : nullptr);
      } else if ((item -= recurrent) < candidate) {
        if constexpr (kTwoProducts) {
          WeightGradients<1>(d, depth, first, item, CellType::kCandidate, CellType::kCandidateSlots, lane.left_reset,
                             problem_.units, gradients.recurrent_kernel, nullptr);
        }
      } else if (gradients.kernel != nullptr) {
        T* rows = static_cast<T*>(gradients.kernel) + problem_.features * CellType::kGates * problem_.units;
        WeightGradients<CellType::kInputSlots.count>(d, depth, first, item - candidate, CellType::kInputGradient,
                                                     CellType::kInputSlots, lane.left_contexts, problem_.memory_units,
                                                     rows, nullptr);
      }
    });
  }

  // SimpleRNN's panels hold vectors of units, the others' a vector of each gate.
  template <int SlotCount>
  static constexpr int kOuterVectors = CellType::kUnitVectors > 1 ? CellType::kUnitVectors : SlotCount;

  int64_t OuterPanels() const {
    return CeilDiv(problem_.units, CellType::kUnitVectors * L);
  }

  template <int SlotCount>
  int64_t OuterBlocks(int64_t columns) const {
    const int64_t tiles = CeilDiv(columns, kTileRows<kOuterVectors<SlotCount>>);
    return tiles < kOuterBlock ? 1 : CeilDiv(tiles, kOuterBlock);  // one where there are no columns, for the bias
  }

  template <int SlotCount>
  int64_t OuterItems(int64_t columns) const {
    return OuterPanels() * OuterBlocks<SlotCount>(columns);
  }

  // The rows of a step that are packed, and where they go.
  struct PackedRows {
    int64_t step, first, depth;  // `first` is how many of the chunk's `depth` rows come before
  };

  // How many rows of the steps [begin, end) are not masked.
  int64_t VisibleRows(int64_t d, int64_t begin, int64_t end) const {
    if (problem_.mask == nullptr) return (end - begin) * problem_.batch;
    return lanes_[d].visible_before[end] - lanes_[d].visible_before[begin];
  }

  // function(i, rows) for each block of sequences, of which `i` come before.
  template <class Function>
  void ForEachBlock(int64_t d, int64_t step, Function&& function) const {
    int64_t i = 0;
    for (int64_t block = 0; block < CeilDiv(problem_.batch, kRowBlock); ++block) {
      const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_[d], step));
      function(i, rows);
      i += rows.count;
    }
  }

  void ListRows(int64_t d, const PackedRows& packed) {
    const int64_t step = packed.step % (chunk_ + 1) * layout_.StepSize(kGradientSlots);
    ForEachBlock(d, packed.step, [&](int64_t first, const VisibleSequences& rows) {
      for (int64_t i = 0; i < rows.count; ++i) {
        lanes_[d].rows[packed.first + first + i] = step + rows.sequence[i] * kGradientSlots * layout_.width;
      }
    });
  }

  // Packs the rows of one step: of the inputs (0), the dropped h (1), r times it (2 of a cell with two products), or,
  // last of all, the contexts.
  void PackLeft(int64_t d, int64_t which, const PackedRows& packed) {
    const Direction& lane = lanes_[d];
    const bool contexts = which > CellType::kProducts;
    if ((which == 0 || contexts ? gradients_[d].kernel : gradients_[d].recurrent_kernel) == nullptr) return;
    constexpr int kInputTile = kTileRows<kOuterVectors<CellType::kInputSlots.count>>;
    ForEachBlock(d, packed.step, [&](int64_t first, const VisibleSequences& rows) {
      const int64_t at = packed.first + first, t = TimeOf(problem_, arguments_[d], packed.step);
      if (contexts) {
        PackBlock<kInputTile>(lane.left_contexts, 0, problem_.memory_units, problem_.memory_units, rows.count, at,
                              packed.depth,
                              [&](int64_t i) { return attention_.Context(packed.step, rows.sequence[i]); });
      } else if (which == 0) {
        const int64_t features = problem_.features;
        const T* inputs = static_cast<const T*>(arguments_[d].inputs) + t * features;
        PackBlock<kInputTile>(lane.left_inputs, 0, features, features, rows.count, at, packed.depth, [&](int64_t i) {
          return inputs + rows.sequence[i] * problem_.time * features;
        });
      } else {
        PackHidden(d, which, packed, at, rows);
      }
    });
  }

  // Rows of h are dropped, some sequences and units at a time, before they are packed.
  void PackHidden(int64_t d, int64_t which, const PackedRows& packed, int64_t at, const VisibleSequences& rows) {
    const Direction& lane = lanes_[d];
    const int64_t units = problem_.units, step = packed.step;
    constexpr int64_t kRows = 8, kColumns = 480, kStride = 512;  // kColumns is a multiple of every tile's height
    alignas(64) T dropped[kRows * kStride];
    const auto row = [&](int64_t i) { return dropped + i * kStride; };
    for (int64_t first = 0; first < rows.count; first += kRows) {
      const int64_t count = Smaller(kRows, rows.count - first);
      for (int64_t start = 0; start < units; start += kColumns) {
        const int64_t width = Smaller(kColumns, units - start);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t b = rows.sequence[first + i];
          for (int64_t unit = 0; unit < width; unit += L) {
            V value = Drop(d, step, b, start + unit, PreviousHidden(d, step, b, start + unit));
            if constexpr (kTwoProducts) {
              if (which == 2) value *= Load(Kept(d, step, start + unit) + (b * kSlots + 1) * layout_.width);
            }
            Store(dropped + i * kStride + unit, value);
          }
        }
        if (which == 1) {
          constexpr int R = kTileRows<kOuterVectors<CellType::kRecurrentSlots.count>>;
          PackBlock<R>(lane.left_h, start, width, units, count, at + first, packed.depth, row);
        } else {
          PackBlock<kTileRows<1>>(lane.left_reset, start, width, units, count, at + first, packed.depth, row);
        }
      }
    }
  }

  // packed: (tiles of R columns, `depth` rows in the order of the list, R). `row(i)` is the row that goes to `at` + i,
  // from the column `start` on.
  template <int R, class Row>
  static void PackBlock(T* packed, int64_t start, int64_t width, int64_t columns, int64_t count, int64_t at,
                        int64_t depth, const Row& row) {
    for (int64_t column = 0; column < width; column += R) {
      T* to = packed + ((start + column) / R * depth + at) * R;
      const int64_t valid = Smaller<int64_t>(R, columns - start - column);
      for (int64_t i = 0; i < count; ++i, to += R) {
        const T* from = row(i) + column;
        if (valid == R) {
          for (int r = 0; r < R; ++r) to[r] = from[r];
        } else {
          for (int r = 0; r < R; ++r) to[r] = r < valid ? from[r] : T{};
        }
      }
    }
  }

  void InputGradients(int64_t d, int64_t begin, int64_t rows, int64_t blocks, int64_t item) {
    T* d_inputs = static_cast<T*>(gradients_[d].inputs);
    if (d_inputs == nullptr) return;
    const int64_t panel = item % input_panels_, block = item / input_panels_;
    const int64_t first = rows * block / blocks, count = rows * (block + 1) / blocks - first;
    const int64_t features = problem_.features;
    T sums[kRowBlock * kPlain * L] = {};
    const T* left[kRowBlock];
    T* sum_rows[kRowBlock];
    int64_t visible = 0;
    for (int64_t row = 0; row < count; ++row) {
      const int64_t step = begin + (first + row) / problem_.batch, b = (first + row) % problem_.batch;
      if (!Visible(problem_, b, TimeOf(problem_, arguments_[d], step))) continue;
      const int64_t slot = b * kGradientSlots + CellType::kInputSlots.first;
      left[visible] = SlotGradients(lanes_[d], step, 0) + slot * layout_.width;
      sum_rows[visible++] = sums + row * kPlain * L;
    }
    MultiplySlots(CellType::kInputSlots, visible, left, lanes_[d].kernel + panel * InputPanelSize(), sum_rows);
    for (int64_t row = 0; row < count; ++row) {
      const int64_t step = begin + (first + row) / problem_.batch, b = (first + row) % problem_.batch;
      T* to = d_inputs + (b * problem_.time + TimeOf(problem_, arguments_[d], step)) * features;
      for (int v = 0; v < kPlain; ++v) {
        const int64_t column = (panel * kPlain + v) * L;
        if (column < features) StoreFirst(to + column, Load(sums + (row * kPlain + v) * L), features - column);
      }
    }
  }

  // gradient (columns, gates * units) += left' times the slot gradients, for a panel of slots and a block of columns.
  template <int SlotCount>
  void WeightGradients(int64_t d, int64_t depth, bool first, int64_t item, const Columns& map, const Slots& slots,
                       const T* left, int64_t columns, void* gradient, void* bias) {
    constexpr int NV = kOuterVectors<SlotCount>, R = kTileRows<NV>;
    const int64_t panel = item % OuterPanels(), block = item / OuterPanels();
    const int64_t blocks = OuterBlocks<SlotCount>(columns), tiles = CeilDiv(columns, R);
    const int64_t unit = panel * CellType::kUnitVectors * L, row_size = CellType::kGates * problem_.units;
    const int64_t vector_stride = CellType::kUnitVectors > 1 ? L : layout_.width;
    const ListedRows<T> right{SlotGradients(lanes_[d], 0, unit) + slots.first * layout_.width, lanes_[d].rows};
    const int64_t last = gradient == nullptr ? 0 : tiles * (block + 1) / blocks;  // nobody may want it
    for (int64_t tile = tiles * block / blocks; tile < last; ++tile) {
      alignas(64) T sums[R * NV * L] = {};
      const int64_t height = Smaller<int64_t>(R, columns - tile * R);
      T* rows = static_cast<T*>(gradient) + tile * R * row_size;
      if (!first) {
        ForEachVector<NV>(map, unit, height, row_size, [&](int at, int64_t offset, int64_t count) {
          Store(sums + at, LoadFirst(rows + offset, count));
        });
      }
      OuterTile<R, NV>(left + tile * depth * R, right, depth, vector_stride, sums);
      ForEachVector<NV>(map, unit, height, row_size, [&](int at, int64_t offset, int64_t count) {
        StoreFirst(rows + offset, Load(sums + at), count);
      });
    }
    if (bias != nullptr && block == 0) BiasGradients<NV>(right, depth, first, map, unit, static_cast<T*>(bias));
  }

  // function(place in a tile's sums, place in the gradient, how many columns there are) for each vector of a tile.
  template <int NV, class Function>
  void ForEachVector(const Columns& map, int64_t unit, int64_t height, int64_t row_size, Function&& function) {
    for (int64_t r = 0; r < height; ++r) {
      for (int v = 0; v < NV; ++v) {
        const int64_t column_unit = unit + v / map.gates * L;
        if (column_unit >= problem_.units) break;
        function(static_cast<int>((r * NV + v) * L),
                 r * row_size + map.gate[v % map.gates] * problem_.units + column_unit, problem_.units - column_unit);
      }
    }
  }

  template <int NV>
  void BiasGradients(const ListedRows<T>& rows, int64_t depth, bool first, const Columns& map, int64_t unit, T* bias) {
    alignas(64) T sums[NV * L] = {};
    const int64_t stride = CellType::kUnitVectors > 1 ? L : layout_.width;
    for (int64_t k = 0; k < depth; ++k) {
      for (int v = 0; v < NV; ++v) Store(sums + v * L, Load(sums + v * L) + Load(rows[k] + v * stride));
    }
    ForEachVector<NV>(map, unit, 1, 0, [&](int at, int64_t offset, int64_t count) {
      const V before = first ? V{} : LoadFirst(bias + offset, count);
      StoreFirst(bias + offset, before + Load(sums + at), count);
    });
  }

  const Problem& problem_;
  const Arguments* arguments_;
  const Results* results_;
  const Upstream* upstream_;
  const Gradients* gradients_;
  const int64_t directions_;
  const Layout layout_;
  const int64_t chunk_, input_panels_, unit_panels_;
  AttentionBackward<T> attention_;
  Workspace workspace_;
  Direction* lanes_ = nullptr;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_BACKWARD_H_
