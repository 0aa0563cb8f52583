// SPDX-License-Identifier: Apache-2.0
// What the backward pass of a cell with a projected state does beside that of the cell: h = (full h) P.
#ifndef KERAS_SEQ_KERNELS_ISA_PROJECTION_BACKWARD_H_
#define KERAS_SEQ_KERNELS_ISA_PROJECTION_BACKWARD_H_

#include "../team.h"
#include "attention_memory.h"
#include "backward_call.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// Of a cell without a projection: nothing.
template <class Equations, class T, bool = Equations::kProjects>
class ProjectionBackward {
 public:
  template <class Call>
  explicit ProjectionBackward(const Call&) {}
  void Allocate(Workspace&) {}
  void Prepare(int64_t) {}
  void AddWeightGradients(Worker&, int64_t, int64_t) {}
};

template <class Equations, class T>
class ProjectionBackward<Equations, T, true> {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kTile = kTileRows<kPanelVectors>;

 public:
  // `call` must outlive this object.
  explicit ProjectionBackward(const BackwardCall<Equations, T>& call)
      : call_(call),
        problem_(call.problem),
        layout_(call.layout),
        projected_layout_(call.problem.batch, call.hidden_units, kPanelVectors) {}

  void Allocate(Workspace& workspace) {
    const int64_t batch = problem_.batch;
    directions_ = workspace.Allocate<Direction>(call_.direction_count);
    if (!workspace.ok()) return;
    for (int64_t d = 0; d < call_.direction_count; ++d) {
      directions_[d].kernel = workspace.Allocate<T>(panels() * PanelElements());
      directions_[d].gradients = workspace.AllocateZeros<T>((call_.chunk + 1) * batch * projected_layout_.padded);
      directions_[d].full = workspace.AllocateZeros<T>(batch * layout_.padded);
      directions_[d].left = workspace.Allocate<T>(call_.chunk * batch * (problem_.units + kTile));
      directions_[d].rows = workspace.Allocate<int64_t>(call_.chunk * batch);
    }
  }

  // Panels of the full h.
  int64_t panels() const { return CeilDiv(problem_.units, kPanelVectors * L); }

  // Packs the transposed projection kernel.
  void Prepare(int64_t d) {
    for (int64_t panel = 0; panel < panels(); ++panel) {
      PackTransposed(static_cast<const T*>(call_.arguments[d].extra_weights[kProjectionKernel]), problem_.units,
                     projected_layout_, 1, kPlainColumns, panel, directions_[d].kernel + panel * PanelElements());
    }
  }

  // The gradients of the projections of a sequence, padded.
  T* Gradients(int64_t d, int64_t step, int64_t b) const {
    return directions_[d].gradients + (step % (call_.chunk + 1) * problem_.batch + b) * projected_layout_.padded;
  }

  // A row of scratch memory for the gradients of the full h.
  T* FullHiddenGradients(int64_t d, int64_t b) const { return directions_[d].full + b * layout_.padded; }

  // sums = the gradients of a panel of the full h, for a block of sequences; of masked ones zeros.
  __attribute__((noinline)) void Multiply(int64_t d, int64_t step, int64_t panel, int64_t block, T* sums) const {
    const VisibleSequences rows(problem_, block, call_.Time(d, step));
    memset(sums, 0, kRowBlock * kPanelVectors * L * sizeof(T));
    const T* left[kRowBlock];
    T* sum_rows[kRowBlock];
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = Gradients(d, step, rows.sequence[i]);
      sum_rows[i] = sums + (rows.sequence[i] - block * kRowBlock) * kPanelVectors * L;
    }
    MultiplyRows<kPanelVectors>(Rows<T>{left, projected_layout_.padded, 0, 1}, rows.count,
                                directions_[d].kernel + panel * PanelElements(), sum_rows, L, nullptr);
  }

  // gradient (units, projection units) += full h' times the gradients of the projections, over the steps [begin, end).
  void AddWeightGradients(Worker& worker, int64_t begin, int64_t end) {
    const int64_t tiles = CeilDiv(problem_.units, kTile), groups = CeilDiv(tiles, kTilesOfItem);
    worker.ForEach(call_.direction_count * groups, [&](int64_t item) {
      const int64_t d = item / groups, group = item % groups;
      if (GradientOf(d) == nullptr) return;
      const int64_t last = Smaller(tiles, (group + 1) * kTilesOfItem);
      for (int64_t tile = group * kTilesOfItem; tile < last; ++tile) PackTile(d, begin, end, tile);
      if (group == 0) ListRows(d, begin, end);
    });
    const int64_t column_panels = CeilDiv(call_.hidden_units, kPanelVectors * L);
    worker.ForEach(call_.direction_count * groups * column_panels, [&](int64_t item) {
      const int64_t d = item / groups / column_panels, group = item / column_panels % groups;
      if (GradientOf(d) == nullptr) return;
      const int64_t last = Smaller(tiles, (group + 1) * kTilesOfItem);
      for (int64_t tile = group * kTilesOfItem; tile < last; ++tile) {
        AddTile(d, begin, end, tile, item % column_panels);
      }
    });
  }

 private:
  static constexpr int64_t kTilesOfItem = 4;

  struct Direction {
    T* kernel;      // transposed, in panels
    T* gradients;   // (chunk + 1 steps in turn, batch, padded projection units)
    T* full;        // (batch, padded)
    T* left;        // the full h of a chunk: (tiles, visible rows, kTile)
    int64_t* rows;  // the offsets of the gradients of the visible rows
  };

  int64_t PanelElements() const { return projected_layout_.padded * kPanelVectors * L; }

  T* GradientOf(int64_t d) const {
    return static_cast<T*>(call_.gradients[d].extra_weights[kProjectionKernel]);
  }

  // Calls function(step, b) for each visible row, from the first step on, and returns how many there are.
  template <class Function>
  int64_t ForEachRow(int64_t d, int64_t begin, int64_t end, const Function& function) const {
    int64_t count = 0;
    for (int64_t step = begin; step < end; ++step) {
      for (int64_t b = 0; b < problem_.batch; ++b) {
        if (!Visible(problem_, b, call_.Time(d, step))) continue;
        function(count++, step, b);
      }
    }
    return count;
  }

  T* Left(int64_t d, int64_t tile) const { return directions_[d].left + tile * call_.chunk * problem_.batch * kTile; }

  void PackTile(int64_t d, int64_t begin, int64_t end, int64_t tile) {
    constexpr int kSlots = Equations::kResidualSlots;
    T* left = Left(d, tile);
    ForEachRow(d, begin, end, [&](int64_t at, int64_t step, int64_t b) {
      for (int r = 0; r < kTile; ++r) {
        const int64_t unit = tile * kTile + r, slot = b * kSlots + Equations::kFullHiddenSlot;
        left[at * kTile + r] =
            unit < problem_.units ? call_.Residuals(d, step, unit)[slot * layout_.width] : T{};
      }
    });
  }

  void ListRows(int64_t d, int64_t begin, int64_t end) {
    ForEachRow(d, begin, end, [&](int64_t at, int64_t step, int64_t b) {
      directions_[d].rows[at] = Gradients(d, step, b) - directions_[d].gradients;
    });
  }

  void AddTile(int64_t d, int64_t begin, int64_t end, int64_t tile, int64_t panel) {
    const int64_t units = call_.hidden_units, first = panel * kPanelVectors * L;
    const int64_t depth = ForEachRow(d, begin, end, [](int64_t, int64_t, int64_t) {});
    const ListedRows<T> right{directions_[d].gradients + first, directions_[d].rows};
    alignas(64) T sums[kTile * kPanelVectors * L] = {};
    const auto for_each_vector = [&](const auto& function) {
      for (int64_t r = 0; r < Smaller<int64_t>(kTile, problem_.units - tile * kTile); ++r) {
        for (int v = 0; v < kPanelVectors && first + v * L < units; ++v) {
          function(sums + (r * kPanelVectors + v) * L, GradientOf(d) + (tile * kTile + r) * units + first + v * L,
                   units - first - v * L);
        }
      }
    };
    if (end < problem_.time) {
      for_each_vector([](T* sum, const T* from, int64_t count) { Store(sum, LoadFirst(from, count)); });
    }
    OuterTile<kTile, kPanelVectors>(Left(d, tile), right, depth, L, sums);
    for_each_vector([](const T* sum, T* to, int64_t count) { StoreFirst(to, Load(sum), count); });
  }

  const BackwardCall<Equations, T>& call_;
  const Problem& problem_;
  const Layout layout_, projected_layout_;
  Direction* directions_ = nullptr;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_PROJECTION_BACKWARD_H_
