// SPDX-License-Identifier: Apache-2.0
// The arguments and results of every op.
#include <algorithm>
#include <cstring>

#include "xla/call.h"

namespace keras_seq {
namespace {

const Axes kSequence = {Axis::kBatch, Axis::kTime, Axis::kFeatures};
const Axes kKernel = {Axis::kFeatures, Axis::kGateUnits};
const Axes kRecurrentKernel = {Axis::kHiddenUnits, Axis::kGateUnits};
const Axes kHidden = {Axis::kBatch, Axis::kHiddenUnits};  // h of one step, and of all
const Axes kHiddens = {Axis::kBatch, Axis::kTime, Axis::kHiddenUnits};
const Axes kState = {Axis::kBatch, Axis::kUnits};  // c
const Axes kStates = {Axis::kBatch, Axis::kTime, Axis::kUnits};
const Axes kMemory = {Axis::kMemories, Axis::kSource, Axis::kMemoryUnits};
const Axes kKeys = {Axis::kMemories, Axis::kSource, Axis::kAttentionUnits};
const Axes kQueryKernel = {Axis::kHiddenUnits, Axis::kAttentionUnits};
const Axes kScoreVector = {Axis::kAttentionUnits};
const Axes kPositions = {Axis::kBatch, Axis::kSource};
const Axes kFed = {Axis::kBatch, Axis::kTime, Axis::kFedUnits};
const Axes kFedState = {Axis::kBatch, Axis::kFedUnits};
const Axes kAttentionalKernel = {Axis::kAttentionalHiddenUnits, Axis::kFedUnits};
const Axes kAttentionWeights = {Axis::kBatch, Axis::kTime, Axis::kSource};

void ReplaceAxis(Axis from, Axis to, Axes* axes) { std::replace(axes->begin(), axes->end(), from, to); }

// Replaces an axis in all arguments and results.
void ReplaceAxis(Axis from, Axis to, Signature* signature) {
  for (std::vector<ArgumentSpec>* list : {&signature->inputs, &signature->outputs}) {
    for (ArgumentSpec& argument : *list) {
      for (Axes& axes : argument.shapes) ReplaceAxis(from, to, &axes);
    }
  }
}

Axes ShapeOf(ExtraWeight weight) {
  switch (weight) {
    case kPeepholeKernel:
      return {Axis::kThree, Axis::kUnits};
    case kProjectionKernel:
      return {Axis::kUnits, Axis::kHiddenUnits};
    case kInputGamma:
    case kRecurrentGamma:
      return {Axis::kGateUnits};
    case kStateGamma:
    case kStateBeta:
      return {Axis::kUnits};
    case kExtraWeightCount:
      break;
  }
  return {};
}

bool HasExtraWeight(const Operation& operation, ExtraWeight weight) {
  return operation.attends || HasExtraWeight(operation.cell, weight);  // an attribute names the cell
}

}  // namespace

Signature SignatureOf(const Operation& operation, Pass pass, bool reset_after) {
  const bool attends = operation.attends, has_c = attends || States(operation.cell) == 2;
  const bool two_biases = TraitsOf(operation.cell).HasTwoBiases(reset_after);
  const Axes bias = two_biases ? Axes{Axis::kTwo, Axis::kGateUnits} : Axes{Axis::kGateUnits};
  const Axes kernel = {attends ? Axis::kInputUnits : Axis::kFeatures, Axis::kGateUnits};
  const std::vector<Axes> hidden_mask = {kHidden, kHiddens}, unit_mask = {kState, kStates};
  // If an attribute names the cell, the lists of c have their own lengths, which are 0 for a cell without c.
  const char* initial_c = attends ? "initial_cells" : "initial_states";
  const char* final_c = attends ? "cells" : "directions";
  const char* wanted_c = attends ? "wanted_initial_cells" : "wanted_initial_states";
  const auto append = [](std::vector<ArgumentSpec>* list, const std::vector<ArgumentSpec>& more) {
    list->insert(list->end(), more.begin(), more.end());
  };

  std::vector<ArgumentSpec> inputs = {{"inputs", "directions", Kind::kData, {kSequence}}};
  if (attends) {
    append(&inputs, {{"memory", "directions", Kind::kData, {kMemory}},
                     {"keys", "directions", Kind::kData, {kKeys}},
                     {"query_kernel", "query_kernels", Kind::kData, {kQueryKernel}},
                     {"score_vector", "score_vectors", Kind::kData, {kScoreVector}},
                     {"memory_mask", "memory_masks", Kind::kMask, {{Axis::kMemories, Axis::kSource}}},
                     {"coverage_kernel", "coverages", Kind::kData, {kScoreVector}},
                     {"initial_coverage", "coverages", Kind::kData, {kPositions}},
                     {"energy_bias", "previous_weights", Kind::kData, {kAttentionWeights}},
                     {"initial_weights", "previous_weights", Kind::kData, {kPositions}},
                     {"attentional_kernel", "attentional_kernels", Kind::kData, {kAttentionalKernel}},
                     {"initial_fed", "feeds", Kind::kData, {kFedState}}});
  }
  append(&inputs, {{"kernel", pass == Pass::kForward ? "kernels" : "directions", Kind::kData, {kernel}},
                   {"recurrent_kernel", "directions", Kind::kData, {kRecurrentKernel}},
                   {"bias", "biases", Kind::kData, {bias}},
                   {"initial_h", "initial_states", Kind::kData, {kHidden}}});
  if (has_c) inputs.push_back({"initial_c", initial_c, Kind::kData, {kState}});
  for (const ExtraWeightTraits& extra : kExtraWeights) {
    if (!HasExtraWeight(operation, extra.weight)) continue;
    inputs.push_back({extra.name, extra.count, Kind::kData, {ShapeOf(extra.weight)}});
  }
  append(&inputs, {{"mask", "masks", Kind::kMask, {{Axis::kBatch, Axis::kTime}}},
                   {"recurrent_dropout_mask", "recurrent_dropout_masks", Kind::kData, hidden_mask},
                   {"zoneout_mask_h", "zoneout_masks_h", Kind::kData, hidden_mask}});
  if (has_c) inputs.push_back({"zoneout_mask_c", "zoneout_masks_c", Kind::kData, unit_mask});

  std::vector<ArgumentSpec> results = {{"outputs", "directions", Kind::kData, {kHiddens}}};
  if (attends) {
    append(&results, {{"attention_weights", "directions", Kind::kData, {kAttentionWeights}},
                      {"fed", "feeds", Kind::kData, {kFed}}});
  }
  const ArgumentSpec residuals = {"residuals", "directions", Kind::kResiduals, {{Axis::kResiduals}}};
  if (pass == Pass::kForward) {
    results.push_back({"final_h", "directions", Kind::kData, {kHidden}});
    if (has_c) results.push_back({"final_c", final_c, Kind::kData, {kState}});
    if (attends) {
      append(&results, {{"final_fed", "feeds", Kind::kData, {kFedState}},
                        {"final_coverage", "coverages", Kind::kData, {kPositions}},
                        {"final_weights", "previous_weights", Kind::kData, {kPositions}}});
    }
    results.push_back(residuals);
    return {inputs, results};
  }

  append(&inputs, results);
  inputs.push_back(residuals);
  inputs.push_back({"d_outputs", "upstream_outputs", Kind::kData, {kHiddens}});
  if (attends) {
    append(&inputs, {{"d_attention_weights", "upstream_attention_weights", Kind::kData, {kAttentionWeights}},
                     {"d_fed", "upstream_fed", Kind::kData, {kFed}},
                     {"d_final_fed", "upstream_final_fed", Kind::kData, {kFedState}},
                     {"d_final_coverage", "upstream_coverages", Kind::kData, {kPositions}},
                     {"d_final_weights", "upstream_final_weights", Kind::kData, {kPositions}}});
  }
  inputs.push_back({"d_final_h", "upstream_h", Kind::kData, {kHidden}});
  if (has_c) inputs.push_back({"d_final_c", "upstream_c", Kind::kData, {kState}});

  std::vector<ArgumentSpec> gradients = {{"d_inputs", "wanted_inputs", Kind::kData, {kSequence}}};
  if (attends) {
    append(&gradients, {{"d_memory", "wanted_memories", Kind::kData, {kMemory}},
                        {"d_keys", "wanted_keys", Kind::kData, {kKeys}},
                        {"d_query_kernel", "wanted_query_kernels", Kind::kData, {kQueryKernel}},
                        {"d_score_vector", "wanted_score_vectors", Kind::kData, {kScoreVector}},
                        {"d_coverage_kernel", "wanted_coverage_kernels", Kind::kData, {kScoreVector}},
                        {"d_initial_coverage", "wanted_coverages", Kind::kData, {kPositions}},
                        {"d_energy_bias", "wanted_energy_biases", Kind::kData, {kAttentionWeights}},
                        {"d_initial_weights", "wanted_initial_weights", Kind::kData, {kPositions}},
                        {"d_attentional_kernel", "wanted_attentional_kernels", Kind::kData, {kAttentionalKernel}},
                        {"d_initial_fed", "wanted_feeds", Kind::kData, {kFedState}}});
  }
  append(&gradients, {{"d_kernel", "wanted_kernels", Kind::kData, {kernel}},
                      {"d_recurrent_kernel", "wanted_recurrent_kernels", Kind::kData, {kRecurrentKernel}},
                      {"d_bias", "wanted_biases", Kind::kData, {bias}},
                      {"d_initial_h", "wanted_initial_states", Kind::kData, {kHidden}}});
  if (has_c) gradients.push_back({"d_initial_c", wanted_c, Kind::kData, {kState}});
  for (const ExtraWeightTraits& extra : kExtraWeights) {
    if (!HasExtraWeight(operation, extra.weight)) continue;
    gradients.push_back({extra.gradient, extra.wanted, Kind::kData, {ShapeOf(extra.weight)}});
  }
  return {inputs, gradients};
}

void TakeProducts(bool attends_after, Signature* signature) {
  for (ArgumentSpec& input : signature->inputs) {
    if (!std::strcmp(input.name, "inputs") || (!std::strcmp(input.name, "memory") && !attends_after)) {
      input.shapes[0].back() = Axis::kGateUnits;
    }
  }
}

void OmitProjection(Signature* signature) {
  ReplaceAxis(Axis::kHiddenUnits, Axis::kUnits, signature);
  ReplaceAxis(Axis::kAttentionalHiddenUnits, Axis::kAttentionalUnits, signature);
}

void CompareKeysWithHidden(Signature* signature) {
  for (std::vector<ArgumentSpec>* list : {&signature->inputs, &signature->outputs}) {
    for (ArgumentSpec& argument : *list) {
      if (std::strcmp(argument.name, "keys") && std::strcmp(argument.name, "d_keys")) continue;
      ReplaceAxis(Axis::kAttentionUnits, Axis::kHiddenUnits, &argument.shapes[0]);
    }
  }
}

void FeedAttentionalVectors(Signature* signature) {
  ReplaceAxis(Axis::kInputUnits, Axis::kFedInputUnits, signature);
}

void FeedContexts(Signature* signature) { ReplaceAxis(Axis::kFedUnits, Axis::kMemoryUnits, signature); }

std::vector<const char*> CountNames(const Signature& signature) {
  std::vector<const char*> names;
  for (const std::vector<ArgumentSpec>* list : {&signature.inputs, &signature.outputs}) {
    for (const ArgumentSpec& argument : *list) {
      auto same = [&argument](const char* name) { return !std::strcmp(name, argument.count_name); };
      if (std::none_of(names.begin(), names.end(), same)) names.push_back(argument.count_name);
    }
  }
  return names;
}

}  // namespace keras_seq
