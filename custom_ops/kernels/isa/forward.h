// SPDX-License-Identifier: Apache-2.0
// The forward pass: for a chunk of steps at a time, the input product and then the steps.
#ifndef KERAS_SEQ_KERNELS_ISA_FORWARD_H_
#define KERAS_SEQ_KERNELS_ISA_FORWARD_H_

#include "forward_steps.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// `S` is the type of the caller's buffers, `Element` what a product multiplies. `Attention` is one of attention.h.
template <class Equations, class S, class Element, class Attention>
class ForwardPass {
  using T = typename ProductTypes<Element>::Sum;

 public:
  // Everything that the pass allocates is in `workspace`, packed weights too.
  ForwardPass(const Problem& problem, const Arguments* arguments, const Results* results, int64_t direction_count,
              Workspace& workspace)
      : problem_(problem),
        workspace_(workspace),
        steps_(problem, arguments, results, direction_count),
        attention_(problem, steps_.packing().layout, steps_.packing().hidden_padded, arguments[0], results[0]) {}

  bool Allocate() {
    if (!steps_.Allocate(workspace_)) return false;
    attention_.Allocate(workspace_, steps_.ResidualsEnd(0));
    return workspace_.ok();
  }

  // Writes where the packed weights of direction 0 are.
  void Export(PackedWeights* packed) const {
    steps_.Export(packed);
    attention_.Export(packed);
  }

  // The program of every worker.
  void Run(Worker& worker) {
    attention_.Prepare(worker);
    steps_.Prepare(worker);
    for (int64_t begin = 0; begin < problem_.time; begin += steps_.chunk()) {
      const int64_t end = Smaller(begin + steps_.chunk(), problem_.time);
      steps_.MultiplyInputs(worker, begin, end);
      for (int64_t step = begin; step < end; ++step) {
        attention_.AttendBefore(worker, step, steps_.Hidden(0));
        steps_.RunStep(worker, step, attention_);
        attention_.AttendAfter(worker, step, steps_.Hidden(0));
      }
    }
    steps_.StoreFinalStates(worker);
    attention_.StoreFinalStates(worker);
  }

 private:
  const Problem& problem_;
  Workspace& workspace_;
  ForwardSteps<Equations, S, Element> steps_;
  typename Attention::template Forward<Equations, T> attention_;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_FORWARD_H_
