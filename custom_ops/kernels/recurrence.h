// SPDX-License-Identifier: Apache-2.0
// The recurrences over whole sequences, forward and backward: the only header that bindings include.
//
// Buffer contract. Every buffer is dense, row-major and aligned to its element; shapes stand beside the fields below.
// Outputs never alias inputs and need not be initialised; all of them are written, every element of the residuals too.
// Optional buffers are null where absent. Sizes may be zero. The caller has checked shapes: nothing here does. A call has
// any number of directions, one if it attends.
//
// gates is 1 for SimpleRNN, 3 for GRU (z, r, g), 4 for LSTM (i, f, g, o); states is 2 for LSTM (h, c), else 1 (h).
// Results do not depend, to the last bit, on the number of threads or on which thread does what.
#ifndef KERAS_SEQ_KERNELS_RECURRENCE_H_
#define KERAS_SEQ_KERNELS_RECURRENCE_H_

#include <cstdint>
#include <functional>
#include <vector>

namespace keras_seq {

enum class Cell { kSimpleRNN, kGRU, kLSTM };
enum class DataType { kFloat32, kFloat64, kBFloat16 };
enum class Activation { kTanh, kRelu, kLinear };  // of SimpleRNN; GRU and LSTM have tanh and sigmoid

// What the directions of a call have in common.
struct Problem {
  Cell cell;
  DataType dtype;
  Activation activation = Activation::kTanh;
  bool reset_after = true;  // of GRU
  int64_t batch, time, features, units;
  const bool* mask = nullptr;  // (batch, time), true = keep; a masked step carries the state. Each byte is 0 or 1

  // Whether each step looks at a memory first (Bahdanau, Cho & Bengio 2015), with additive attention:
  //   a_t = softmax_s(v . tanh(keys_s + h_{t-1} W_q)), context_t = sum_s a_ts memory_s, and the cell on [x_t, context_t].
  // A call that attends has one direction, and its kernel features + memory_units rows.
  bool attends = false;
  int64_t source = 0, memory_units = 0, attention_units = 0;
  const bool* memory_mask = nullptr;  // (batch, source), true = keep; a_t is 0 elsewhere, and all 0 where nothing is left
};

// A multiplier for each unit of a state: (batch, units), or (batch, time, units) where `per_step`.
struct UnitMask {
  const void* data = nullptr;
  bool per_step = false;
};

// The arguments of one direction.
struct Arguments {
  bool reverse = false;          // from the last step to the first; outputs keep the order of inputs
  const void* inputs;            // (batch, time, features)
  const void* kernel;            // (features, gates * units), or (features + memory_units, gates * units)
  const void* recurrent_kernel;  // (units, gates * units)
  const void* bias = nullptr;    // (gates * units), or (2, 3 * units) of a GRU with reset_after
  const void* initial_state[2] = {nullptr, nullptr};  // (batch, units) each; zeros where null
  UnitMask recurrent_dropout_mask;  // multiplies the previous h in every recurrent product
  UnitMask zoneout[2];         // m of a state: s_t = m * s_{t-1} + (1 - m) * (what the cell computed)
  // Of attention:
  const void* memory = nullptr;        // (batch, source, memory_units)
  const void* keys = nullptr;          // (batch, source, attention_units)
  const void* query_kernel = nullptr;  // W_q, (units, attention_units)
  const void* score_vector = nullptr;  // v, (attention_units)
};

// What the forward pass writes.
struct Results {
  void* outputs;            // h of every step, (batch, time, units)
  void* final_state[2];     // (batch, units) each
  void* residuals = nullptr;  // what the backward pass needs beside outputs; null to keep nothing
  void* attention_weights = nullptr;  // a of every step, (batch, time, source); zero where it is masked
};

// The gradients that arrive; null is zero.
struct Upstream {
  const void* outputs = nullptr;                    // (batch, time, units)
  const void* final_state[2] = {nullptr, nullptr};  // (batch, units) each
  const void* attention_weights = nullptr;                 // (batch, time, source)
};

// The gradients that the backward pass writes; a null one is not computed (bias is null where there is none).
struct Gradients {
  void* inputs;
  void* kernel;
  void* recurrent_kernel;
  void* bias = nullptr;
  void* initial_state[2] = {nullptr, nullptr};
  void *memory = nullptr, *keys = nullptr, *query_kernel = nullptr, *score_vector = nullptr;
};

// Where the work runs. The calling thread takes part; `schedule` may start a task late, or after the call returned.
struct Executor {
  int threads = 1;  // that may work at once, the caller among them
  std::function<void(std::function<void()>)> schedule;
};

int Gates(Cell cell);
int States(Cell cell);

// The size of `residuals` of one direction, in elements of float64 for float64, else of float32.
int64_t ResidualSize(const Problem& problem);

// Returns false where memory ran out; outputs are then undefined.
bool Forward(const Problem& problem, const std::vector<Arguments>& arguments, const std::vector<Results>& results,
             const Executor& executor);

// `results` are those of the forward pass, of which `outputs`, `attention_weights` and `residuals` are read. Where `residuals` is null the
// forward pass runs again.
bool Backward(const Problem& problem, const std::vector<Arguments>& arguments, const std::vector<Results>& results,
              const std::vector<Upstream>& upstream, const std::vector<Gradients>& gradients,
              const Executor& executor);

// The instruction set that runs: "avx512_bf16", "avx512", "avx2" or "portable". The environment variable
// KERAS_SEQ_ISA asks for one, read at the first call; an unknown one, or one that the CPU lacks, is an error.
// Returns null, with the reason in `error`, where it cannot be had.
const char* InstructionSet(const char** error);

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_RECURRENCE_H_
