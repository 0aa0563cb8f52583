// SPDX-License-Identifier: Apache-2.0
// What `ForwardPass` does before each step of the cell when the call attends, and the same interface without attention.
//
// A step has two phases, one by panels of the query's columns and one by sequences. The tanh of all source positions
// stays in registers; the backward pass computes it again. The queries and contexts of all steps are residuals, after
// those of the cell.
#ifndef KERAS_SEQ_KERNELS_ISA_ATTENTION_FORWARD_H_
#define KERAS_SEQ_KERNELS_ISA_ATTENTION_FORWARD_H_

#include "../packed_weights.h"
#include "../team.h"
#include "../workspace.h"
#include "attention_memory.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class T>
class NoAttentionForward {
 public:
  NoAttentionForward(const Problem&, const Layout&, const Arguments&, const Results&) {}
  void Allocate(Workspace&, T*) {}
  void Export(PackedWeights*) const {}
  void Prepare(Worker&) {}
  void ComputeContexts(Worker&, int64_t, const T*) {}
  void AddContextProducts(int64_t, int64_t, int64_t, T*, int64_t) const {}
};

// Queries, attention weights and contexts. Nothing here depends on the cell.
template <class T>
class AttentionContexts {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;

 public:
  // `depth` is the size of a row of h, padding included.
  AttentionContexts(const Problem& problem, int64_t depth, const Arguments& arguments, const Results& results)
      : problem_(problem),
        arguments_(arguments),
        results_(results),
        memory_(problem, arguments),
        depth_(depth),
        query_panels_(PanelCount(kPlainColumns, problem.attention_units, L)) {}

  // `residuals` points behind the residuals of the cell; null if none are kept.
  void Allocate(Workspace& workspace, T* residuals) {
    const int64_t batch = problem_.batch;
    keeps_residuals_ = residuals != nullptr;
    if (arguments_.packed == nullptr) {
      query_kernel_ = workspace.Allocate<T>(query_panels_ * PanelSize<T>(depth_, kPanelVectors));
      score_vector_ = workspace.AllocateZeros<T>(memory_.padded_attention);
    } else {
      query_kernel_ = static_cast<T*>(arguments_.packed->query_kernel);
      score_vector_ = static_cast<T*>(arguments_.packed->score_vector);
    }
    queries_ = keeps_residuals_ ? residuals : workspace.Allocate<T>(batch * memory_.padded_attention);
    contexts_ = keeps_residuals_ ? residuals + memory_.QueriesSize(problem_)
                                 : workspace.Allocate<T>(batch * memory_.padded_units);
    attention_weights_ = static_cast<T*>(results_.attention_weights);
    if (attention_weights_ == nullptr) scratch_weights_ = workspace.Allocate<T>(batch * memory_.source);
  }

  void Export(PackedWeights* packed) const {
    packed->query_kernel = query_kernel_;
    packed->score_vector = score_vector_;
  }

  // Packs the weights.
  void Prepare(Worker& worker) {
    worker.ForEach(1 + CeilDiv(depth_, kPackBlock), [&](int64_t item) {
      if (item == 0) {
        PackScoreVector();
      } else {
        PackQueryKernel((item - 1) * kPackBlock);
      }
    });
  }

  // Computes the contexts of a step from h.
  void Compute(Worker& worker, int64_t step, const T* hidden) {
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(query_panels_ * blocks,
                   [&](int64_t item) { ComputeQueries(step, hidden, item / blocks, item % blocks); });
    worker.ForEach(problem_.batch, [&](int64_t b) { Attend(step, b); }, step % 2 == 1);
  }

  T* Context(int64_t step, int64_t b) const { return contexts_ + Row(step, b) * memory_.padded_units; }

  T* AttentionWeights(int64_t step, int64_t b) const {
    if (attention_weights_ == nullptr) return scratch_weights_ + b * memory_.source;
    return attention_weights_ + (b * problem_.time + TimeOf(problem_, arguments_, step)) * memory_.source;
  }

  const Memory<T>& memory() const { return memory_; }

 private:
  int64_t Row(int64_t step, int64_t b) const { return (keeps_residuals_ ? step * problem_.batch : 0) + b; }
  T* Query(int64_t step, int64_t b) const { return queries_ + Row(step, b) * memory_.padded_attention; }

  void PackScoreVector() {
    const int64_t units = memory_.attention_units;
    if (units > 0) memcpy(score_vector_, arguments_.score_vector, units * sizeof(T));
  }

  void PackQueryKernel(int64_t first) {
    PackRows<kPlainColumns>(static_cast<const T*>(arguments_.query_kernel), problem_.units, depth_,
                            memory_.attention_units, 1, first, Smaller(first + kPackBlock, depth_), query_kernel_);
  }

  // A panel of the queries h W_q.
  void ComputeQueries(int64_t step, const T* hidden, int64_t panel, int64_t block) {
    static const T kZeros[kPanelVectors * L] = {};
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_, step));
    const T* left[kRowBlock];
    T* queries[kRowBlock];
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = hidden + rows.sequence[i] * depth_;
      queries[i] = Query(step, rows.sequence[i]) + panel * kPanelVectors * L;
    }
    MultiplyRows<kPanelVectors>(Rows<T>{left, depth_, 0, 1}, rows.count,
                                query_kernel_ + panel * PanelSize<T>(depth_, kPanelVectors), queries, L, kZeros);
    if (panel + 1 < query_panels_ || memory_.padded_attention == memory_.attention_units) return;
    for (int64_t i = 0; i < rows.count; ++i) memory_.ClearPadding(Query(step, rows.sequence[i]));
  }

  void Attend(int64_t step, int64_t b) {
    const T* query = Query(step, b);
    T* attention_weights = AttentionWeights(step, b);
    if (!Visible(problem_, b, TimeOf(problem_, arguments_, step))) {
      memset(attention_weights, 0, memory_.source * sizeof(T));
      if (keeps_residuals_) {  // nothing reads them, but the framework sees all residuals
        memset(Query(step, b), 0, memory_.padded_attention * sizeof(T));
        memset(Context(step, b), 0, memory_.padded_units * sizeof(T));
      }
      return;
    }
    const int64_t memory = memory_.Of(b);
    for (int64_t s = 0; s < memory_.source; ++s) {
      if (memory_.Visible(memory, s)) attention_weights[s] = Energy(query, memory_.KeyRow(memory, s));
    }
    Softmax(memory, attention_weights);
    if (memory_.units > 0) Average(memory, attention_weights, Context(step, b));
  }

  T Energy(const T* query, const T* key) const {
    V sum{};
    for (int64_t unit = 0; unit < memory_.attention_units; unit += L) {
      const V hidden = Tanh<T>(LoadUnits<T>(key, unit, memory_.attention_units) + Load(query + unit));
      sum += hidden * Load(score_vector_ + unit);
    }
    return SumOf<T>(sum);
  }

  // From energies to attention weights, in place. Those of visible positions sum to 1.
  void Softmax(int64_t memory, T* energies) const {
    T peak = 0;
    bool any = false;
    for (int64_t s = 0; s < memory_.source; ++s) {
      if (!memory_.Visible(memory, s)) continue;
      if (!any || energies[s] > peak || energies[s] != energies[s]) peak = energies[s];  // NaN stays NaN
      any = true;
    }
    T total = 0;
    for (int64_t s = 0; s < memory_.source; s += L) {
      V weights = ClampedExp<T>(LoadUnits<T>(energies, s, memory_.source) - peak);
      for (int64_t lane = 0; lane < Smaller<int64_t>(L, memory_.source - s); ++lane) {
        if (memory_.Visible(memory, s + lane)) {
          total += weights[lane];
        } else {
          weights[lane] = 0;
        }
      }
      StoreFirst(energies + s, weights, memory_.source - s);
    }
    if (!any) return;
    for (int64_t s = 0; s < memory_.source; ++s) energies[s] /= total;
  }

  // Reads the rows of the memory in the order in which they lie, several at a time: most of them are in a distant
  // cache.
  void Average(int64_t memory, const T* attention_weights, T* context) const {
    memset(context, 0, memory_.padded_units * sizeof(T));
    for (int64_t s = 0; s < memory_.source;) {
      constexpr int kRows = 4;
      const T* rows[kRows];
      T weights[kRows];
      int count = 0;
      for (; s < memory_.source && count < kRows; ++s) {
        if (attention_weights[s] == 0) continue;
        rows[count] = memory_.MemoryRow(memory, s);
        weights[count++] = attention_weights[s];
      }
      if (count == kRows) {
        AddRows<kRows>(rows, weights, context);
      } else {
        for (int r = 0; r < count; ++r) AddRows<1>(rows + r, weights + r, context);
      }
    }
  }

  template <int R>
  void AddRows(const T* const* rows, const T* weights, T* context) const {
    for (int64_t unit = 0; unit < memory_.units; unit += L) {
      V sum = Load(context + unit);
      for (int r = 0; r < R; ++r) sum += weights[r] * LoadUnits<T>(rows[r], unit, memory_.units);
      Store(context + unit, sum);
    }
  }

  const Problem& problem_;
  const Arguments& arguments_;
  const Results& results_;
  const Memory<T> memory_;
  const int64_t depth_, query_panels_;
  bool keeps_residuals_ = false;
  T *query_kernel_ = nullptr, *score_vector_ = nullptr;  // the kernel is in panels
  T *queries_ = nullptr, *contexts_ = nullptr;           // of all steps if residuals are kept, else of one
  T *attention_weights_ = nullptr, *scratch_weights_ = nullptr;
};

template <class Equations, class T>
class AdditiveAttentionForward {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kInputVectors = Equations::kInput.vectors();

 public:
  // `layout` is that of the cell.
  AdditiveAttentionForward(const Problem& problem, const Layout& layout, const Arguments& arguments,
                           const Results& results)
      : problem_(problem),
        arguments_(arguments),
        vector_stride_(VectorStride<Equations, T>(layout)),
        contexts_(problem, layout.padded, arguments, results) {}

  // `residuals` points behind the residuals of the cell; null if none are kept.
  void Allocate(Workspace& workspace, T* residuals) {
    contexts_.Allocate(workspace, residuals);
    kernel_ = arguments_.packed == nullptr
                  ? workspace.Allocate<T>(PanelCount(Equations::kInput, problem_.units, L) * KernelPanelSize())
                  : static_cast<T*>(arguments_.packed->context_kernel);
  }

  void Export(PackedWeights* packed) const {
    contexts_.Export(packed);
    packed->context_kernel = kernel_;
  }

  // Packs the weights, if the caller did not.
  void Prepare(Worker& worker) {
    if (arguments_.packed != nullptr) return;
    contexts_.Prepare(worker);
    worker.ForEach(CeilDiv(problem_.memory_units, kPackBlock), [&](int64_t item) { PackKernel(item * kPackBlock); });
  }

  // Computes the contexts of a step from h, whose rows are padded as the layout says.
  void ComputeContexts(Worker& worker, int64_t step, const T* hidden) { contexts_.Compute(worker, step, hidden); }

  // slots += context W_c for the units of a panel. `slots` are those of sequence 0; the rows of sequences are
  // `row_size` apart.
  void AddContextProducts(int64_t step, int64_t panel, int64_t block, T* slots, int64_t row_size) const {
    if (problem_.multiplied) return AddAverages(step, panel, block, slots, row_size);
    const T* left[kRowBlock];
    T* sums[kRowBlock];
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_, step));
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = contexts_.Context(step, rows.sequence[i]);
      sums[i] = slots + rows.sequence[i] * row_size;
    }
    MultiplyRows<kInputVectors>(Rows<T>{left, problem_.memory_units, 0, 1}, rows.count,
                                kernel_ + panel * KernelPanelSize(), sums, vector_stride_, nullptr);
  }

 private:
  // slots += the average of the memory, whose rows are products with W_c. The sums of a sequence stay in registers.
  __attribute__((noinline)) void AddAverages(int64_t step, int64_t panel, int64_t block, T* slots,
                                             int64_t row_size) const {
    const Memory<T>& memory = contexts_.memory();
    const int64_t units = problem_.units, first = panel * Equations::kInput.unit_vectors * L;
    int64_t offset[kInputVectors], left[kInputVectors];
    for (int v = 0; v < kInputVectors; ++v) {
      const int64_t unit = first + v / Equations::kInput.gates * L;
      left[v] = unit < units ? units - unit : 0;  // how many units follow in the row
      offset[v] = left[v] ? Equations::kInput.gate[v % Equations::kInput.gates] * units + unit : 0;
    }
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_, step));
    for (int64_t i = 0; i < rows.count; ++i) {
      const int64_t b = rows.sequence[i], m = memory.Of(b);
      const T* attention_weights = contexts_.AttentionWeights(step, b);
      T* row_slots = slots + b * row_size;
      V sum[kInputVectors];
      for (int v = 0; v < kInputVectors; ++v) sum[v] = Load(row_slots + v * vector_stride_);
      for (int64_t s = 0; s < memory.source; ++s) {
        const T weight = attention_weights[s];
        if (weight == 0) continue;
        const T* row = memory.MemoryRow(m, s);
        for (int v = 0; v < kInputVectors; ++v) sum[v] += weight * LoadFirst(row + offset[v], left[v]);
      }
      for (int v = 0; v < kInputVectors; ++v) Store(row_slots + v * vector_stride_, sum[v]);
    }
  }

  int64_t KernelPanelSize() const { return PanelSize<T>(problem_.memory_units, kInputVectors); }

  void PackKernel(int64_t first) {
    const T* kernel = static_cast<const T*>(arguments_.kernel) + problem_.features * Equations::kGates * problem_.units;
    const int64_t rows = problem_.memory_units, end = Smaller(first + kPackBlock, rows);
    PackRows<Equations::kInput>(kernel, rows, rows, problem_.units, Equations::kGates, first, end, kernel_);
  }

  const Problem& problem_;
  const Arguments& arguments_;
  const int64_t vector_stride_;
  AttentionContexts<T> contexts_;
  T* kernel_ = nullptr;  // the rows of the kernel that multiply the contexts, in panels
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_FORWARD_H_
