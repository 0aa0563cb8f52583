// SPDX-License-Identifier: Apache-2.0
// What `ForwardPass` does before or after each step of the cell when the call attends, and the same interface without
// attention.
//
// A step has two phases, one by panels of the query's columns and one by sequences; with the dot score, whose query is
// h, only the latter. The tanh of all source positions stays in registers; the backward pass computes it again. The
// queries and contexts of all steps are residuals, after those of the cell.
#ifndef KERAS_SEQ_KERNELS_ISA_ATTENTION_FORWARD_H_
#define KERAS_SEQ_KERNELS_ISA_ATTENTION_FORWARD_H_

#include "../packed_weights.h"
#include "../team.h"
#include "../workspace.h"
#include "attention_memory.h"
#include "monotonic.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class T>
class NoAttentionForward {
 public:
  NoAttentionForward(const Problem&, const Layout&, int64_t, const Arguments&, const Results&) {}
  void Allocate(Workspace&, T*) {}
  void Export(PackedWeights*) const {}
  void Prepare(Worker&) {}
  void AttendBefore(Worker&, int64_t, const T*) {}
  void AttendAfter(Worker&, int64_t, const T*) {}
  void AddFedProducts(int64_t, int64_t, int64_t, T*, int64_t) const {}
  void StoreFinalStates(Worker&) {}
};

// Queries, attention weights, contexts and what the next step reads: the coverage and, after the cell, its input.
// Nothing here depends on the cell.
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
        hidden_units_(HiddenUnits(problem)),
        depth_(depth),
        query_panels_(memory_.additive ? PanelCount(kPlainColumns, problem.attention_units, L) : 0),
        attentional_panels_(PanelCount(kPlainColumns, problem.attentional_units, L)),
        monotonic_(problem.weighting != Weighting::kSoftmax) {}

  // `residuals` points behind the residuals of the cell; null if none are kept.
  void Allocate(Workspace& workspace, T* residuals) {
    const int64_t batch = problem_.batch;
    keeps_residuals_ = residuals != nullptr;
    if (arguments_.packed == nullptr) {
      query_kernel_ = workspace.Allocate<T>(query_panels_ * PanelSize<T>(depth_, kPanelVectors));
      score_vector_ = workspace.AllocateZeros<T>(memory_.additive ? memory_.padded_attention : 0);
      coverage_kernel_ = workspace.AllocateZeros<T>(problem_.covers ? memory_.padded_attention : 0);
      hidden_kernel_ = workspace.Allocate<T>(attentional_panels_ * PanelSize<T>(depth_, kPanelVectors));
      context_kernel_ = workspace.Allocate<T>(attentional_panels_ * PanelSize<T>(memory_.units, kPanelVectors));
    } else {
      query_kernel_ = static_cast<T*>(arguments_.packed->query_kernel);
      score_vector_ = static_cast<T*>(arguments_.packed->score_vector);
      coverage_kernel_ = static_cast<T*>(arguments_.packed->coverage_kernel);
      hidden_kernel_ = static_cast<T*>(arguments_.packed->attentional_hidden_kernel);
      context_kernel_ = static_cast<T*>(arguments_.packed->attentional_context_kernel);
    }
    if (memory_.additive) {
      queries_ = keeps_residuals_ ? residuals : workspace.Allocate<T>(batch * memory_.padded_attention);
    }
    contexts_ = keeps_residuals_ ? residuals + memory_.QueriesSize(problem_)
                                 : workspace.Allocate<T>(batch * memory_.padded_units);
    if (monotonic_) previous_ = workspace.Allocate<T>(batch * memory_.source);
    if (problem_.covers) coverage_ = workspace.Allocate<T>(batch * memory_.source);
    if (problem_.attends_after) fed_ = workspace.AllocateZeros<T>(batch * memory_.padded_fed);
    attention_weights_ = static_cast<T*>(results_.attention_weights);
    if (attention_weights_ == nullptr) scratch_weights_ = workspace.Allocate<T>(batch * memory_.source);
  }

  void Export(PackedWeights* packed) const {
    packed->query_kernel = query_kernel_;
    packed->score_vector = score_vector_;
    packed->coverage_kernel = coverage_kernel_;
    packed->attentional_hidden_kernel = hidden_kernel_;
    packed->attentional_context_kernel = context_kernel_;
  }

  // Packs the weights.
  void Prepare(Worker& worker) {
    if (memory_.additive) {
      worker.ForEach(1 + CeilDiv(depth_, kPackBlock), [&](int64_t item) {
        if (item == 0) {
          PackVectors();
        } else {
          PackQueryKernel((item - 1) * kPackBlock);
        }
      });
    }
    if (problem_.attentional) worker.ForEach(1, [&](int64_t) { PackAttentionalKernel(); });
  }

  // Loads what the first step reads: coverage or attention weights, and after the cell its input.
  void LoadInitialStates(Worker& worker) {
    if (!problem_.covers && !monotonic_ && !problem_.attends_after) return;
    worker.ForEach(problem_.batch, [&](int64_t b) {
      const int64_t source = problem_.covers ? memory_.source : 0;
      if (monotonic_ && memory_.source > 0) {
        memcpy(Previous(b), static_cast<const T*>(arguments_.initial_weights) + b * memory_.source,
               memory_.source * sizeof(T));
      }
      const int64_t units = problem_.attends_after ? memory_.fed_units : 0;
      if (source > 0) {
        memcpy(coverage_ + b * source, static_cast<const T*>(arguments_.initial_coverage) + b * source,
               source * sizeof(T));
      }
      if (units > 0) {
        memcpy(Fed(b), static_cast<const T*>(arguments_.initial_fed) + b * units, units * sizeof(T));
      }
    });
  }

  // Computes the contexts of a step from h.
  void Compute(Worker& worker, int64_t step, const T* hidden) {
    if (memory_.additive) {
      const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
      worker.ForEach(query_panels_ * blocks,
                     [&](int64_t item) { ComputeQueries(step, hidden, item / blocks, item % blocks); });
    }
    worker.ForEach(problem_.batch, [&](int64_t b) {
      Attend(step, b, memory_.additive ? Query(step, b) : hidden + b * depth_);
    }, step % 2 == 1);
  }

  // Computes what the next step reads, from h and the contexts. Without an attentional kernel it is the contexts.
  void ComputeFed(Worker& worker, int64_t step, const T* hidden) {
    if (!problem_.attentional) return;
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(attentional_panels_ * blocks,
                   [&](int64_t item) { ComputeAttentional(step, hidden, item / blocks, item % blocks); });
  }

  void StoreFinalStates(Worker& worker) {
    if (!problem_.covers && !monotonic_ && !problem_.attends_after) return;
    worker.ForEach(problem_.batch, [&](int64_t b) {
      T* weights = static_cast<T*>(results_.final_weights);
      if (weights != nullptr && memory_.source > 0) {
        memcpy(weights + b * memory_.source, Previous(b), memory_.source * sizeof(T));
      }
      T *coverage = static_cast<T*>(results_.final_coverage), *fed = static_cast<T*>(results_.final_fed);
      const int64_t source = memory_.source, units = memory_.fed_units;
      if (coverage != nullptr && source > 0) memcpy(coverage + b * source, coverage_ + b * source, source * sizeof(T));
      if (fed != nullptr && units > 0) memcpy(fed + b * units, Fed(b), units * sizeof(T));
    });
  }

  // What the step after the last one that was computed reads.
  T* Fed(int64_t b) const { return fed_ + b * memory_.padded_fed; }

  T* Context(int64_t step, int64_t b) const { return contexts_ + Row(step, b) * memory_.padded_units; }

  T* AttentionWeights(int64_t step, int64_t b) const {
    if (attention_weights_ == nullptr) return scratch_weights_ + b * memory_.source;
    return attention_weights_ + (b * problem_.time + TimeOf(problem_, arguments_, step)) * memory_.source;
  }

  const Memory<T>& memory() const { return memory_; }

 private:
  int64_t Row(int64_t step, int64_t b) const { return (keeps_residuals_ ? step * problem_.batch : 0) + b; }
  T* Query(int64_t step, int64_t b) const { return queries_ + Row(step, b) * memory_.padded_attention; }

  void PackVectors() {
    const int64_t units = memory_.attention_units;
    if (units > 0) memcpy(score_vector_, arguments_.score_vector, units * sizeof(T));
    if (problem_.covers && units > 0) memcpy(coverage_kernel_, arguments_.coverage_kernel, units * sizeof(T));
  }

  void PackQueryKernel(int64_t first) {
    PackRows<kPlainColumns>(static_cast<const T*>(arguments_.query_kernel), hidden_units_, depth_,
                            memory_.attention_units, 1, first, Smaller(first + kPackBlock, depth_), query_kernel_);
  }

  void PackAttentionalKernel() {
    const T* kernel = static_cast<const T*>(arguments_.attentional_kernel);
    const int64_t units = problem_.attentional_units;
    PackRows<kPlainColumns>(kernel, hidden_units_, depth_, units, 1, 0, depth_, hidden_kernel_);
    PackRows<kPlainColumns>(kernel + hidden_units_ * units, memory_.units, memory_.units, units, 1, 0, memory_.units,
                            context_kernel_);
  }

  // A panel of the attentional vectors. Masked sequences keep theirs.
  void ComputeAttentional(int64_t step, const T* hidden, int64_t panel, int64_t block) {
    static const T kZeros[kPanelVectors * L] = {};
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_, step));
    const T* left[kRowBlock];
    T* sums[kRowBlock] = {};
    const int64_t first = panel * kPanelVectors * L, units = problem_.attentional_units;
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = hidden + rows.sequence[i] * depth_;
      sums[i] = Fed(rows.sequence[i]) + first;
    }
    MultiplyRows<kPanelVectors>(Rows<T>{left, depth_, 0, 1}, rows.count,
                                hidden_kernel_ + panel * PanelSize<T>(depth_, kPanelVectors), sums, L, kZeros);
    for (int64_t i = 0; i < rows.count; ++i) left[i] = Context(step, rows.sequence[i]);
    MultiplyRows<kPanelVectors>(Rows<T>{left, memory_.units, 0, 1}, rows.count,
                                context_kernel_ + panel * PanelSize<T>(memory_.units, kPanelVectors), sums, L, nullptr);
    for (int64_t i = 0; i < rows.count && !problem_.linear; ++i) {
      for (int v = 0; v < kPanelVectors; ++v) Store(sums[i] + v * L, Tanh<T>(Load(sums[i] + v * L)));
    }
    for (int64_t b = block * kRowBlock; b < BlockEnd(problem_, block); ++b) {
      StoreFed(step, b, first, Smaller(first + kPanelVectors * L, units));
    }
  }

  // Stores the columns [first, end) of what the next step reads among the results.
  void StoreFed(int64_t step, int64_t b, int64_t first, int64_t end) const {
    T* fed = static_cast<T*>(results_.fed);
    if (fed == nullptr || first >= end) return;
    const int64_t row = b * problem_.time + TimeOf(problem_, arguments_, step);
    memcpy(fed + row * memory_.fed_units + first, Fed(b) + first, (end - first) * sizeof(T));
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

  void Attend(int64_t step, int64_t b, const T* query) {
    AttendWith(step, b, query);
    if (!problem_.attends_after || problem_.attentional) return;
    if (Visible(problem_, b, TimeOf(problem_, arguments_, step)) && memory_.units > 0) {
      memcpy(Fed(b), Context(step, b), memory_.units * sizeof(T));
    }
    StoreFed(step, b, 0, memory_.units);
  }

  void AttendWith(int64_t step, int64_t b, const T* query) {
    T* attention_weights = AttentionWeights(step, b);
    if (!Visible(problem_, b, TimeOf(problem_, arguments_, step))) {
      memset(attention_weights, 0, memory_.source * sizeof(T));
      if (keeps_residuals_) {  // nothing reads them, but the framework sees all residuals
        if (memory_.additive) memset(Query(step, b), 0, memory_.padded_attention * sizeof(T));
        memset(Context(step, b), 0, memory_.padded_units * sizeof(T));
      }
      return;
    }
    const int64_t memory = memory_.Of(b);
    for (int64_t s = 0; s < memory_.source; ++s) {
      if (!memory_.Visible(memory, s)) continue;
      const T* key = memory_.KeyRow(memory, s);
      attention_weights[s] =
          problem_.covers ? CoveredEnergy(query, key, coverage_[b * memory_.source + s]) : Energy(query, key);
    }
    if (monotonic_) {
      Move(step, b, memory, attention_weights);
    } else {
      Softmax(memory, attention_weights);
    }
    for (int64_t s = 0; problem_.covers && s < memory_.source; ++s) {
      coverage_[b * memory_.source + s] += attention_weights[s];
    }
    if (memory_.units == 0) return;
    T* context = Context(step, b);
    memset(context, 0, memory_.padded_units * sizeof(T));
    AddWeightedRows(attention_weights, memory_.MemoryRow(memory, 0), memory_.source, memory_.units, context);
  }

  T Energy(const T* query, const T* key) const {
    if (memory_.additive) return AdditiveEnergy(memory_, query, key, score_vector_);
    V sum{};
    for (int64_t unit = 0; unit < memory_.attention_units; unit += L) {
      sum += LoadUnits<T>(key, unit, memory_.attention_units) * Load(query + unit);
    }
    return SumOf<T>(sum);
  }

  T CoveredEnergy(const T* query, const T* key, T coverage) const {
    V sum{};
    for (int64_t unit = 0; unit < memory_.attention_units; unit += L) {
      const V projected = LoadUnits<T>(key, unit, memory_.attention_units) + Load(query + unit);
      sum += Tanh<T>(projected + coverage * Load(coverage_kernel_ + unit)) * Load(score_vector_ + unit);
    }
    return SumOf<T>(sum);
  }

  // The attention weights of the step before.
  T* Previous(int64_t b) const { return previous_ + b * memory_.source; }

  // From energies to monotonic attention weights, in place.
  void Move(int64_t step, int64_t b, int64_t memory, T* energies) const {
    if (memory_.source == 0) return;
    const T* bias = static_cast<const T*>(arguments_.energy_bias) +
                    (b * problem_.time + TimeOf(problem_, arguments_, step)) * memory_.source;
    const auto visible = [&](int64_t s) { return memory_.Visible(memory, s); };
    MoveReader<T>(problem_.weighting, memory_.source, visible, bias, Previous(b), energies);
    memcpy(Previous(b), energies, memory_.source * sizeof(T));
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

  const Problem& problem_;
  const Arguments& arguments_;
  const Results& results_;
  const Memory<T> memory_;
  const int64_t hidden_units_, depth_, query_panels_, attentional_panels_;
  const bool monotonic_;
  bool keeps_residuals_ = false;
  T *query_kernel_ = nullptr, *score_vector_ = nullptr;  // the kernel is in panels; null with the dot score
  T *queries_ = nullptr, *contexts_ = nullptr;           // of all steps if residuals are kept, else of one
  T *attention_weights_ = nullptr, *scratch_weights_ = nullptr;
  T *coverage_kernel_ = nullptr, *coverage_ = nullptr, *previous_ = nullptr;  // the last two (batch, source)
  // The rows of the attentional kernel for h and for the contexts, in panels.
  T *hidden_kernel_ = nullptr, *context_kernel_ = nullptr;
  T* fed_ = nullptr;  // (batch, padded_fed), only after the cell
};

template <class Equations, class T>
class MemoryAttentionForward {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kInputVectors = Equations::kInput.vectors();

 public:
  // `layout` is that of the cell, `hidden_padded` the size of a row of h.
  MemoryAttentionForward(const Problem& problem, const Layout& layout, int64_t hidden_padded,
                         const Arguments& arguments, const Results& results)
      : problem_(problem),
        arguments_(arguments),
        vector_stride_(VectorStride<Equations, T>(layout)),
        contexts_(problem, hidden_padded, arguments, results) {}

  // `residuals` points behind the residuals of the cell; null if none are kept.
  void Allocate(Workspace& workspace, T* residuals) {
    contexts_.Allocate(workspace, residuals);
    kernel_ = arguments_.packed == nullptr
                  ? workspace.Allocate<T>(PanelCount(Equations::kInput, problem_.units, L) * KernelPanelSize())
                  : static_cast<T*>(arguments_.packed->fed_kernel);
  }

  void Export(PackedWeights* packed) const {
    contexts_.Export(packed);
    packed->fed_kernel = kernel_;
  }

  // Packs the weights, if the caller did not, and loads what the first step reads.
  void Prepare(Worker& worker) {
    contexts_.LoadInitialStates(worker);
    if (arguments_.packed != nullptr) return;
    contexts_.Prepare(worker);
    worker.ForEach(CeilDiv(KernelRows(), kPackBlock), [&](int64_t item) { PackKernel(item * kPackBlock); });
  }

  // Computes the contexts of a step from the previous h.
  void AttendBefore(Worker& worker, int64_t step, const T* hidden) {
    if (!problem_.attends_after) contexts_.Compute(worker, step, hidden);
  }

  // Computes contexts from the new h, and what the next step reads.
  void AttendAfter(Worker& worker, int64_t step, const T* hidden) {
    if (!problem_.attends_after) return;
    contexts_.Compute(worker, step, hidden);
    contexts_.ComputeFed(worker, step, hidden);
  }

  void StoreFinalStates(Worker& worker) { contexts_.StoreFinalStates(worker); }

  // slots += what attention feeds times its rows of the kernel, for the units of a panel. `slots` are those of the
  // input product of sequence 0; the rows of sequences are `row_size` apart.
  void AddFedProducts(int64_t step, int64_t panel, int64_t block, T* slots, int64_t row_size) const {
    if (HasMemoryProducts(problem_)) return AddAverages(step, panel, block, slots, row_size);
    if (KernelRows() == 0) return;
    const T* left[kRowBlock];
    T* sums[kRowBlock];
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_, step));
    for (int64_t i = 0; i < rows.count; ++i) {
      const int64_t b = rows.sequence[i];
      left[i] = problem_.attends_after ? contexts_.Fed(b) : contexts_.Context(step, b);
      sums[i] = slots + b * row_size;
    }
    MultiplyRows<kInputVectors>(Rows<T>{left, KernelRows(), 0, 1}, rows.count,
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

  // How many rows of the kernel multiply what attention feeds.
  int64_t KernelRows() const { return problem_.multiplied ? 0 : FedUnits(problem_); }
  int64_t KernelPanelSize() const { return PanelSize<T>(KernelRows(), kInputVectors); }

  void PackKernel(int64_t first) {
    const T* kernel = static_cast<const T*>(arguments_.kernel) + problem_.features * Equations::kGates * problem_.units;
    const int64_t rows = KernelRows(), end = Smaller(first + kPackBlock, rows);
    PackRows<Equations::kInput>(kernel, rows, rows, problem_.units, Equations::kGates, first, end, kernel_);
  }

  const Problem& problem_;
  const Arguments& arguments_;
  const int64_t vector_stride_;
  AttentionContexts<T> contexts_;
  T* kernel_ = nullptr;  // the rows of the kernel that multiply what attention feeds, in panels
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_FORWARD_H_
