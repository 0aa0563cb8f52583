// SPDX-License-Identifier: Apache-2.0
// Additive attention, a step at a time: what `ForwardPass` does before a step of the cell, and `BackwardPass` after it.
//
// A step has two phases, one by panels of the query's columns and one by sequences. The tanh of all source positions
// lives in registers only; the backward pass computes it again. Rows of queries and contexts are padded with zeros to
// whole panels. With the gates of the cell, the queries and contexts of all steps are the residuals.
#ifndef KERAS_SEQ_KERNELS_ISA_ATTENTION_H_
#define KERAS_SEQ_KERNELS_ISA_ATTENTION_H_

#include "../team.h"
#include "../workspace.h"
#include "packing.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

constexpr Columns kPlainColumns{1, 4, {0}};  // four vectors of columns to a panel, as for SimpleRNN

template <class T>
inline T SumOf(Vector<T> lanes) {
  T sum = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) sum += lanes[lane];
  return sum;
}

// Row-major matrices of the caller, and how this file names their sizes.
template <class T>
struct Memory {
  Memory(const Problem& problem, const Arguments& arguments)
      : source(problem.source),
        units(problem.memory_units),
        attention_units(problem.attention_units),
        padded_units(Padded(problem.memory_units)),
        padded_attention(Padded(problem.attention_units)),
        values(static_cast<const T*>(arguments.memory)),
        keys(static_cast<const T*>(arguments.keys)),
        mask(problem.memory_mask) {}

  static int64_t Padded(int64_t count) { return CeilDiv(count, 4 * kWidth) * 4 * kWidth; }

  const T* Value(int64_t b, int64_t s) const { return values + (b * source + s) * units; }
  const T* Key(int64_t b, int64_t s) const { return keys + (b * source + s) * attention_units; }
  bool Visible(int64_t b, int64_t s) const { return mask == nullptr || mask[b * source + s]; }

  // Zeros the padding of a query or of its gradient, where Inf times 0 may have given NaN.
  void ClearPadding(T* query) const {
    memset(query + attention_units, 0, (padded_attention - attention_units) * sizeof(T));
  }

  // Of the queries, and after them of the contexts, that the residuals of all steps hold.
  int64_t QueriesSize(const Problem& problem) const { return problem.time * problem.batch * padded_attention; }

  const int64_t source, units, attention_units, padded_units, padded_attention;
  const T *const values, *const keys;
  const bool* const mask;
};

template <class T>
class AttentionForward {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;

 public:
  AttentionForward(const Problem& problem, const Arguments& arguments, const Results& results)
      : problem_(problem),
        arguments_(arguments),
        results_(results),
        memory_(problem, arguments),
        panels_(PanelCount(kPlainColumns, problem.attention_units, L)) {}

  // `depth` is that of the rows of h, padding included. `kept` is where the residuals of the cell end; null where
  // nothing is kept.
  void Allocate(Workspace& workspace, int64_t depth, T* kept) {
    const int64_t batch = problem_.batch;
    depth_ = depth;
    keep_ = kept != nullptr;
    query_kernel_ = workspace.Allocate<T>(panels_ * PanelSize<T>(depth, kPlainColumns.unit_vectors));
    score_vector_ = workspace.AllocateZeros<T>(memory_.padded_attention);
    queries_ = keep_ ? kept : workspace.Allocate<T>(batch * memory_.padded_attention);
    contexts_ = keep_ ? kept + memory_.QueriesSize(problem_) : workspace.Allocate<T>(batch * memory_.padded_units);
    attention_weights_ = static_cast<T*>(results_.attention_weights);
    if (attention_weights_ == nullptr) scratch_ = workspace.Allocate<T>(batch * memory_.source);
  }

  int64_t PackItems() const { return 1 + CeilDiv(depth_, kPackBlock); }

  void Pack(int64_t item) {
    const int64_t first = (item - 1) * kPackBlock, units = memory_.attention_units;
    if (item > 0) {
      PackRows<kPlainColumns>(static_cast<const T*>(arguments_.query_kernel), problem_.units, depth_, units, 1, first,
                              Smaller(first + kPackBlock, depth_), query_kernel_);
    } else if (units > 0) {
      memcpy(score_vector_, arguments_.score_vector, units * sizeof(T));
    }
  }

  // From h, rows of `depth` numbers, to the contexts of a step.
  void Step(Worker& worker, int64_t step, const T* hidden) {
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(panels_ * blocks, [&](int64_t item) { Project(step, hidden, item / blocks, item % blocks); });
    worker.ForEach(problem_.batch, [&](int64_t b) { Attend(step, b); }, step % 2 == 1);
  }

  const T* Context(int64_t step, int64_t b) const { return ContextRow(step, b); }

 private:
  int64_t Row(int64_t step, int64_t b) const { return (keep_ ? step * problem_.batch : 0) + b; }
  T* Query(int64_t step, int64_t b) const { return queries_ + Row(step, b) * memory_.padded_attention; }
  T* ContextRow(int64_t step, int64_t b) const { return contexts_ + Row(step, b) * memory_.padded_units; }

  T* AttentionWeights(int64_t step, int64_t b) const {
    if (attention_weights_ == nullptr) return scratch_ + b * memory_.source;
    return attention_weights_ + (b * problem_.time + TimeOf(problem_, arguments_, step)) * memory_.source;
  }

  // A panel of the queries h W_q.
  void Project(int64_t step, const T* hidden, int64_t panel, int64_t block) {
    constexpr int NV = kPlainColumns.unit_vectors;
    static const T kZeros[NV * L] = {};
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_, step));
    const T* left[kRowBlock];
    T* queries[kRowBlock];
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = hidden + rows.sequence[i] * depth_;
      queries[i] = Query(step, rows.sequence[i]) + panel * NV * L;
    }
    MultiplyRows<NV>(Rows<T>{left, depth_, 0, 1}, rows.count, query_kernel_ + panel * PanelSize<T>(depth_, NV),
                     queries, L, kZeros);
    if (panel + 1 < panels_ || memory_.padded_attention == memory_.attention_units) return;
    for (int64_t i = 0; i < rows.count; ++i) memory_.ClearPadding(Query(step, rows.sequence[i]));
  }

  void Attend(int64_t step, int64_t b) {
    const T* query = Query(step, b);
    T* attention_weights = AttentionWeights(step, b);
    if (!Visible(problem_, b, TimeOf(problem_, arguments_, step))) {
      memset(attention_weights, 0, memory_.source * sizeof(T));
      if (keep_) {  // residuals that nothing reads, but that the framework sees
        memset(Query(step, b), 0, memory_.padded_attention * sizeof(T));
        memset(ContextRow(step, b), 0, memory_.padded_units * sizeof(T));
      }
      return;
    }
    for (int64_t s = 0; s < memory_.source; ++s) {
      if (memory_.Visible(b, s)) attention_weights[s] = Energy(query, memory_.Key(b, s));
    }
    Softmax(b, attention_weights);
    Average(b, attention_weights, ContextRow(step, b));
  }

  T Energy(const T* query, const T* key) const {
    V sum{};
    for (int64_t unit = 0; unit < memory_.attention_units; unit += L) {
      const V hidden = Tanh<T>(LoadUnits<T>(key, unit, memory_.attention_units) + Load(query + unit));
      sum += hidden * Load(score_vector_ + unit);
    }
    return SumOf<T>(sum);
  }

  // Energies to weights, in place: those of visible positions sum to 1.
  void Softmax(int64_t b, T* energies) const {
    T peak = 0;
    bool any = false;
    for (int64_t s = 0; s < memory_.source; ++s) {
      if (!memory_.Visible(b, s)) continue;
      if (!any || energies[s] > peak || energies[s] != energies[s]) peak = energies[s];  // NaN stays NaN
      any = true;
    }
    T total = 0;
    for (int64_t s = 0; s < memory_.source; s += L) {
      V weights = ExpOfNegative<T>(LoadUnits<T>(energies, s, memory_.source) - peak);
      for (int64_t lane = 0; lane < Smaller<int64_t>(L, memory_.source - s); ++lane) {
        if (memory_.Visible(b, s + lane)) {
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

  // Row after row of the memory, several at a time, as it lies: most of it comes from afar.
  void Average(int64_t b, const T* attention_weights, T* context) const {
    memset(context, 0, memory_.padded_units * sizeof(T));
    for (int64_t s = 0; s < memory_.source;) {
      constexpr int kRows = 4;
      const T* rows[kRows];
      T weights[kRows];
      int count = 0;
      for (; s < memory_.source && count < kRows; ++s) {
        if (attention_weights[s] == 0) continue;
        rows[count] = memory_.Value(b, s);
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
  const int64_t panels_;
  int64_t depth_ = 0;
  bool keep_ = false;
  T *query_kernel_ = nullptr, *score_vector_ = nullptr, *queries_ = nullptr, *contexts_ = nullptr;
  T *attention_weights_ = nullptr, *scratch_ = nullptr;
};

template <class T>
class AttentionBackward {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>, kPlain = 4;
  static constexpr int kTile = kTileRows<kPlain>;

 public:
  AttentionBackward(const Problem& problem, const Arguments& arguments, const Results& results,
                    const Upstream& upstream, const Gradients& gradients)
      : problem_(problem),
        arguments_(arguments),
        upstream_(upstream),
        gradients_(gradients),
        memory_(problem, arguments),
        attention_weights_(static_cast<const T*>(results.attention_weights)),
        layout_(problem.batch, problem.attention_units, kPlain),
        unit_panels_(CeilDiv(problem.units, kPlain * L)),
        attention_panels_(CeilDiv(problem.attention_units, kPlain * L)),
        context_panels_(CeilDiv(problem.memory_units, kPlain * L)) {}

  // `kept` is where the residuals of the cell end.
  void Allocate(Workspace& workspace, const T* kept) {
    const int64_t rows = problem_.time * problem_.batch;
    queries_ = kept;
    contexts_ = kept == nullptr ? nullptr : kept + memory_.QueriesSize(problem_);
    query_kernel_ = workspace.Allocate<T>(unit_panels_ * UnitPanelSize());
    score_vector_ = workspace.AllocateZeros<T>(memory_.padded_attention);
    d_queries_ = workspace.Allocate<T>(rows * memory_.padded_attention);
    d_contexts_ = workspace.Allocate<T>(rows * memory_.padded_units);
    d_scores_ = workspace.Allocate<T>(problem_.batch * memory_.padded_attention);
    left_ = workspace.Allocate<T>(rows * (problem_.units + kTile));
    d_energies_ = workspace.Allocate<T>(rows * memory_.source);
    packed_attention_weights_ = workspace.Allocate<T>(problem_.batch * problem_.time * kTile);
  }

  int64_t PackItems() const { return unit_panels_ + 1; }

  void Pack(int64_t item) {
    if (item < unit_panels_) {
      PackTransposed(static_cast<const T*>(arguments_.query_kernel), problem_.units, layout_, 1, kPlainColumns, item,
                     query_kernel_ + item * UnitPanelSize());
      return;
    }
    if (memory_.attention_units == 0) return;
    memcpy(score_vector_, arguments_.score_vector, memory_.attention_units * sizeof(T));
  }

  const T* Context(int64_t step, int64_t b) const { return contexts_ + Row(step, b) * memory_.padded_units; }

  int64_t ContextPanels() const { return context_panels_; }
  T* ContextGradient(int64_t step, int64_t b) { return d_contexts_ + Row(step, b) * memory_.padded_units; }

  // From the gradients of the contexts of a step to those of its queries.
  void Step(Worker& worker, int64_t step) {
    worker.ForEach(problem_.batch, [&](int64_t b) { Differentiate(step, b); }, step % 2 == 1);
  }

  // sums (rows, 4 vectors) = a panel of the gradients of h by way of the queries of a step.
  void HiddenGradients(int64_t step, int64_t panel, const VisibleSequences& rows, T* sums) {
    static const T kZeros[kPlain * L] = {};
    const T* left[kRowBlock];
    T* sum_rows[kRowBlock] = {};
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = QueryGradient(step, rows.sequence[i]);
      sum_rows[i] = sums + i * kPlain * L;
    }
    MultiplyRows<kPlain>(Rows<T>{left, memory_.padded_attention, 0, 1}, rows.count,
                         query_kernel_ + panel * UnitPanelSize(), sum_rows, L, kZeros);
  }

  // The sums over all steps. `hidden(step, b, unit)` is the vector of h before a step.
  template <class Hidden>
  void Finish(Worker& worker, const Hidden& hidden) {
    worker.ForEach(problem_.batch, [&](int64_t b) {
      MemoryGradients(b);
      KeyGradients(b);
    });
    if (gradients_.query_kernel != nullptr) {
      worker.ForEach(problem_.time, [&](int64_t step) { PackHidden(step, hidden); });
      const int64_t tiles = CeilDiv(problem_.units, kTile);
      worker.ForEach(attention_panels_ * tiles, [&](int64_t item) { KernelGradients(item % tiles, item / tiles); });
    }
    worker.ForEach(1, [&](int64_t) { ScoreGradients(); });
  }

 private:
  int64_t UnitPanelSize() const { return memory_.padded_attention * kPlain * L; }
  int64_t Row(int64_t step, int64_t b) const { return step * problem_.batch + b; }
  const T* Query(int64_t step, int64_t b) const { return queries_ + Row(step, b) * memory_.padded_attention; }
  T* EnergyGradient(int64_t step, int64_t b) { return d_energies_ + Row(step, b) * memory_.source; }
  T* QueryGradient(int64_t step, int64_t b) { return d_queries_ + Row(step, b) * memory_.padded_attention; }

  int64_t AttentionWeightsOffset(int64_t step, int64_t b) const {
    return (b * problem_.time + TimeOf(problem_, arguments_, step)) * memory_.source;
  }

  void Differentiate(int64_t step, int64_t b) {
    if (!Visible(problem_, b, TimeOf(problem_, arguments_, step))) {
      memset(EnergyGradient(step, b), 0, memory_.source * sizeof(T));
      memset(QueryGradient(step, b), 0, memory_.padded_attention * sizeof(T));
      return;
    }
    const T* d_energies = EnergyGradients(step, b);
    const T* query = Query(step, b);
    T* d_query = QueryGradient(step, b);
    memset(d_query, 0, memory_.padded_attention * sizeof(T));
    for (int64_t s = 0; s < memory_.source; ++s) {
      if (d_energies[s] == 0) continue;
      const T* key = memory_.Key(b, s);
      for (int64_t unit = 0; unit < memory_.attention_units; unit += L) {
        const V hidden = Tanh<T>(LoadUnits<T>(key, unit, memory_.attention_units) + Load(query + unit));
        const V d_hidden = d_energies[s] * Load(score_vector_ + unit) * (1 - hidden * hidden);
        Store(d_query + unit, Load(d_query + unit) + d_hidden);
      }
    }
    memory_.ClearPadding(d_query);
  }

  // The gradients of the keys and of the score vector, after all steps: one more tanh costs less than to add to all keys
  // in every step.
  void KeyGradients(int64_t b) {
    T* d_keys = static_cast<T*>(gradients_.keys);
    const int64_t units = memory_.attention_units;
    for (int64_t unit = 0; unit < units; unit += L) {
      const V score = Load(score_vector_ + unit);
      V d_score{};
      for (int64_t s = 0; s < memory_.source; ++s) {
        const V key = LoadUnits<T>(memory_.Key(b, s), unit, units);
        V d_key{};
        for (int64_t step = 0; step < problem_.time; ++step) {
          const T d_energy = *(EnergyGradient(step, b) + s);
          if (d_energy == 0) continue;
          const V hidden = Tanh<T>(key + Load(Query(step, b) + unit));
          d_key += d_energy * (1 - hidden * hidden);
          d_score += d_energy * hidden;
        }
        if (d_keys == nullptr) continue;
        StoreFirst(d_keys + (b * memory_.source + s) * units + unit, d_key * score, units - unit);
      }
      Store(d_scores_ + b * memory_.padded_attention + unit, d_score);
    }
  }

  const T* EnergyGradients(int64_t step, int64_t b) {
    const T *attention_weights = attention_weights_ + AttentionWeightsOffset(step, b), *d_context = ContextGradient(step, b);
    const T* upstream = static_cast<const T*>(upstream_.attention_weights);
    if (upstream != nullptr) upstream += AttentionWeightsOffset(step, b);
    T *d_energies = EnergyGradient(step, b), centre = 0;
    for (int64_t s = 0; s < memory_.source; ++s) {
      T d_weight = 0;
      if (attention_weights[s] != 0) {  // else it is masked, or too small to have a gradient
        V sum{};
        for (int64_t unit = 0; unit < memory_.units; unit += L) {
          sum += LoadUnits<T>(memory_.Value(b, s), unit, memory_.units) * Load(d_context + unit);
        }
        d_weight = SumOf<T>(sum) + (upstream != nullptr ? upstream[s] : 0);
      }
      d_energies[s] = d_weight;
      centre += attention_weights[s] * d_weight;
    }
    for (int64_t s = 0; s < memory_.source; ++s) d_energies[s] = attention_weights[s] * (d_energies[s] - centre);
    return d_energies;
  }

  // d_memory_s = sum_t a_ts d_context_t, a few positions at a time.
  void MemoryGradients(int64_t b) {
    T* d_memory = static_cast<T*>(gradients_.memory);
    if (d_memory == nullptr) return;
    T* packed = packed_attention_weights_ + b * problem_.time * kTile;
    for (int64_t first = 0; first < memory_.source; first += kTile) {
      const int64_t count = Smaller<int64_t>(kTile, memory_.source - first);
      for (int64_t step = 0; step < problem_.time; ++step) {
        const T* attention_weights = attention_weights_ + AttentionWeightsOffset(step, b) + first;
        for (int64_t r = 0; r < kTile; ++r) packed[step * kTile + r] = r < count ? attention_weights[r] : 0;
      }
      for (int64_t unit = 0; unit < memory_.units; unit += kPlain * L) {
        alignas(64) T sums[kTile * kPlain * L] = {};
        const StridedRows<T> right{ContextGradient(0, b) + unit, problem_.batch * memory_.padded_units};
        OuterTile<kTile, kPlain>(packed, right, problem_.time, L, sums);
        for (int64_t r = 0; r < count; ++r) {
          StoreRow(sums + r * kPlain * L, d_memory + (b * memory_.source + first + r) * memory_.units, unit,
                   memory_.units);
        }
      }
    }
  }

  static void StoreRow(const T* sums, T* row, int64_t unit, int64_t units) {
    for (int v = 0; v < kPlain && unit + v * L < units; ++v) {
      StoreFirst(row + unit + v * L, Load(sums + v * L), units - unit - v * L);
    }
  }

  // left: (tiles of units, all rows, kTile).
  template <class Hidden>
  void PackHidden(int64_t step, const Hidden& hidden) {
    const int64_t rows = problem_.time * problem_.batch;
    for (int64_t b = 0; b < problem_.batch; ++b) {
      for (int64_t unit = 0; unit < problem_.units; unit += L) {
        const V h = hidden(step, b, unit);
        for (int64_t lane = 0; lane < L; ++lane) {
          const int64_t at = unit + lane;
          if (at >= CeilDiv(problem_.units, kTile) * kTile) break;
          left_[(at / kTile * rows + Row(step, b)) * kTile + at % kTile] = h[lane];
        }
      }
      // The last tile may reach beyond the vectors.
      for (int64_t at = CeilDiv(problem_.units, L) * L; at < CeilDiv(problem_.units, kTile) * kTile; ++at) {
        left_[(at / kTile * rows + Row(step, b)) * kTile + at % kTile] = 0;
      }
    }
  }

  void KernelGradients(int64_t tile, int64_t panel) {
    alignas(64) T sums[kTile * kPlain * L] = {};
    const int64_t rows = problem_.time * problem_.batch, unit = panel * kPlain * L;
    const StridedRows<T> right{d_queries_ + unit, memory_.padded_attention};
    OuterTile<kTile, kPlain>(left_ + tile * rows * kTile, right, rows, L, sums);
    T* d_kernel = static_cast<T*>(gradients_.query_kernel);
    for (int64_t r = 0; r < Smaller<int64_t>(kTile, problem_.units - tile * kTile); ++r) {
      StoreRow(sums + r * kPlain * L, d_kernel + (tile * kTile + r) * memory_.attention_units, unit,
               memory_.attention_units);
    }
  }

  void ScoreGradients() {
    T* d_score_vector = static_cast<T*>(gradients_.score_vector);
    if (d_score_vector == nullptr) return;
    for (int64_t unit = 0; unit < memory_.attention_units; unit += L) {
      V sum{};
      for (int64_t b = 0; b < problem_.batch; ++b) sum += Load(d_scores_ + b * memory_.padded_attention + unit);
      StoreFirst(d_score_vector + unit, sum, memory_.attention_units - unit);
    }
  }

  const Problem& problem_;
  const Arguments& arguments_;
  const Upstream& upstream_;
  const Gradients& gradients_;
  const Memory<T> memory_;
  const T* const attention_weights_;
  const Layout layout_;
  const int64_t unit_panels_, attention_panels_, context_panels_;
  const T *queries_ = nullptr, *contexts_ = nullptr;
  T *query_kernel_ = nullptr, *score_vector_ = nullptr, *d_queries_ = nullptr, *d_contexts_ = nullptr;
  T *d_scores_ = nullptr, *left_ = nullptr, *d_energies_ = nullptr, *packed_attention_weights_ = nullptr;
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_H_
