// SPDX-License-Identifier: Apache-2.0
// The gradients of inputs, weights and biases that follow from the slot gradients of a chunk of steps.
//
// A weight gradient is a product of two matrices, of which each row belongs to one sequence at one step. The left one,
// what the weight multiplied, is packed; of the right one, the slot gradients, only the addresses of rows are listed.
// Both leave out masked rows.
#ifndef KERAS_SEQ_KERNELS_ISA_CHUNK_GRADIENTS_H_
#define KERAS_SEQ_KERNELS_ISA_CHUNK_GRADIENTS_H_

#include "../team.h"
#include "attention_memory.h"
#include "backward_call.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class Equations, class S, class Element>
class ChunkGradients {
  using Call = BackwardCall<Equations, S, Element>;
  using T = typename Call::T;
  using V = Vector<T>;
  static constexpr int L = kLanes<T>, D = ProductTypes<Element>::kDepth;
  static constexpr int kResidualSlots = Equations::kResidualSlots, kGradientSlots = Equations::kGradientSlots;

  // Vectors of a panel of weight gradients. The candidate is a single gate.
  static constexpr int kInputVectors = Equations::kInputGradient.vectors();
  static constexpr int kRecurrentVectors = Equations::kRecurrentGradient.vectors();
  static constexpr int kCandidateVectors = 1;
  static constexpr int kMaxTile = kTuning.tile_rows;  // no tile is higher
  static constexpr int kMaxPanel = kInputVectors;      // no panel has more vectors
  static constexpr bool kRounds = sizeof(S) < sizeof(T);  // sums as they become gradients

 public:
  // `call` must outlive this object.
  explicit ChunkGradients(const Call& call)
      : call_(call),
        problem_(call.problem),
        gradients_(call.gradients),
        direction_count_(call.direction_count),
        layout_(call.layout),
        input_panels_(CeilDiv(call.problem.features, kPanelVectors * L)) {
    left_kinds_[left_count_++] = kInputs;
    left_kinds_[left_count_++] = kHidden;
    if (Equations::kHasCandidateProduct) left_kinds_[left_count_++] = kGatedHidden;
    if (call.problem.attends) left_kinds_[left_count_++] = kFed;
  }

  // `fed` are the rows that attention feeds to the only direction, if the call attends.
  bool Allocate(Workspace& workspace, const FedRows<T>& fed) {
    fed_ = fed;
    directions_ = workspace.Allocate<Direction>(direction_count_);
    if (!workspace.ok()) return false;
    const int64_t rows = call_.chunk * problem_.batch;
    for (int64_t d = 0; d < direction_count_; ++d) {
      Direction& direction = directions_[d] = Direction{};
      direction.kernel = workspace.Allocate<Element>(input_panels_ * call_.TransposedPanelSize(Equations::kInputSlots));
      direction.rows = workspace.Allocate<int64_t>(rows);
      if (problem_.mask != nullptr) direction.visible_before = workspace.Allocate<int64_t>(problem_.time + 1);
      for (int i = 0; i < left_count_; ++i) {
        const int64_t columns = LeftColumns(left_kinds_[i]) + kMaxTile;
        direction.left[left_kinds_[i]] = workspace.Allocate<Element>(CeilDiv(rows, D) * columns);
        if (!kRounds || call_.chunk >= problem_.time) continue;
        direction.sums[left_kinds_[i]] = workspace.Allocate<T>(columns * WeightPanels() * kMaxPanel * L);
      }
      if (kRounds) direction.bias_sums = workspace.Allocate<T>(2 * Equations::kGates * problem_.units);
    }
    return workspace.ok();
  }

  // The items of work of `Prepare` for each direction.
  int64_t PrepareItems() const { return input_panels_ + 1; }

  // Packs a panel of the input kernel, or counts the rows of each step.
  void Prepare(int64_t d, int64_t item) {
    if (item == input_panels_) {
      CountVisibleRows(d);
    } else {
      PackTransposed(static_cast<const S*>(call_.arguments[d].kernel), problem_.features, layout_, Equations::kGates,
                     Equations::kInputGradient, item, InputPanel(d, item));
    }
  }

  // Adds the gradients of the steps [begin, end) to those of weights, and stores those of their inputs.
  void Compute(Worker& worker, int64_t begin, int64_t end) {
    const int64_t steps = end - begin;
    worker.ForEach(direction_count_ * steps * left_count_, [&](int64_t item) {
      const int64_t d = item % direction_count_, step = begin + item / direction_count_ % steps;
      const Left kind = left_kinds_[item / direction_count_ / steps];
      const PackedRows rows{step, VisibleRows(d, begin, step), VisibleRows(d, begin, end)};
      if (kind == kInputs) ListRows(d, rows);
      PackLeft(d, kind, rows);
    });
    const int64_t rows = steps * problem_.batch, blocks = CeilDiv(rows, kRowBlock);
    const int64_t inputs = blocks * input_panels_;
    const int64_t kernel = WeightItems<kInputVectors>(LeftColumns(kInputs));
    const int64_t recurrent = WeightItems<kRecurrentVectors>(LeftColumns(kHidden));
    const int64_t candidate =
        Equations::kHasCandidateProduct ? WeightItems<kCandidateVectors>(LeftColumns(kGatedHidden)) : 0;
    const int64_t fed = problem_.attends ? WeightItems<kInputVectors>(LeftColumns(kFed)) : 0;
    const int64_t items = inputs + kernel + recurrent + candidate + fed;
    worker.ForEach(direction_count_ * items, [&](int64_t item) {
      const int64_t d = item / items;
      const Product product{d, VisibleRows(d, begin, end), end == problem_.time, begin == 0};
      item %= items;
      if (item < inputs) {
        InputGradients(d, begin, rows, blocks, item);
      } else if ((item -= inputs) < kernel) {
        KernelGradients(product, item);
      } else if ((item -= kernel) < recurrent) {
        RecurrentKernelGradients(product, item);
      } else if ((item -= recurrent) < candidate) {
        CandidateKernelGradients(product, item);
      } else {
        FedKernelGradients(product, item - candidate);
      }
    });
  }

 private:
  // The left matrices.
  enum Left { kInputs, kHidden, kGatedHidden, kFed, kLeftCount };

  // What each direction has in the workspace.
  struct Direction {
    Element* kernel;          // transposed, in panels
    int64_t* rows;            // offsets of the slot gradients of the chunk's visible rows
    int64_t* visible_before;  // how many visible rows come before each step; only with a mask
    Element* left[kLeftCount];  // packed, in the order of `rows`
    // Of weights and biases over several chunks, if the gradients themselves have fewer bits.
    T *sums[kLeftCount], *bias_sums;  // `sums`: (tiles, panels, rows of a tile, vectors)
  };

  // The visible rows of one step among those of its chunk.
  struct PackedRows {
    int64_t step, first, depth;  // `first` of the chunk's `depth` rows belong to earlier steps
  };

  // What the weight gradients of one direction have in common.
  struct Product {
    int64_t d, depth;
    bool first_chunk, last_chunk;  // the sums start or end here
  };

  int64_t LeftColumns(Left kind) const {
    return kind == kInputs ? problem_.features : kind == kFed ? fed_.columns : call_.hidden_units;
  }

  Element* InputPanel(int64_t d, int64_t panel) const {
    return directions_[d].kernel + panel * call_.TransposedPanelSize(Equations::kInputSlots);
  }

  void CountVisibleRows(int64_t d) {
    if (problem_.mask == nullptr) return;
    int64_t count = directions_[d].visible_before[0] = 0;
    for (int64_t step = 0; step < problem_.time; ++step) {
      const int64_t t = call_.Time(d, step);
      for (int64_t b = 0; b < problem_.batch; ++b) count += Visible(problem_, b, t);
      directions_[d].visible_before[step + 1] = count;
    }
  }

  // How many rows of the steps [begin, end) are visible.
  int64_t VisibleRows(int64_t d, int64_t begin, int64_t end) const {
    if (problem_.mask == nullptr) return (end - begin) * problem_.batch;
    return directions_[d].visible_before[end] - directions_[d].visible_before[begin];
  }

  // Calls function(first, sequences) for each block of sequences, where `first` visible rows of the step come before.
  template <class Function>
  void ForEachBlock(int64_t d, int64_t step, Function&& function) const {
    int64_t first = 0;
    for (int64_t block = 0; block < CeilDiv(problem_.batch, kRowBlock); ++block) {
      const VisibleSequences rows(problem_, block, call_.Time(d, step));
      function(first, rows);
      first += rows.count;
    }
  }

  void ListRows(int64_t d, const PackedRows& packed) {
    const int64_t step = packed.step % (call_.chunk + 1) * layout_.StepSize(kGradientSlots);
    ForEachBlock(d, packed.step, [&](int64_t first, const VisibleSequences& rows) {
      for (int64_t i = 0; i < rows.count; ++i) {
        directions_[d].rows[packed.first + first + i] = step + rows.sequence[i] * kGradientSlots * layout_.width;
      }
    });
  }

  // Packs the rows of one step of a left matrix, unless nobody wants the gradient.
  void PackLeft(int64_t d, Left kind, const PackedRows& packed) {
    const bool of_kernel = kind == kInputs || kind == kFed;
    if ((of_kernel ? gradients_[d].kernel : gradients_[d].recurrent_kernel) == nullptr) return;
    ForEachBlock(d, packed.step, [&](int64_t first, const VisibleSequences& rows) {
      const int64_t at = packed.first + first;
      if (kind == kInputs) {
        PackInputs(d, packed, at, rows);
      } else if (kind == kFed) {
        PackFed(d, packed, at, rows);
      } else {
        PackHidden(d, kind, packed, at, rows);
      }
    });
  }

  void PackInputs(int64_t d, const PackedRows& packed, int64_t at, const VisibleSequences& rows) {
    const int64_t features = problem_.features;
    const S* inputs = static_cast<const S*>(call_.arguments[d].inputs) + call_.Time(d, packed.step) * features;
    PackBlock<kOuterRows<kInputVectors>>(
        directions_[d].left[kInputs], 0, features, features, rows.count, at, packed.depth,
        [&](int64_t i) { return inputs + rows.sequence[i] * problem_.time * features; });
  }

  void PackFed(int64_t d, const PackedRows& packed, int64_t at, const VisibleSequences& rows) {
    if constexpr (!kRounds) {  // calls that attend do not round
      PackBlock<kOuterRows<kInputVectors>>(directions_[d].left[kFed], 0, fed_.columns, fed_.columns, rows.count, at,
                                           packed.depth,
                                           [&](int64_t i) { return fed_.Row(packed.step, rows.sequence[i]); });
    }
  }

  // Packs h before the step as the recurrent kernel (`kHidden`) or the columns of the candidate (`kGatedHidden`)
  // multiply it. Computes some sequences and units at a time.
  void PackHidden(int64_t d, Left kind, const PackedRows& packed, int64_t at, const VisibleSequences& rows) {
    Element* left = directions_[d].left[kind];
    const int64_t units = call_.hidden_units, step = packed.step;
    constexpr int64_t kRows = 8, kColumns = 480, kStride = 512;
    static_assert(kColumns % kOuterRows<kRecurrentVectors> == 0 && kColumns % kOuterRows<kCandidateVectors> == 0);
    alignas(64) S hidden[kRows * kStride];
    const auto row = [&](int64_t i) { return hidden + i * kStride; };
    for (int64_t first = 0; first < rows.count; first += kRows) {
      const int64_t count = Smaller(kRows, rows.count - first);
      for (int64_t start = 0; start < units; start += kColumns) {
        const int64_t width = Smaller(kColumns, units - start);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t b = rows.sequence[first + i];
          for (int64_t unit = 0; unit < width; unit += L) {
            V value = call_.Drop(d, step, b, start + unit, call_.PreviousHidden(d, step, b, start + unit));
            if constexpr (Equations::kHasCandidateProduct) {
              const int64_t slot = b * kResidualSlots + Equations::kHiddenGateSlot;
              if (kind == kGatedHidden) value *= Load(call_.Residuals(d, step, start + unit) + slot * layout_.width);
            }
            StoreFirst(hidden + i * kStride + unit, value, L);
          }
        }
        if (kind == kHidden) {
          PackBlock<kOuterRows<kRecurrentVectors>>(left, start, width, units, count, at + first, packed.depth, row);
        } else {
          PackBlock<kOuterRows<kCandidateVectors>>(left, start, width, units, count, at + first, packed.depth, row);
        }
      }
    }
  }

  // packed: (tiles of R columns, `depth` rows, R), with D rows in an element. Packs `count` rows from row `at` on, and
  // `width` of the `columns` from column `start` on. `row(i)` points to column `start` of the i-th.
  template <int R, class Row>
  static void PackBlock(Element* packed, int64_t start, int64_t width, int64_t columns, int64_t count, int64_t at,
                        int64_t depth, const Row& row) {
    for (int64_t column = 0; column < width; column += R) {
      Element* tile = packed + (start + column) / R * CeilDiv(depth, D) * R;
      const int64_t valid = Smaller<int64_t>(R, columns - start - column);
      for (int64_t i = 0; i < count; ++i) {
        S* to = reinterpret_cast<S*>(tile + (at + i) / D * R) + (at + i) % D;
        const S* from = row(i) + column;
        if (valid == R) {
          for (int r = 0; r < R; ++r) to[r * D] = from[r];
        } else {
          for (int r = 0; r < R; ++r) to[r * D] = r < valid ? from[r] : S{};
        }
        if (D > 1 && at + i + 1 == depth && depth % D != 0) {
          for (int r = 0; r < R; ++r) to[r * D + 1] = S{};
        }
      }
    }
  }

  void InputGradients(int64_t d, int64_t begin, int64_t rows, int64_t blocks, int64_t item) {
    S* d_inputs = static_cast<S*>(gradients_[d].inputs);
    if (d_inputs == nullptr) return;
    const int64_t panel = item % input_panels_, block = item / input_panels_;
    const int64_t first = rows * block / blocks, count = rows * (block + 1) / blocks - first;
    const int64_t features = problem_.features;
    T sums[kRowBlock * kPanelVectors * L] = {};
    const Element* left[kRowBlock];
    T* sum_rows[kRowBlock];
    int64_t visible = 0;
    for (int64_t row = 0; row < count; ++row) {
      const int64_t step = begin + (first + row) / problem_.batch, b = (first + row) % problem_.batch;
      if (!Visible(problem_, b, call_.Time(d, step))) continue;
      const int64_t slot = b * kGradientSlots + Equations::kInputSlots.first;
      left[visible] = reinterpret_cast<const Element*>(call_.SlotGradients(d, step, 0) + slot * layout_.width);
      sum_rows[visible++] = sums + row * kPanelVectors * L;
    }
    call_.MultiplySlots(Equations::kInputSlots, visible, left, InputPanel(d, panel), sum_rows);
    for (int64_t row = 0; row < count; ++row) {
      const int64_t step = begin + (first + row) / problem_.batch, b = (first + row) % problem_.batch;
      S* to = d_inputs + (b * problem_.time + call_.Time(d, step)) * features;
      for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t column = (panel * kPanelVectors + v) * L;
        if (column < features) StoreFirst(to + column, Load(sums + (row * kPanelVectors + v) * L), features - column);
      }
    }
  }

  void KernelGradients(const Product& product, int64_t item) {
    const Gradients& gradients = gradients_[product.d];
    void* bias = Equations::kNormalizes ? nullptr : gradients.bias;  // `LayerNormBackward` has the gradients
    AddWeightGradients<kInputVectors>(product, item, Equations::kInputGradient, Equations::kInputSlots, kInputs,
                                      gradients.kernel, bias);
  }

  void RecurrentKernelGradients(const Product& product, int64_t item) {
    const Gradients& gradients = gradients_[product.d];
    S* bias = static_cast<S*>(gradients.bias);
    constexpr bool kHasRow = Equations::kHasRecurrentBias && !Equations::kNormalizes;
    if (bias != nullptr) bias = kHasRow ? bias + Equations::kGates * problem_.units : nullptr;
    AddWeightGradients<kRecurrentVectors>(product, item, Equations::kRecurrentGradient, Equations::kRecurrentSlots,
                                          kHidden, gradients.recurrent_kernel, bias);
  }

  void CandidateKernelGradients(const Product& product, int64_t item) {
    if constexpr (Equations::kHasCandidateProduct) {
      AddWeightGradients<kCandidateVectors>(product, item, Equations::kCandidate, Equations::kCandidateSlots,
                                            kGatedHidden, gradients_[product.d].recurrent_kernel, nullptr);
    }
  }

  // The rows of the kernel that multiply what attention feeds.
  void FedKernelGradients(const Product& product, int64_t item) {
    if (gradients_[product.d].kernel == nullptr) return;
    S* rows = static_cast<S*>(gradients_[product.d].kernel) + problem_.features * Equations::kGates * problem_.units;
    AddWeightGradients<kInputVectors>(product, item, Equations::kInputGradient, Equations::kInputSlots, kFed, rows,
                                      nullptr);
  }

  int64_t WeightPanels() const { return CeilDiv(problem_.units, Equations::kUnitVectors * L); }

  // Blocks of rows of a weight; one if it has none, for the bias.
  template <int NV>
  int64_t WeightBlocks(int64_t rows) const {
    const int64_t tiles = CeilDiv(rows, kOuterRows<NV>);
    return tiles < kTuning.outer_block ? 1 : CeilDiv(tiles, kTuning.outer_block);
  }

  template <int NV>
  int64_t WeightItems(int64_t rows) const {
    return WeightPanels() * WeightBlocks<NV>(rows);
  }

  // gradient (rows, all gates * units) += left' times the slot gradients, for a panel of columns and a block of rows.
  // `columns` says to which gate each of the `slots` belongs.
  template <int NV>
  void AddWeightGradients(const Product& product, int64_t item, const Columns& columns, const SlotRange& slots,
                          Left kind, void* gradient, void* bias) {
    constexpr int R = kOuterRows<NV>;
    const Direction& direction = directions_[product.d];
    const int64_t panel = item % WeightPanels(), block = item / WeightPanels();
    const int64_t row_count = LeftColumns(kind), depth = product.depth;
    const int64_t blocks = WeightBlocks<NV>(row_count), tiles = CeilDiv(row_count, R);
    const int64_t unit = panel * Equations::kUnitVectors * L, row_size = Equations::kGates * problem_.units;
    const ListedRows<S> right{call_.SlotGradients(product.d, 0, unit) + slots.first * layout_.width, direction.rows};
    const int64_t vector_stride = VectorStride<Equations, T>(layout_);
    const int64_t last = gradient == nullptr ? 0 : tiles * (block + 1) / blocks;  // null: only the bias is wanted
    for (int64_t tile = tiles * block / blocks; tile < last; ++tile) {
      alignas(64) T sums_of_chunk[R * NV * L];
      T* kept = direction.sums[kind];
      T* sums = kept == nullptr ? sums_of_chunk : kept + (tile * WeightPanels() + panel) * R * NV * L;
      const int64_t height = Smaller<int64_t>(R, row_count - tile * R);
      S* rows = static_cast<S*>(gradient) + tile * R * row_size;
      if (product.first_chunk || kept == nullptr) memset(sums, 0, R * NV * L * sizeof(T));
      if (!product.first_chunk && kept == nullptr) {
        ForEachVector<NV>(columns, unit, height, row_size, [&](int at, int64_t offset, int64_t count) {
          Store(sums + at, LoadFirst(rows + offset, count));
        });
      }
      OuterTile<R, NV>(direction.left[kind] + tile * CeilDiv(depth, D) * R, right, depth, vector_stride, sums);
      if (kept != nullptr && !product.last_chunk) continue;
      ForEachVector<NV>(columns, unit, height, row_size, [&](int at, int64_t offset, int64_t count) {
        StoreFirst(rows + offset, Load(sums + at), count);
      });
    }
    if (bias != nullptr && block == 0) AddBiasGradients<NV>(product, right, columns, unit, static_cast<S*>(bias));
  }

  // Calls function(offset in the sums of a tile, offset in the gradient, how many columns there are) for each vector of
  // a tile.
  template <int NV, class Function>
  void ForEachVector(const Columns& columns, int64_t unit, int64_t height, int64_t row_size, Function&& function) {
    for (int64_t r = 0; r < height; ++r) {
      for (int v = 0; v < NV; ++v) {
        const int64_t column_unit = unit + v / columns.gates * L;
        if (column_unit >= problem_.units) break;
        function(static_cast<int>((r * NV + v) * L),
                 r * row_size + columns.gate[v % columns.gates] * problem_.units + column_unit,
                 problem_.units - column_unit);
      }
    }
  }

  template <int NV>
  void AddBiasGradients(const Product& product, const ListedRows<S>& rows, const Columns& columns, int64_t unit,
                        S* bias) {
    alignas(64) T sums[NV * L] = {};
    const int64_t stride = VectorStride<Equations, T>(layout_);
    for (int64_t k = 0; k < product.depth; ++k) {
      for (int v = 0; v < NV; ++v) Store(sums + v * L, Load(sums + v * L) + LoadFirst(rows[k] + v * stride, L));
    }
    T* kept = KeptBias(product.d, bias);
    ForEachVector<NV>(columns, unit, 1, 0, [&](int at, int64_t offset, int64_t count) {
      const V sum = Load(sums + at) + (product.first_chunk ? V{} : LoadFirst(kept + offset, count));
      StoreFirst(kept + offset, sum, count);
      if (kRounds && product.last_chunk) StoreFirst(bias + offset, sum, count);
    });
  }

  // The sums of the biases at `bias`, over several chunks.
  T* KeptBias(int64_t d, S* bias) const {
    if constexpr (kRounds) {
      return directions_[d].bias_sums + (bias - static_cast<S*>(gradients_[d].bias));
    } else {
      return bias;
    }
  }

  const Call& call_;
  const Problem& problem_;
  const Gradients* gradients_;
  const int64_t direction_count_;
  const Layout layout_;
  const int64_t input_panels_;
  Left left_kinds_[kLeftCount] = {};
  int left_count_ = 0;
  FedRows<T> fed_;
  Direction* directions_ = nullptr;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_CHUNK_GRADIENTS_H_
