// SPDX-License-Identifier: Apache-2.0
// Backpropagation through time: the steps of a chunk from last to first, then the gradients of inputs and weights for
// the whole chunk, while its slot gradients are in cache.
#ifndef KERAS_SEQ_KERNELS_ISA_BACKWARD_H_
#define KERAS_SEQ_KERNELS_ISA_BACKWARD_H_

#include "backward_steps.h"
#include "chunk_gradients.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// `S` is the type of the caller's buffers, `Element` what a product multiplies. `Attention` is one of attention.h.
template <class Equations, class S, class Element, class Attention>
class BackwardPass {
  using T = typename ProductTypes<Element>::Sum;

 public:
  BackwardPass(const Problem& problem, const Arguments* arguments, const Results* results, const Upstream* upstream,
               const Gradients* gradients, int64_t direction_count)
      : call_(problem, arguments, results, upstream, gradients, direction_count),
        steps_(call_),
        chunk_gradients_(call_),
        attention_(problem, call_.layout, arguments[0], results[0], upstream[0], gradients[0]) {}

  bool Allocate() {
    if (!call_.Allocate(workspace_) || !steps_.Allocate(workspace_)) return false;
    attention_.Allocate(workspace_, call_.Residuals(0, call_.problem.time, 0));
    return chunk_gradients_.Allocate(workspace_, attention_.AllFedRows());
  }

  // The program of every worker.
  void Run(Worker& worker) {
    attention_.Prepare(worker);
    Prepare(worker);
    const int64_t time = call_.problem.time;
    steps_.StepBack(worker, time, attention_);
    for (int64_t end = time, begin;; end = begin) {
      begin = end > call_.chunk ? end - call_.chunk : 0;
      for (int64_t step = end - 1; step > begin; --step) steps_.StepBack(worker, step, attention_);
      chunk_gradients_.Compute(worker, begin, end);
      steps_.AddProjectionGradients(worker, begin, end);
      if (end > 0) steps_.StepBack(worker, begin, attention_);
      if (begin == 0) break;
    }
    steps_.StoreSums(worker);
    attention_.DifferentiateWeights(worker);
  }

 private:
  void Prepare(Worker& worker) {
    const int64_t chunk_items = chunk_gradients_.PrepareItems(), items = chunk_items + steps_.PrepareItems();
    worker.ForEach(call_.direction_count * items, [&](int64_t item) {
      const int64_t d = item / items;
      item %= items;
      if (item < chunk_items) {
        chunk_gradients_.Prepare(d, item);
      } else {
        steps_.Prepare(d, item - chunk_items);
      }
    });
  }

  BackwardCall<Equations, S, Element> call_;
  BackwardSteps<Equations, S, Element> steps_;
  ChunkGradients<Equations, S, Element> chunk_gradients_;
  typename Attention::template Backward<Equations, T> attention_;
  Workspace workspace_;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_BACKWARD_H_
