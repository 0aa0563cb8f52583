// SPDX-License-Identifier: Apache-2.0
// What `BackwardPass` does for attention: the gradients of contexts and queries in each step, those of memory, keys,
// query kernel and score vector after all steps. And the same interface without attention.
#ifndef KERAS_SEQ_KERNELS_ISA_ATTENTION_BACKWARD_H_
#define KERAS_SEQ_KERNELS_ISA_ATTENTION_BACKWARD_H_

#include "../team.h"
#include "../workspace.h"
#include "attention_memory.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

template <class T>
class NoAttentionBackward {
 public:
  NoAttentionBackward(const Problem&, const Layout&, const Arguments&, const Results&, const Upstream&,
                      const Gradients&) {}
  void Allocate(Workspace&, const T*) {}
  Contexts<T> AllContexts() const { return {}; }
  void Prepare(Worker&) {}
  template <class MultiplySlots>
  void DifferentiateStep(Worker&, int64_t, const MultiplySlots&) {}
  void AddHiddenGradients(int64_t, int64_t, int64_t, T*, int64_t) {}
  template <class PreviousHidden>
  void DifferentiateWeights(Worker&, const PreviousHidden&) {}
};

// The gradients of queries, memory, keys and weights. Nothing here depends on the cell.
template <class T>
class AttentionGradients {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kTile = kOuterRows<kPanelVectors>;

 public:
  AttentionGradients(const Problem& problem, const Arguments& arguments, const Results& results,
                     const Upstream& upstream, const Gradients& gradients)
      : problem_(problem),
        arguments_(arguments),
        upstream_(upstream),
        gradients_(gradients),
        memory_(problem, arguments),
        attention_weights_(static_cast<const T*>(results.attention_weights)),
        query_layout_(problem.batch, problem.attention_units, kPanelVectors),
        unit_panels_(CeilDiv(problem.units, kPanelVectors * L)),
        query_panels_(CeilDiv(problem.attention_units, kPanelVectors * L)) {}

  // `residuals` points behind the residuals of the cell.
  void Allocate(Workspace& workspace, const T* residuals) {
    const int64_t rows = problem_.time * problem_.batch;
    queries_ = residuals;
    contexts_ = residuals == nullptr ? nullptr : residuals + memory_.QueriesSize(problem_);
    query_kernel_ = workspace.Allocate<T>(unit_panels_ * QueryPanelSize());
    score_vector_ = workspace.AllocateZeros<T>(memory_.padded_attention);
    d_queries_ = workspace.Allocate<T>(rows * memory_.padded_attention);
    d_contexts_ = workspace.Allocate<T>(rows * memory_.padded_units);
    d_scores_ = workspace.Allocate<T>(problem_.batch * memory_.padded_attention);
    hidden_ = workspace.Allocate<T>(rows * (problem_.units + kTile));
    d_energies_ = workspace.Allocate<T>(rows * memory_.source);
    packed_attention_weights_ = workspace.Allocate<T>(problem_.batch * problem_.time * kTile);
  }

  Contexts<T> AllContexts() const { return {contexts_, memory_.padded_units, memory_.units}; }

  // Packs the weights.
  void Prepare(Worker& worker) {
    worker.ForEach(unit_panels_ + 1, [&](int64_t item) {
      if (item < unit_panels_) {
        PackTransposed(static_cast<const T*>(arguments_.query_kernel), problem_.units, query_layout_, 1, kPlainColumns,
                       item, query_kernel_ + item * QueryPanelSize());
      } else if (memory_.attention_units > 0) {
        memcpy(score_vector_, arguments_.score_vector, memory_.attention_units * sizeof(T));
      }
    });
  }

  T* ContextGradient(int64_t step, int64_t b) { return d_contexts_ + Row(step, b) * memory_.padded_units; }

  // From the gradients of the contexts of a step to those of its queries.
  void DifferentiateQueries(Worker& worker, int64_t step) {
    worker.ForEach(problem_.batch, [&](int64_t b) { DifferentiateQuery(step, b); }, step % 2 == 1);
  }

  // Adds, for a panel of units, the gradients of h through the queries of a step. `d_hidden` are those of sequence 0;
  // the rows of sequences are `row_size` apart.
  void AddHiddenGradients(int64_t step, int64_t panel, int64_t block, T* d_hidden, int64_t row_size) {
    static const T kZeros[kPanelVectors * L] = {};
    const VisibleSequences rows(problem_, block, TimeOf(problem_, arguments_, step));
    T sums[kRowBlock * kPanelVectors * L];
    const T* left[kRowBlock];
    T* sum_rows[kRowBlock] = {};
    for (int64_t i = 0; i < rows.count; ++i) {
      left[i] = QueryGradient(step, rows.sequence[i]);
      sum_rows[i] = sums + i * kPanelVectors * L;
    }
    MultiplyRows<kPanelVectors>(Rows<T>{left, memory_.padded_attention, 0, 1}, rows.count,
                                query_kernel_ + panel * QueryPanelSize(), sum_rows, L, kZeros);
    for (int64_t i = 0; i < rows.count; ++i) {
      for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t unit = (panel * kPanelVectors + v) * L;
        if (unit >= problem_.units) break;
        T* to = d_hidden + rows.sequence[i] * row_size + unit;
        Store(to, Load(to) + Load(sums + (i * kPanelVectors + v) * L));
      }
    }
  }

  // The gradients that are sums over all steps. `previous_hidden(step, b, unit)` is a vector of h before a step.
  template <class PreviousHidden>
  void DifferentiateWeights(Worker& worker, const PreviousHidden& previous_hidden) {
    worker.ForEach(problem_.batch, [&](int64_t b) {
      MemoryGradients(b);
      KeyGradients(b);
    });
    if (gradients_.query_kernel != nullptr) {
      worker.ForEach(problem_.time, [&](int64_t step) { PackHidden(step, previous_hidden); });
      const int64_t tiles = CeilDiv(problem_.units, kTile);
      worker.ForEach(query_panels_ * tiles, [&](int64_t item) { QueryKernelGradients(item % tiles, item / tiles); });
    }
    worker.ForEach(1, [&](int64_t) { ScoreVectorGradients(); });
  }

 private:
  int64_t QueryPanelSize() const { return memory_.padded_attention * kPanelVectors * L; }
  int64_t Row(int64_t step, int64_t b) const { return step * problem_.batch + b; }
  const T* Query(int64_t step, int64_t b) const { return queries_ + Row(step, b) * memory_.padded_attention; }
  T* EnergyGradient(int64_t step, int64_t b) { return d_energies_ + Row(step, b) * memory_.source; }
  T* QueryGradient(int64_t step, int64_t b) { return d_queries_ + Row(step, b) * memory_.padded_attention; }

  int64_t AttentionWeightsOffset(int64_t step, int64_t b) const {
    return (b * problem_.time + TimeOf(problem_, arguments_, step)) * memory_.source;
  }

  void DifferentiateQuery(int64_t step, int64_t b) {
    if (!Visible(problem_, b, TimeOf(problem_, arguments_, step))) {
      memset(EnergyGradient(step, b), 0, memory_.source * sizeof(T));
      memset(QueryGradient(step, b), 0, memory_.padded_attention * sizeof(T));
      return;
    }
    const T* d_energies = DifferentiateEnergies(step, b);
    const T* query = Query(step, b);
    T* d_query = QueryGradient(step, b);
    memset(d_query, 0, memory_.padded_attention * sizeof(T));
    for (int64_t s = 0; s < memory_.source; ++s) {
      if (d_energies[s] == 0) continue;
      const T* key = memory_.KeyRow(b, s);
      for (int64_t unit = 0; unit < memory_.attention_units; unit += L) {
        const V hidden = Tanh<T>(LoadUnits<T>(key, unit, memory_.attention_units) + Load(query + unit));
        const V d_hidden = d_energies[s] * Load(score_vector_ + unit) * (1 - hidden * hidden);
        Store(d_query + unit, Load(d_query + unit) + d_hidden);
      }
    }
    memory_.ClearPadding(d_query);
  }

  // The gradients of the keys and of the score vector, as sums over all steps. One more tanh costs less than adding to
  // all keys in every step.
  void KeyGradients(int64_t b) {
    T* d_keys = static_cast<T*>(gradients_.keys);
    const int64_t units = memory_.attention_units;
    for (int64_t unit = 0; unit < units; unit += L) {
      const V score = Load(score_vector_ + unit);
      V d_score{};
      for (int64_t s = 0; s < memory_.source; ++s) {
        const V key = LoadUnits<T>(memory_.KeyRow(b, s), unit, units);
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

  const T* DifferentiateEnergies(int64_t step, int64_t b) {
    const T* attention_weights = attention_weights_ + AttentionWeightsOffset(step, b);
    const T* d_context = ContextGradient(step, b);
    const T* upstream = static_cast<const T*>(upstream_.attention_weights);
    if (upstream != nullptr) upstream += AttentionWeightsOffset(step, b);
    T *d_energies = EnergyGradient(step, b), mean = 0;
    for (int64_t s = 0; s < memory_.source; ++s) {
      T d_weight = 0;
      if (attention_weights[s] != 0) {  // 0 where masked, or where too small to have a gradient
        V sum{};
        for (int64_t unit = 0; unit < memory_.units; unit += L) {
          sum += LoadUnits<T>(memory_.MemoryRow(b, s), unit, memory_.units) * Load(d_context + unit);
        }
        d_weight = SumOf<T>(sum) + (upstream != nullptr ? upstream[s] : 0);
      }
      d_energies[s] = d_weight;
      mean += attention_weights[s] * d_weight;
    }
    for (int64_t s = 0; s < memory_.source; ++s) d_energies[s] = attention_weights[s] * (d_energies[s] - mean);
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
      for (int64_t unit = 0; unit < memory_.units; unit += kPanelVectors * L) {
        alignas(64) T sums[kTile * kPanelVectors * L] = {};
        const StridedRows<T> right{ContextGradient(0, b) + unit, problem_.batch * memory_.padded_units};
        OuterTile<kTile, kPanelVectors>(packed, right, problem_.time, L, sums);
        for (int64_t r = 0; r < count; ++r) {
          StoreRow(sums + r * kPanelVectors * L, d_memory + (b * memory_.source + first + r) * memory_.units, unit,
                   memory_.units);
        }
      }
    }
  }

  static void StoreRow(const T* sums, T* row, int64_t unit, int64_t units) {
    for (int v = 0; v < kPanelVectors && unit + v * L < units; ++v) {
      StoreFirst(row + unit + v * L, Load(sums + v * L), units - unit - v * L);
    }
  }

  // Packs h before a step into hidden_: (tiles of units, all rows, kTile).
  template <class PreviousHidden>
  void PackHidden(int64_t step, const PreviousHidden& previous_hidden) {
    const int64_t rows = problem_.time * problem_.batch;
    for (int64_t b = 0; b < problem_.batch; ++b) {
      for (int64_t unit = 0; unit < problem_.units; unit += L) {
        const V h = previous_hidden(step, b, unit);
        for (int64_t lane = 0; lane < L; ++lane) {
          const int64_t at = unit + lane;
          if (at >= CeilDiv(problem_.units, kTile) * kTile) break;
          hidden_[(at / kTile * rows + Row(step, b)) * kTile + at % kTile] = h[lane];
        }
      }
      // The last tile may reach beyond the vectors.
      for (int64_t at = CeilDiv(problem_.units, L) * L; at < CeilDiv(problem_.units, kTile) * kTile; ++at) {
        hidden_[(at / kTile * rows + Row(step, b)) * kTile + at % kTile] = 0;
      }
    }
  }

  void QueryKernelGradients(int64_t tile, int64_t panel) {
    alignas(64) T sums[kTile * kPanelVectors * L] = {};
    const int64_t rows = problem_.time * problem_.batch, unit = panel * kPanelVectors * L;
    const StridedRows<T> right{d_queries_ + unit, memory_.padded_attention};
    OuterTile<kTile, kPanelVectors>(hidden_ + tile * rows * kTile, right, rows, L, sums);
    T* d_kernel = static_cast<T*>(gradients_.query_kernel);
    for (int64_t r = 0; r < Smaller<int64_t>(kTile, problem_.units - tile * kTile); ++r) {
      StoreRow(sums + r * kPanelVectors * L, d_kernel + (tile * kTile + r) * memory_.attention_units, unit,
               memory_.attention_units);
    }
  }

  void ScoreVectorGradients() {
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
  const Layout query_layout_;
  const int64_t unit_panels_, query_panels_;
  const T *queries_ = nullptr, *contexts_ = nullptr;
  T *query_kernel_ = nullptr, *score_vector_ = nullptr;                     // the kernel is transposed, in panels
  T *d_queries_ = nullptr, *d_contexts_ = nullptr, *d_energies_ = nullptr;  // of all steps
  T *d_scores_ = nullptr, *hidden_ = nullptr, *packed_attention_weights_ = nullptr;
};

template <class Equations, class T>
class AdditiveAttentionBackward {
  static constexpr int L = kLanes<T>;

 public:
  // `layout` is that of the cell.
  AdditiveAttentionBackward(const Problem& problem, const Layout& layout, const Arguments& arguments,
                            const Results& results, const Upstream& upstream, const Gradients& gradients)
      : problem_(problem),
        layout_(layout),
        arguments_(arguments),
        context_panels_(CeilDiv(problem.memory_units, kPanelVectors * L)),
        attention_(problem, arguments, results, upstream, gradients) {}

  // `residuals` points behind the residuals of the cell.
  void Allocate(Workspace& workspace, const T* residuals) {
    attention_.Allocate(workspace, residuals);
    kernel_ = workspace.Allocate<T>(context_panels_ * KernelPanelSize());
  }

  Contexts<T> AllContexts() const { return attention_.AllContexts(); }

  // Packs the weights.
  void Prepare(Worker& worker) {
    attention_.Prepare(worker);
    const T* kernel = static_cast<const T*>(arguments_.kernel) + problem_.features * Equations::kGates * problem_.units;
    worker.ForEach(context_panels_, [&](int64_t panel) {
      PackTransposed(kernel, problem_.memory_units, layout_, Equations::kGates, Equations::kInputGradient, panel,
                     kernel_ + panel * KernelPanelSize());
    });
  }

  // From the slot gradients of a step to those of its contexts, and from these to those of its queries.
  // `multiply_slots(block, kernel, sums)` adds the product of the slot gradients of a block of sequences and of a panel
  // of a transposed kernel.
  template <class MultiplySlots>
  void DifferentiateStep(Worker& worker, int64_t step, const MultiplySlots& multiply_slots) {
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(context_panels_ * blocks, [&](int64_t item) {
      const int64_t panel = item / blocks, block = item % blocks, first = block * kRowBlock;
      T sums[kRowBlock * kPanelVectors * L] = {};
      multiply_slots(block, kernel_ + panel * KernelPanelSize(), sums);
      for (int64_t b = first; b < BlockEnd(problem_, block); ++b) {
        T* d_context = attention_.ContextGradient(step, b) + panel * kPanelVectors * L;
        for (int v = 0; v < kPanelVectors; ++v) {
          const int64_t unit = (panel * kPanelVectors + v) * L;
          Store(d_context + v * L,
                KeepFirst<T>(Load(sums + ((b - first) * kPanelVectors + v) * L), problem_.memory_units - unit));
        }
      }
    });
    attention_.DifferentiateQueries(worker, step);
  }

  void AddHiddenGradients(int64_t step, int64_t panel, int64_t block, T* d_hidden, int64_t row_size) {
    attention_.AddHiddenGradients(step, panel, block, d_hidden, row_size);
  }

  template <class PreviousHidden>
  void DifferentiateWeights(Worker& worker, const PreviousHidden& previous_hidden) {
    attention_.DifferentiateWeights(worker, previous_hidden);
  }

 private:
  int64_t KernelPanelSize() const { return Equations::kInputSlots.count * layout_.padded * kPanelVectors * L; }

  const Problem& problem_;
  const Layout layout_;
  const Arguments& arguments_;
  const int64_t context_panels_;
  AttentionGradients<T> attention_;
  T* kernel_ = nullptr;  // the rows of the kernel that multiply the contexts; transposed, in panels
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_BACKWARD_H_
