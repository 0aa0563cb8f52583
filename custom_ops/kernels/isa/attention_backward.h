// SPDX-License-Identifier: Apache-2.0
// What `BackwardPass` does when the call attends, and the same interface without attention.
//
// Between the slot gradients of a step and those of the step before it lies the attention of one of the two: before the
// cell that of the same step, after the cell that of the step before.
#ifndef KERAS_SEQ_KERNELS_ISA_ATTENTION_BACKWARD_H_
#define KERAS_SEQ_KERNELS_ISA_ATTENTION_BACKWARD_H_

#include "attention_gradients.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class T>
class NoAttentionBackward {
 public:
  NoAttentionBackward(const Problem&, const Layout&, const Arguments&, const Results&, const Upstream&,
                      const Gradients&) {}
  void Allocate(Workspace&, const T*) {}
  FedRows<T> AllFedRows() const { return {}; }
  void Prepare(Worker&) {}
  template <class MultiplySlots>
  void DifferentiateStep(Worker&, int64_t, const MultiplySlots&) {}
  void AddHiddenGradients(int64_t, int64_t, int64_t, T*, int64_t) {}
  void DifferentiateWeights(Worker&) {}
};

template <class Equations, class T>
class MemoryAttentionBackward {
  static constexpr int L = kLanes<T>;

 public:
  // `layout` is that of the cell.
  MemoryAttentionBackward(const Problem& problem, const Layout& layout, const Arguments& arguments,
                          const Results& results, const Upstream& upstream, const Gradients& gradients)
      : problem_(problem),
        layout_(layout),
        arguments_(arguments),
        results_(results),
        fed_units_(FedUnits(problem)),
        fed_panels_(CeilDiv(FedUnits(problem), kPanelVectors * L)),
        attention_(problem, arguments, results, upstream, gradients) {}

  // `residuals` points behind the residuals of the cell.
  void Allocate(Workspace& workspace, const T* residuals) {
    attention_.Allocate(workspace, residuals);
    kernel_ = workspace.Allocate<T>(fed_panels_ * KernelPanelSize());
  }

  FedRows<T> AllFedRows() const { return attention_.AllFedRows(); }

  // Packs the weights.
  void Prepare(Worker& worker) {
    attention_.Prepare(worker);
    const T* kernel = static_cast<const T*>(arguments_.kernel) + problem_.features * Equations::kGates * problem_.units;
    worker.ForEach(fed_panels_, [&](int64_t panel) {
      PackTransposed(kernel, fed_units_, layout_, Equations::kGates, Equations::kInputGradient, panel,
                     kernel_ + panel * KernelPanelSize());
    });
  }

  // From the slot gradients of a step to those of what attention feeds to it, and on to those of the queries of
  // `AttentionStep(step)`. `step` is that of `BackwardSteps::StepBack`. `multiply_slots(block, kernel, sums)` adds the
  // product of the slot gradients of a block of sequences and of a panel of a transposed kernel.
  template <class MultiplySlots>
  void DifferentiateStep(Worker& worker, int64_t step, const MultiplySlots& multiply_slots) {
    if (step == problem_.time && !problem_.attends_after) return;
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(fed_panels_ * blocks, [&](int64_t item) {
      const int64_t panel = item / blocks, block = item % blocks, first = block * kRowBlock;
      T sums[kRowBlock * kPanelVectors * L] = {};
      if (step < problem_.time) multiply_slots(block, kernel_ + panel * KernelPanelSize(), sums);
      for (int64_t b = first; b < BlockEnd(problem_, block); ++b) {
        for (int v = 0; v < kPanelVectors; ++v) {
          const int64_t unit = (panel * kPanelVectors + v) * L;
          attention_.TakeFedGradient(step, b, unit,
                                     KeepFirst<T>(Load(sums + ((b - first) * kPanelVectors + v) * L),
                                                  fed_units_ - unit));
        }
      }
    });
    if (!Attends(step)) return;
    attention_.DifferentiateAttentional(worker, AttentionStep(step));
    attention_.DifferentiateQueries(worker, AttentionStep(step));
  }

  void AddHiddenGradients(int64_t step, int64_t panel, int64_t block, T* d_hidden, int64_t row_size) {
    if (Attends(step)) attention_.AddHiddenGradients(AttentionStep(step), panel, block, d_hidden, row_size);
  }

  void DifferentiateWeights(Worker& worker) {
    attention_.DifferentiateWeights(worker, HiddenBefore<T, T>{problem_, arguments_, results_, problem_.attends_after});
  }

 private:
  int64_t KernelPanelSize() const { return Equations::kInputSlots.count * layout_.padded * kPanelVectors * L; }

  // The step whose attention lies between the slot gradients of `step` and those of the step before it.
  int64_t AttentionStep(int64_t step) const { return problem_.attends_after ? step - 1 : step; }
  bool Attends(int64_t step) const { return AttentionStep(step) >= 0 && AttentionStep(step) < problem_.time; }

  const Problem& problem_;
  const Layout layout_;
  const Arguments& arguments_;
  const Results& results_;
  const int64_t fed_units_, fed_panels_;
  AttentionGradients<T> attention_;
  T* kernel_ = nullptr;  // the rows of the kernel that multiply what attention feeds; transposed, in panels
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_BACKWARD_H_
