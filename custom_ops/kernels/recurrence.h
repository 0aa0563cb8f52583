// SPDX-License-Identifier: Apache-2.0
// Recurrences over whole sequences, forward and backward: the only header of the kernels that bindings include.
//
// Buffer contract. Every buffer is dense, row-major and aligned to its element; the comment at each field gives its
// shape. Sizes may be zero. Optional buffers may be null, and those that the call does not have must be: c of a cell
// without it, and those of attention if the call does not attend. An output buffer must not alias an input and need not
// be initialised: a call that succeeds writes every element of every output that is not null. This includes the
// residuals. Their padding is zeros; of a masked step they hold zeros too, except for c, which the step carries over.
// The kernels check nothing; the caller checks shapes. A call has any number of directions, but only one if it attends.
//
// Results are bitwise equal for any number of threads.
#ifndef KERAS_SEQ_KERNELS_RECURRENCE_H_
#define KERAS_SEQ_KERNELS_RECURRENCE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cell_table.h"

namespace keras_seq {

enum class DataType { kFloat32, kFloat64, kBFloat16 };

enum class Score { kAdditive, kDot };  // what energies are computed from queries and keys

// How attention weights follow from energies. "monotonic" and "hard" are the expected and the decided position of a
// reader who never turns back (Raffel et al. 2017), with a_{t-1} the attention weights of the step before:
//   kMonotonic  p_ts = sigmoid(e_ts), reach_ts = reach_t,s-1 (1 - p_t,s-1) + a_{t-1},s, a_ts = p_ts reach_ts
//   kHard       a_ts = 1 at the first s with e_ts > 0 at which or before which a_{t-1} is not 0, else 0; it has no
//               derivative
enum class Weighting { kSoftmax, kMonotonic, kHard };

inline constexpr const char* kWeightingNames[] = {"softmax", "monotonic", "hard"};

inline constexpr const char* kScoreNames[] = {"additive", "dot"};  // in the order of Score

// What all directions of a call share.
struct Problem {
  CellKind cell;
  DataType dtype;
  Activation activation = Activation::kTanh;
  Activation recurrent_activation = Activation::kSigmoid;  // of the gates, if the cell has any
  bool reset_after = true;
  int64_t batch, time, features, units;
  // (batch, time), bytes 0 or 1, 1 = keep. A masked step leaves the state as it was, and its output is that h.
  const bool* mask = nullptr;

  // Whether `inputs` are the products with `kernel`, which is then null: (batch, time, gates * units), without the bias.
  // `features` is 0. So is `memory_units` of a call that attends before the cell; its memory is (.., source, gates *
  // units), the products with the rows of the kernel for the contexts. If it attends after the cell, `inputs` are all
  // that the cell reads, and no step reads what attention feeds.
  bool multiplied = false;

  // Whether the products and c are normalized (layer normalization, Ba et al. 2016). The gains are extra weights. Only
  // GRU and LSTM have it. What attention feeds is part of the input product.
  bool layer_norm = false;

  // Whether h is a product with the projection kernel (Sak et al. 2014), of `projection_units` units. Only the LSTM has
  // it.
  bool projects = false;
  int64_t projection_units = 0;

  // Whether each step first attends to a memory:
  //   a_t = softmax_s(e_ts), context_t = sum_s a_ts memory_s.
  // The cell's input is then [x_t, context_t]. The energies are e_ts = v . tanh(keys_s + h_{t-1} W_q) with the additive
  // score (Bahdanau, Cho & Bengio 2015), and keys_s . h_{t-1} with the dot score (Luong, Pham & Manning 2015). The
  // latter has no W_q and no v, and its `attention_units` are `units`.
  bool attends = false;
  Score score = Score::kAdditive;
  int64_t source = 0, memory_units = 0, attention_units = 0;
  // Whether the energies depend on the coverage, the sum of the attention weights of earlier steps (See, Liu & Manning
  // 2017). With w_c, the coverage kernel, e_ts = v . tanh(keys_s + h_{t-1} W_q + w_c coverage_ts). Additive only.
  bool covers = false;
  Weighting weighting = Weighting::kSoftmax;  // the others with the additive score only, and without coverage
  // Whether each step attends after the cell instead, with h_t in the place of h_{t-1}, and feeds the next step (input
  // feeding, Luong, Pham & Manning 2015). The cell's input is then [x_t, fed_{t-1}], with fed_t = context_t or, if
  // there is an attentional kernel W_a, the attentional vector tanh([h_t, context_t] W_a), without tanh if it is
  // `linear`. A masked step hands `fed` on.
  bool attends_after = false;
  bool attentional = false, linear = false;
  int64_t attentional_units = 0;  // 0 without W_a
  // How many neighbouring sequences attend to the same memory: the beams of a search. It divides `batch`. The backward
  // pass takes only 1.
  int64_t sequences_per_memory = 1;
  // (memories, source), bytes 0 or 1, 1 = keep. a_t is 0 at masked positions, and 0 everywhere if all are masked.
  const bool* memory_mask = nullptr;
};

// The units of h. Where comments give the shape of h, its gradient or its masks, or of a kernel that multiplies h,
// `units` stands for these.
static inline int64_t HiddenUnits(const Problem& problem) {
  return problem.projects ? problem.projection_units : problem.units;
}

// A mask, which is a factor for each unit of a state: (batch, units), or (batch, time, units) if `per_step`.
struct UnitMask {
  const void* data = nullptr;
  bool per_step = false;
};

// The weights of one direction in the layout that the kernels read. Calls with the same weights can share it.
struct PackedWeights;

// The arguments of one direction. For gates and states see CellTraits; arrays with one entry for each state hold h, c.
struct Arguments {
  bool reverse = false;             // run from the last step to the first; outputs keep the order of inputs
  const void* inputs;               // (batch, time, features)
  const void* kernel;               // (features, gates * units); if the call attends, features + fed units
  const void* recurrent_kernel;     // (units, gates * units)
  const void* bias = nullptr;       // (gates * units), or (2, gates * units) for a cell with two biases
  const void* initial_state[2] = {nullptr, nullptr};  // (batch, units) each; null means zeros
  UnitMask recurrent_dropout_mask;  // multiplies the previous h in the recurrent products
  UnitMask zoneout_masks[2];              // m of a state: s_t = m * s_{t-1} + (1 - m) * (the new state of the cell)
  // Attention:
  const void* memory = nullptr;        // (memories, source, memory_units), memories = batch / sequences_per_memory
  const void* keys = nullptr;          // (memories, source, attention_units)
  const void* query_kernel = nullptr;  // W_q, (units, attention_units); null with the dot score
  const void* score_vector = nullptr;  // v, (attention_units); likewise
  const void* coverage_kernel = nullptr;   // w_c, (attention_units); null without coverage, as the next
  const void* initial_coverage = nullptr;  // (batch, source)
  // What is added to the energies, (batch, time, source), and a_0, (batch, source); null with a softmax.
  const void *energy_bias = nullptr, *initial_weights = nullptr;
  // If the call attends after the cell:
  const void* initial_fed = nullptr;         // (batch, fed units), what the first step reads
  const void* attentional_kernel = nullptr;  // W_a, (units + memory_units, attentional_units), or null
  // In the order of ExtraWeight, null where absent. The peephole kernel is (3, units), for the gates i, f, o; the
  // projection kernel (units, projection_units); gains and shift of layer normalization are (gates * units) for the
  // products with the kernels, and (units) for c.
  const void* extra_weights[kExtraWeightCount] = {};
  // What `Pack` made of the weights above, or null: then the call packs them. The forward pass reads it.
  std::shared_ptr<const PackedWeights> packed;
};

// The results of one direction. The forward pass writes those that are not null.
struct Results {
  void* outputs;                      // h of every step, (batch, time, units)
  void* final_state[2];               // (batch, units) each
  void* residuals = nullptr;          // ResidualSize elements: what the backward pass needs beside the other results
  void* attention_weights = nullptr;  // a of every step, (batch, time, source); zeros where a step is masked
  void* fed = nullptr;                // if the call attends after the cell, (batch, time, fed units)
  void* final_fed = nullptr;          // (batch, fed units)
  void* final_coverage = nullptr;     // (batch, source)
  void* final_weights = nullptr;      // (batch, source), unless the weights are a softmax
};

// The upstream gradients of the results. Null means zeros.
struct Upstream {
  const void* outputs = nullptr;                    // (batch, time, units)
  const void* final_state[2] = {nullptr, nullptr};  // (batch, units) each
  const void* attention_weights = nullptr;          // (batch, time, source)
  const void* fed = nullptr;                        // (batch, time, fed units)
  const void* final_fed = nullptr;                  // (batch, fed units)
  const void* final_coverage = nullptr;             // (batch, source)
  const void* final_weights = nullptr;              // (batch, source)
};

// The gradients of the arguments, in their shapes. The backward pass computes those that are not null.
struct Gradients {
  void* inputs;
  void* kernel;
  void* recurrent_kernel;
  void* bias = nullptr;
  void* initial_state[2] = {nullptr, nullptr};
  void *memory = nullptr, *keys = nullptr, *query_kernel = nullptr, *score_vector = nullptr;
  void *initial_fed = nullptr, *attentional_kernel = nullptr, *coverage_kernel = nullptr, *initial_coverage = nullptr;
  void *energy_bias = nullptr, *initial_weights = nullptr;
  void* extra_weights[kExtraWeightCount] = {};
};

// Where the work runs. The calling thread takes part. `schedule` may start a task late, even after the call returned.
struct Executor {
  int threads = 1;  // how many threads may work at once, including the caller
  std::function<void(std::function<void()>)> schedule;
};

// Those of CellTraits. Not inline: isa/ calls them, and the linker would merge copies for different instruction sets.
int Gates(CellKind cell);
int States(CellKind cell);

// Whether the memory of a call that attends is products with the kernel.
static inline bool HasMemoryProducts(const Problem& problem) { return problem.multiplied && !problem.attends_after; }

// How many numbers a step of attention feeds to the cell, beside its inputs; 0 if the call does not attend.
int64_t FedUnits(const Problem& problem);

// The number of elements of an extra weight.
int64_t ExtraWeightSize(const Problem& problem, ExtraWeight weight);

// The number of elements of `residuals` of one direction; they are float64 if the call is, else float32.
int64_t ResidualSize(const Problem& problem);

// Packs the kernels, the bias and the score vector of a direction for forward passes with this cell, these sizes
// (except batch, time and source) and this type. Returns null if memory ran out.
std::shared_ptr<const PackedWeights> Pack(const Problem& problem, const Arguments& arguments,
                                          const Executor& executor);

// Returns false if memory ran out; what it wrote is then undefined.
bool Forward(const Problem& problem, const std::vector<Arguments>& arguments, const std::vector<Results>& results,
             const Executor& executor);

// Reads `outputs`, `attention_weights`, `fed` and `residuals` of the forward pass's `results`. If the residuals are
// null, it runs the forward pass again to recompute them. Either all directions have residuals or none has. Returns
// false if memory ran out; what it wrote is then undefined.
bool Backward(const Problem& problem, const std::vector<Arguments>& arguments, const std::vector<Results>& results,
              const std::vector<Upstream>& upstream, const std::vector<Gradients>& gradients,
              const Executor& executor);

// A matrix product of float32 or float64: outputs (rows, columns) = inputs (rows, depth) times kernel (depth, columns).
struct Product {
  DataType dtype;
  int64_t rows, depth, columns;
  const void *inputs, *kernel;
  void* outputs;
  std::shared_ptr<const PackedWeights> packed;  // what `PackProduct` made of the kernel, or null: then the call packs it
};

// As `Pack` and `Forward`.
std::shared_ptr<const PackedWeights> PackProduct(const Product& product);
bool Multiply(const Product& product, const Executor& executor);

// The instruction set that the kernels use: "avx512_bf16", "avx512", "avx2" or "portable". It is chosen at the first
// call: the best that this CPU has, or the one in the environment variable KERAS_SEQ_ISA. Returns null if that one is
// unknown or this CPU lacks it, and writes the reason to `error` if that is not null.
const char* InstructionSet(const char** error);

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_RECURRENCE_H_
