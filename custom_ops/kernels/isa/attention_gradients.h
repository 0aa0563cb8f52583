// SPDX-License-Identifier: Apache-2.0
// The backward pass of attention: the gradients of contexts and queries in each step, those of memory, keys and weights
// after all steps.
#ifndef KERAS_SEQ_KERNELS_ISA_ATTENTION_GRADIENTS_H_
#define KERAS_SEQ_KERNELS_ISA_ATTENTION_GRADIENTS_H_

#include "../team.h"
#include "attention_memory.h"
#include "monotonic.h"
#include "step_sums.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// The gradients of queries, memory, keys and weights. Nothing here depends on the cell.
template <class T>
class AttentionGradients {
  using V = Vector<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int kTile = StepSums<T>::kTile;

 public:
  AttentionGradients(const Problem& problem, const Arguments& arguments, const Results& results,
                     const Upstream& upstream, const Gradients& gradients)
      : problem_(problem),
        arguments_(arguments),
        upstream_(upstream),
        gradients_(gradients),
        memory_(problem, arguments),
        sums_(problem),
        attention_weights_(static_cast<const T*>(results.attention_weights)),
        fed_(static_cast<const T*>(results.fed)),
        query_layout_(problem.batch, problem.attention_units, kPanelVectors),
        attentional_layout_(problem.batch, problem.attentional_units, kPanelVectors),
        hidden_units_(HiddenUnits(problem)),
        unit_panels_(CeilDiv(hidden_units_, kPanelVectors * L)),
        context_panels_(CeilDiv(problem.memory_units, kPanelVectors * L)),
        query_panels_(memory_.additive ? CeilDiv(problem.attention_units, kPanelVectors * L) : 0) {}

  // `residuals` points behind the residuals of the cell.
  void Allocate(Workspace& workspace, const T* residuals) {
    const int64_t rows = problem_.time * problem_.batch;
    contexts_ = residuals == nullptr ? nullptr : residuals + memory_.QueriesSize(problem_);
    if (memory_.additive) {
      queries_ = residuals;
      query_kernel_ = workspace.Allocate<T>(unit_panels_ * QueryPanelSize());
      score_vector_ = workspace.AllocateZeros<T>(memory_.padded_attention);
      d_scores_ = workspace.Allocate<T>(problem_.batch * memory_.padded_attention);
    } else {
      copied_queries_ = workspace.Allocate<T>(rows * memory_.padded_attention);
      queries_ = copied_queries_;
    }
    d_queries_ = workspace.Allocate<T>((memory_.additive ? rows : problem_.batch) * memory_.padded_attention);
    d_contexts_ = workspace.Allocate<T>(rows * memory_.padded_units);
    d_energies_ = workspace.Allocate<T>(rows * memory_.source);
    if (memory_.additive || problem_.attentional) hidden_ = workspace.Allocate<T>(rows * (hidden_units_ + kTile));
    if (problem_.attends_after) d_fed_ = workspace.Allocate<T>(problem_.batch * memory_.padded_fed);
    if (problem_.attentional) {
      hidden_kernel_ = workspace.Allocate<T>(unit_panels_ * AttentionalPanelSize());
      context_kernel_ = workspace.Allocate<T>(context_panels_ * AttentionalPanelSize());
      d_attentional_ = workspace.AllocateZeros<T>(rows * memory_.padded_fed);
      packed_contexts_ = workspace.Allocate<T>(rows * (memory_.units + kTile));
    }
    if (problem_.weighting != Weighting::kSoftmax) {
      previous_ = workspace.Allocate<T>(rows * memory_.source);
      d_previous_ = workspace.AllocateZeros<T>(problem_.batch * memory_.source);
      scratch_ = workspace.Allocate<T>(problem_.batch * memory_.source * 4);
    }
    if (problem_.covers) {
      coverage_kernel_ = workspace.AllocateZeros<T>(memory_.padded_attention);
      coverage_ = workspace.Allocate<T>(rows * memory_.source);
      d_coverage_ = workspace.AllocateZeros<T>(problem_.batch * memory_.source);
      d_coverage_kernels_ = workspace.Allocate<T>(problem_.batch * memory_.padded_attention);
    }
    sums_.Allocate(workspace);
  }

  FedRows<T> AllFedRows() const {
    if (!problem_.attends_after) {
      return {nullptr, contexts_, 0, problem_.batch * memory_.padded_units, memory_.padded_units, memory_.units};
    }
    const int64_t columns = memory_.fed_units, length = problem_.time * columns;
    const T* initial = static_cast<const T*>(arguments_.initial_fed);
    if (arguments_.reverse) return {initial, fed_, length, -columns, length, columns};
    return {initial, fed_, -columns, columns, length, columns};
  }

  // Packs the weights.
  void Prepare(Worker& worker) {
    if (problem_.attentional) {
      worker.ForEach(unit_panels_ + context_panels_, [&](int64_t item) { PackAttentionalKernel(item); });
    }
    if (!memory_.additive) return;
    worker.ForEach(unit_panels_ + 1, [&](int64_t item) {
      if (item < unit_panels_) {
        PackTransposed(static_cast<const T*>(arguments_.query_kernel), hidden_units_, query_layout_, 1, kPlainColumns,
                       item, query_kernel_ + item * QueryPanelSize());
      } else if (memory_.attention_units > 0) {
        memcpy(score_vector_, arguments_.score_vector, memory_.attention_units * sizeof(T));
        if (problem_.covers) {
          memcpy(coverage_kernel_, arguments_.coverage_kernel, memory_.attention_units * sizeof(T));
        }
      }
    });
    if (problem_.covers) worker.ForEach(problem_.batch, [&](int64_t b) { ComputeCoverage(b); });
    if (problem_.weighting != Weighting::kSoftmax) {
      worker.ForEach(problem_.batch, [&](int64_t b) { CopyPreviousWeights(b); });
    }
  }

  T* ContextGradient(int64_t step, int64_t b) { return d_contexts_ + Row(step, b) * memory_.padded_units; }

  // Takes the gradient of what attention feeds to `step`, `kPanelVectors` vectors of it. Before the cell that is the
  // context. After it, `step` may be the number of steps, which no step follows, or 0, before which come the initial
  // values; the gradient of what the step before fed becomes that of its context or of its attentional vector.
  void TakeFedGradient(int64_t step, int64_t b, int64_t unit, V d_fed) {
    if (!problem_.attends_after) return Store(ContextGradient(step, b) + unit, d_fed);
    const int64_t units = memory_.fed_units;
    T* carried = d_fed_ + b * memory_.padded_fed + unit;
    if (step == problem_.time) {
      const T* final_fed = static_cast<const T*>(upstream_.final_fed);
      d_fed = final_fed == nullptr ? V{} : LoadUnits<T>(final_fed + b * units, unit, units);
    } else if (!Visible(problem_, b, TimeOf(problem_, arguments_, step))) {
      d_fed = Load(carried);  // the step handed it on
    }
    if (step == 0) {
      T* d_initial = static_cast<T*>(gradients_.initial_fed);
      if (d_initial != nullptr) StoreFirst(d_initial + b * units + unit, d_fed, units - unit);
      return;
    }
    const int64_t t = TimeOf(problem_, arguments_, step - 1), offset = (b * problem_.time + t) * units;
    const T* upstream = static_cast<const T*>(upstream_.fed);
    if (upstream != nullptr) d_fed += LoadUnits<T>(upstream + offset, unit, units);
    Store(carried, d_fed);
    if (!Visible(problem_, b, t)) {
      d_fed = V{};
    } else if (problem_.attentional && !problem_.linear) {
      const V fed = LoadUnits<T>(fed_ + offset, unit, units);
      d_fed *= 1 - fed * fed;
    }
    Store((problem_.attentional ? AttentionalGradient(step - 1, b) : ContextGradient(step - 1, b)) + unit, d_fed);
  }

  // From the gradients of the attentional vectors of a step to those of its contexts.
  void DifferentiateAttentional(Worker& worker, int64_t step) {
    if (!problem_.attentional) return;
    const int64_t blocks = CeilDiv(problem_.batch, kRowBlock);
    worker.ForEach(context_panels_ * blocks, [&](int64_t item) {
      const int64_t panel = item / blocks, first = item % blocks * kRowBlock, unit = panel * kPanelVectors * L;
      static const T kZeros[kPanelVectors * L] = {};
      const T* left[kRowBlock];
      T* sums[kRowBlock] = {};
      const int64_t count = BlockEnd(problem_, item % blocks) - first;
      for (int64_t i = 0; i < count; ++i) {
        left[i] = AttentionalGradient(step, first + i);  // zeros where masked
        sums[i] = ContextGradient(step, first + i) + unit;
      }
      MultiplyRows<kPanelVectors>(Rows<T>{left, memory_.padded_fed, 0, 1}, count,
                                  context_kernel_ + panel * AttentionalPanelSize(), sums, L, kZeros);
      for (int64_t i = 0; i < count && unit + kPanelVectors * L > memory_.units; ++i) {
        for (int v = 0; v < kPanelVectors; ++v) {  // infinity times the padding of the kernel is NaN
          Store(sums[i] + v * L, KeepFirst<T>(Load(sums[i] + v * L), memory_.units - unit - v * L));
        }
      }
    });
  }

  // From the gradients of the contexts of a step to those of its queries.
  void DifferentiateQueries(Worker& worker, int64_t step) {
    worker.ForEach(problem_.batch, [&](int64_t b) { DifferentiateQuery(step, b); }, step % 2 == 1);
  }

  // Adds, for a panel of units, the gradients of h through the queries and the attentional vectors of a step.
  // `d_hidden` are those of sequence 0; the rows of sequences are `row_size` apart.
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
    if (memory_.additive) {
      MultiplyRows<kPanelVectors>(Rows<T>{left, memory_.padded_attention, 0, 1}, rows.count,
                                  query_kernel_ + panel * QueryPanelSize(), sum_rows, L, kZeros);
    } else {
      for (int64_t i = 0; i < rows.count; ++i) {  // the query is h
        memcpy(sum_rows[i], left[i] + panel * kPanelVectors * L, kPanelVectors * L * sizeof(T));
      }
    }
    if (problem_.attentional) {
      for (int64_t i = 0; i < rows.count; ++i) left[i] = AttentionalGradient(step, rows.sequence[i]);
      MultiplyRows<kPanelVectors>(Rows<T>{left, memory_.padded_fed, 0, 1}, rows.count,
                                  hidden_kernel_ + panel * AttentionalPanelSize(), sum_rows, L, nullptr);
    }
    for (int64_t i = 0; i < rows.count; ++i) {
      for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t unit = (panel * kPanelVectors + v) * L;
        if (unit >= hidden_units_) break;
        T* to = d_hidden + rows.sequence[i] * row_size + unit;
        Store(to, Load(to) + Load(sums + (i * kPanelVectors + v) * L));
      }
    }
  }

  // The gradients that are sums over all steps. `hidden(step, b, unit)` is a vector of the h that a step attends with.
  template <class Hidden>
  void DifferentiateWeights(Worker& worker, const Hidden& hidden) {
    if (!memory_.additive) worker.ForEach(problem_.time, [&](int64_t step) { CopyQueries(step, hidden); });
    worker.ForEach(problem_.batch, [&](int64_t b) {
      MemoryGradients(b);
      memory_.additive ? KeyGradients(b) : DotKeyGradients(b);
      if (problem_.weighting != Weighting::kSoftmax) StoreMonotonicGradients(b);
    });
    const int64_t tiles = CeilDiv(hidden_units_, kTile), context_tiles = CeilDiv(memory_.units, kTile);
    if (gradients_.query_kernel != nullptr || gradients_.attentional_kernel != nullptr) {
      worker.ForEach(problem_.time, [&](int64_t step) {
        sums_.PackStep(step, hidden_units_, hidden_, [&](int64_t b, int64_t unit) { return hidden(step, b, unit); });
      });
    }
    if (gradients_.query_kernel != nullptr) {
      worker.ForEach(query_panels_ * tiles, [&](int64_t item) {
        sums_.WeightGradients(item % tiles, item / tiles, hidden_, hidden_units_, d_queries_, memory_.padded_attention,
                              memory_.attention_units, static_cast<T*>(gradients_.query_kernel));
      });
    }
    if (gradients_.attentional_kernel != nullptr) AttentionalKernelGradients(worker, tiles, context_tiles);
    if (memory_.additive) worker.ForEach(1, [&](int64_t) { VectorGradients(); });
  }

 private:
  int64_t AttentionalPanelSize() const { return memory_.padded_fed * kPanelVectors * L; }
  T* AttentionalGradient(int64_t step, int64_t b) { return d_attentional_ + Row(step, b) * memory_.padded_fed; }
  int64_t QueryPanelSize() const { return memory_.padded_attention * kPanelVectors * L; }
  int64_t Row(int64_t step, int64_t b) const { return step * problem_.batch + b; }
  const T* Query(int64_t step, int64_t b) const { return queries_ + Row(step, b) * memory_.padded_attention; }
  T* Coverage(int64_t step, int64_t b) const { return coverage_ + Row(step, b) * memory_.source; }
  T* EnergyGradient(int64_t step, int64_t b) { return d_energies_ + Row(step, b) * memory_.source; }
  T* QueryGradient(int64_t step, int64_t b) {
    return d_queries_ + (memory_.additive ? Row(step, b) : b) * memory_.padded_attention;
  }

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
    T* d_query = QueryGradient(step, b);
    memset(d_query, 0, memory_.padded_attention * sizeof(T));
    if (!memory_.additive) {
      if (memory_.source == 0) return;
      return AddWeightedRows(d_energies, memory_.KeyRow(b, 0), memory_.source, memory_.attention_units, d_query);
    }
    const T *query = Query(step, b), *coverage = problem_.covers ? Coverage(step, b) : nullptr;
    for (int64_t s = 0; s < memory_.source; ++s) {
      if (d_energies[s] == 0) continue;
      const T* key = memory_.KeyRow(b, s);
      V d_coverage{};
      for (int64_t unit = 0; unit < memory_.attention_units; unit += L) {
        V hidden = LoadUnits<T>(key, unit, memory_.attention_units) + Load(query + unit);
        if (coverage != nullptr) hidden += coverage[s] * Load(coverage_kernel_ + unit);
        hidden = Tanh<T>(hidden);
        const V d_hidden = d_energies[s] * Load(score_vector_ + unit) * (1 - hidden * hidden);
        Store(d_query + unit, Load(d_query + unit) + d_hidden);
        if (coverage != nullptr) d_coverage += d_hidden * Load(coverage_kernel_ + unit);
      }
      if (coverage != nullptr) d_coverage_[b * memory_.source + s] += SumOf<T>(d_coverage);
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
      const V cover = problem_.covers ? Load(coverage_kernel_ + unit) : V{};
      V d_score{}, d_cover{};
      for (int64_t s = 0; s < memory_.source; ++s) {
        const V key = LoadUnits<T>(memory_.KeyRow(b, s), unit, units);
        V d_key{};
        for (int64_t step = 0; step < problem_.time; ++step) {
          const T d_energy = *(EnergyGradient(step, b) + s);
          if (d_energy == 0) continue;
          V hidden = key + Load(Query(step, b) + unit);
          if (problem_.covers) hidden += Coverage(step, b)[s] * cover;
          hidden = Tanh<T>(hidden);
          const V d_hidden = d_energy * (1 - hidden * hidden);
          d_key += d_hidden;
          d_score += d_energy * hidden;
          if (problem_.covers) d_cover += Coverage(step, b)[s] * d_hidden;
        }
        if (d_keys == nullptr) continue;
        StoreFirst(d_keys + (b * memory_.source + s) * units + unit, d_key * score, units - unit);
      }
      Store(d_scores_ + b * memory_.padded_attention + unit, d_score);
      if (problem_.covers) Store(d_coverage_kernels_ + b * memory_.padded_attention + unit, d_cover * score);
    }
  }

  // The coverage before each step, as the forward pass sums it, and the gradient of the one after the last.
  void ComputeCoverage(int64_t b) {
    const T* initial = static_cast<const T*>(arguments_.initial_coverage);
    const T* final_gradient = static_cast<const T*>(upstream_.final_coverage);
    for (int64_t s = 0; s < memory_.source; ++s) {
      const int64_t at = b * memory_.source + s;
      T coverage = initial[at];
      for (int64_t step = 0; step < problem_.time; ++step) {
        Coverage(step, b)[s] = coverage;
        coverage += attention_weights_[AttentionWeightsOffset(step, b) + s];  // 0 where the step is masked
      }
      if (final_gradient != nullptr) d_coverage_[at] = final_gradient[at];
    }
  }

  const T* DifferentiateEnergies(int64_t step, int64_t b) {
    const T* attention_weights = attention_weights_ + AttentionWeightsOffset(step, b);
    const T* d_context = ContextGradient(step, b);
    const T* upstream = static_cast<const T*>(upstream_.attention_weights);
    if (upstream != nullptr) upstream += AttentionWeightsOffset(step, b);
    T *d_energies = EnergyGradient(step, b), mean = 0;
    const bool softmax = problem_.weighting == Weighting::kSoftmax;
    for (int64_t s = 0; s < memory_.source; ++s) {
      T d_weight = 0;
      // 0 where masked, or where too small to have a gradient
      if (softmax ? attention_weights[s] != 0 : memory_.Visible(b, s)) {
        V sum{};
        for (int64_t unit = 0; unit < memory_.units; unit += L) {
          sum += LoadUnits<T>(memory_.MemoryRow(b, s), unit, memory_.units) * Load(d_context + unit);
        }
        d_weight = SumOf<T>(sum) + (upstream != nullptr ? upstream[s] : 0);
        if (problem_.covers) d_weight += d_coverage_[b * memory_.source + s];  // of the next step
      }
      d_energies[s] = d_weight;
      mean += attention_weights[s] * d_weight;
    }
    if (!softmax) return DifferentiateMove(step, b, d_energies);
    for (int64_t s = 0; s < memory_.source; ++s) d_energies[s] = attention_weights[s] * (d_energies[s] - mean);
    return d_energies;
  }

  // From the gradients of monotonic attention weights, in place, to those of energies and of the weights before. The
  // energies are computed again.
  const T* DifferentiateMove(int64_t step, int64_t b, T* gradients) {
    const int64_t source = memory_.source;
    T* d_previous = d_previous_ + b * source;
    if (problem_.weighting == Weighting::kHard) {  // no gradient passes a decision
      memset(gradients, 0, source * sizeof(T));
      memset(d_previous, 0, source * sizeof(T));
      return gradients;
    }
    const T* bias = static_cast<const T*>(arguments_.energy_bias) + AttentionWeightsOffset(step, b);
    T *energies = scratch_ + b * source * 4, *scratch = energies + source;
    const auto visible = [&](int64_t s) { return memory_.Visible(b, s); };
    for (int64_t s = 0; s < source; ++s) {
      if (!visible(s)) continue;
      energies[s] = AdditiveEnergy(memory_, Query(step, b), memory_.KeyRow(b, s), score_vector_) + bias[s];
    }
    const T* previous = previous_ + Row(step, b) * source;
    DifferentiateReader<T>(source, visible, energies, previous, d_previous, scratch, gradients);
    return gradients;
  }

  // The attention weights before each step, which a masked step leaves as they were, and the gradient of the last ones.
  void CopyPreviousWeights(int64_t b) {
    const int64_t source = memory_.source;
    if (source == 0) return;
    const T* previous = static_cast<const T*>(arguments_.initial_weights) + b * source;
    for (int64_t step = 0; step < problem_.time; ++step) {
      memcpy(previous_ + Row(step, b) * source, previous, source * sizeof(T));
      if (Visible(problem_, b, TimeOf(problem_, arguments_, step))) {
        previous = attention_weights_ + AttentionWeightsOffset(step, b);
      }
    }
    const T* final_gradient = static_cast<const T*>(upstream_.final_weights);
    if (final_gradient != nullptr) memcpy(d_previous_ + b * source, final_gradient + b * source, source * sizeof(T));
  }

  // The gradients of what is added to the energies, and of the first attention weights.
  void StoreMonotonicGradients(int64_t b) {
    const int64_t source = memory_.source;
    T *d_bias = static_cast<T*>(gradients_.energy_bias), *d_initial = static_cast<T*>(gradients_.initial_weights);
    for (int64_t step = 0; d_bias != nullptr && source > 0 && step < problem_.time; ++step) {
      memcpy(d_bias + AttentionWeightsOffset(step, b), EnergyGradient(step, b), source * sizeof(T));
    }
    if (d_initial != nullptr && source > 0) {
      memcpy(d_initial + b * source, d_previous_ + b * source, source * sizeof(T));
    }
  }

  // d_memory_s = sum_t a_ts d_context_t.
  void MemoryGradients(int64_t b) {
    T* d_memory = static_cast<T*>(gradients_.memory);
    if (d_memory == nullptr) return;
    sums_.SumOverSteps(b, [&](int64_t step) { return attention_weights_ + AttentionWeightsOffset(step, b); },
                       ContextGradient(0, b), memory_.padded_units, memory_.units,
                       d_memory + b * memory_.source * memory_.units);
  }

  // With the dot score, d_key_s = sum_t d_energy_ts query_t.
  void DotKeyGradients(int64_t b) {
    T* d_keys = static_cast<T*>(gradients_.keys);
    if (d_keys == nullptr) return;
    sums_.SumOverSteps(b, [&](int64_t step) { return EnergyGradient(step, b); }, Query(0, b), memory_.padded_attention,
                       memory_.attention_units, d_keys + b * memory_.source * memory_.attention_units);
  }

  // Copies h as the queries of a step: zeros where it is masked.
  template <class Hidden>
  void CopyQueries(int64_t step, const Hidden& hidden) {
    for (int64_t b = 0; b < problem_.batch; ++b) {
      T* query = copied_queries_ + Row(step, b) * memory_.padded_attention;
      const bool visible = Visible(problem_, b, TimeOf(problem_, arguments_, step));
      for (int64_t unit = 0; unit < memory_.padded_attention; unit += L) {
        Store(query + unit, visible && unit < hidden_units_ ? hidden(step, b, unit) : V{});
      }
    }
  }

  void PackAttentionalKernel(int64_t item) {
    const T* kernel = static_cast<const T*>(arguments_.attentional_kernel);
    if (item < unit_panels_) {
      PackTransposed(kernel, hidden_units_, attentional_layout_, 1, kPlainColumns, item,
                     hidden_kernel_ + item * AttentionalPanelSize());
    } else {
      item -= unit_panels_;
      PackTransposed(kernel + hidden_units_ * problem_.attentional_units, memory_.units, attentional_layout_, 1,
                     kPlainColumns, item, context_kernel_ + item * AttentionalPanelSize());
    }
  }

  void AttentionalKernelGradients(Worker& worker, int64_t tiles, int64_t context_tiles) {
    worker.ForEach(problem_.time, [&](int64_t step) {
      sums_.PackStep(step, memory_.units, packed_contexts_, [&](int64_t b, int64_t unit) {
        return Load(contexts_ + Row(step, b) * memory_.padded_units + unit);
      });
    });
    T* d_kernel = static_cast<T*>(gradients_.attentional_kernel);
    const int64_t units = problem_.attentional_units, panels = CeilDiv(units, kPanelVectors * L);
    worker.ForEach(panels * (tiles + context_tiles), [&](int64_t item) {
      const int64_t tile = item % (tiles + context_tiles), panel = item / (tiles + context_tiles);
      if (tile < tiles) {
        sums_.WeightGradients(tile, panel, hidden_, hidden_units_, d_attentional_, memory_.padded_fed, units, d_kernel);
      } else {
        sums_.WeightGradients(tile - tiles, panel, packed_contexts_, memory_.units, d_attentional_, memory_.padded_fed,
                              units, d_kernel + hidden_units_ * units);
      }
    });
  }

  // The gradients of vectors that all sequences have in common, and of the first coverage.
  void VectorGradients() {
    const int64_t units = memory_.attention_units, row_size = memory_.padded_attention;
    const int64_t count = problem_.batch * memory_.source;
    sums_.SumOverSequences(units, row_size, d_scores_, gradients_.score_vector);
    if (!problem_.covers) return;
    sums_.SumOverSequences(units, row_size, d_coverage_kernels_, gradients_.coverage_kernel);
    if (gradients_.initial_coverage == nullptr || count == 0) return;
    memcpy(gradients_.initial_coverage, d_coverage_, count * sizeof(T));
  }

  const Problem& problem_;
  const Arguments& arguments_;
  const Upstream& upstream_;
  const Gradients& gradients_;
  const Memory<T> memory_;
  StepSums<T> sums_;
  const T *const attention_weights_, *const fed_;
  const Layout query_layout_, attentional_layout_;
  const int64_t hidden_units_, unit_panels_, context_panels_, query_panels_;
  const T *queries_ = nullptr, *contexts_ = nullptr;
  T *query_kernel_ = nullptr, *score_vector_ = nullptr;  // the kernel is transposed, in panels
  // Of all steps. With the dot score, the gradients of queries are those of one step.
  T *d_queries_ = nullptr, *d_contexts_ = nullptr, *d_energies_ = nullptr;
  // Of monotonic attention: weights before each step; their gradient before one step; four rows for each sequence.
  T *previous_ = nullptr, *d_previous_ = nullptr, *scratch_ = nullptr;
  T* d_scores_ = nullptr;
  T *hidden_ = nullptr, *packed_contexts_ = nullptr;  // of all steps, packed
  // Coverage before each step, (time, batch, source); its gradient of one step; those of its kernel, for each sequence.
  T *coverage_kernel_ = nullptr, *coverage_ = nullptr, *d_coverage_ = nullptr, *d_coverage_kernels_ = nullptr;
  // After the cell: the gradients of what a step feeds to the next one, (batch, padded_fed); those of the attentional
  // vectors of all steps before tanh; and the rows of the attentional kernel, transposed, in panels.
  T *d_fed_ = nullptr, *d_attentional_ = nullptr, *hidden_kernel_ = nullptr, *context_kernel_ = nullptr;
  T* copied_queries_ = nullptr;  // of all steps; only with the dot score, where the residuals have none
};

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_ATTENTION_GRADIENTS_H_
