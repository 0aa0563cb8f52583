// SPDX-License-Identifier: Apache-2.0
#include "xla/call.h"

#include <algorithm>
#include <iterator>

namespace keras_seq {
namespace {

constexpr int64_t kMaxDirections = 32;  // `reverse` travels to XLA as the bits of an integer

// "a", "b" or "c"
std::string OneOf(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    text += (i == 0 ? "" : i + 1 < names.size() ? ", " : " or ") + ("\"" + names[i] + "\"");
  }
  return text;
}

// The checks of attributes that only an op that attends needs: its lists must fit the cell and the attention.
std::string CheckAttention(const Call& call) {
  const std::map<std::string, int64_t>& counts = call.counts;
  if (counts.at("directions") != 1) {
    return "`directions` must be 1. Received: " + std::to_string(counts.at("directions"));
  }
  const int64_t cells = States(call.operation.cell) - 1;
  auto expect = [&](const char* name, int64_t expected) {
    const auto count = counts.find(name);
    if (count == counts.end() || count->second == expected) return std::string();
    return "`" + std::string(name) + "` must be " + std::to_string(expected) + " with the cell \"" +
           NameOf(call.operation.cell) + "\", the score \"" + call.attention_attributes.at("score") +
           "\" and attention \"" + call.attention_attributes.at("attend") +
           "\" the cell. Received: " + std::to_string(count->second);
  };
  std::string error = call.pass == Pass::kForward ? expect("cells", cells) : "";
  if (error.empty()) error = expect("initial_cells", cells * counts.at("initial_states"));
  for (const char* name : {"zoneout_masks_c", "upstream_c", "wanted_initial_cells"}) {
    if (error.empty() && cells == 0) error = expect(name, 0);
  }
  const bool additive = call.score == Score::kAdditive;
  for (const char* name : {"query_kernels", "score_vectors"}) {
    if (error.empty()) error = expect(name, additive);
  }
  for (const char* name : {"wanted_query_kernels", "wanted_score_vectors", "coverages"}) {
    if (error.empty() && !additive) error = expect(name, 0);
  }
  for (const char* name : {"wanted_coverage_kernels", "wanted_coverages", "upstream_coverages"}) {
    if (error.empty() && !call.covers) error = expect(name, 0);
  }
  const bool softmax = call.weighting == Weighting::kSoftmax;
  if (error.empty() && !softmax && (!additive || call.covers)) {
    return "`weighting` must be \"softmax\" with the score \"dot\" or with coverage";
  }
  if (error.empty()) error = expect("previous_weights", !softmax);
  for (const char* name : {"wanted_energy_biases", "wanted_initial_weights", "upstream_final_weights"}) {
    if (error.empty() && softmax) error = expect(name, 0);
  }
  if (error.empty()) error = expect("feeds", call.attends_after);
  for (const char* name : {"attentional_kernels", "wanted_feeds", "upstream_fed", "upstream_final_fed"}) {
    if (error.empty() && !call.attends_after) error = expect(name, 0);
  }
  if (error.empty() && !call.attentional) error = expect("wanted_attentional_kernels", 0);
  for (const ExtraWeightTraits& extra : kExtraWeights) {
    if (error.empty() && !HasExtraWeight(call.operation.cell, extra.weight)) error = expect(extra.count, 0);
  }
  return error;
}

// Finds whether the call projects or normalizes. It has the gains of all its products, or none.
std::string FindExtensions(Call* call) {
  const auto count = [call](ExtraWeight weight) {
    const auto found = call->counts.find(kExtraWeights[weight].count);
    return found == call->counts.end() ? int64_t{0} : found->second;
  };
  call->projects = count(kProjectionKernel) > 0;
  call->layer_norm = count(kInputGamma) > 0;
  if (!call->projects) OmitProjection(&call->signature);
  for (ExtraWeight weight : {kRecurrentGamma, kStateGamma, kStateBeta}) {
    if (!HasExtraWeight(call->operation.cell, weight) || count(weight) == count(kInputGamma)) continue;
    return "`" + std::string(kExtraWeights[weight].count) + "` must equal `" + kExtraWeights[kInputGamma].count +
           "` = " + std::to_string(count(kInputGamma)) + ". Received: " + std::to_string(count(weight));
  }
  return "";
}

}  // namespace

const char* NameOf(CellKind cell) { return TraitsOf(cell).name; }

const char* NameOf(Activation activation) { return kActivationNames[static_cast<int>(activation)]; }

CellAttributes CellAttributesOf(const Operation& operation) {
  const CellTraits& cell = TraitsOf(operation.cell);
  return {operation.attends, operation.attends || cell.has_gates, operation.attends || cell.has_reset_after};
}

std::string FindCell(const std::string& name, CellKind* cell) {
  std::vector<std::string> names;
  for (size_t i = 0; i < std::size(kCells); ++i) {
    names.push_back(kCells[i].name);
    if (name != kCells[i].name) continue;
    *cell = static_cast<CellKind>(i);
    return "";
  }
  return "`cell` must be " + OneOf(names) + ". Received: \"" + name + "\"";
}

const std::vector<AttentionAttribute>& AttentionAttributes() {
  static const std::vector<AttentionAttribute> attributes = {
      {"score", {std::begin(kScoreNames), std::end(kScoreNames)}},
      {"attend", {"before", "after"}},
      {"attentional_activation", {"tanh", "linear"}},
      {"weighting", {std::begin(kWeightingNames), std::end(kWeightingNames)}},
  };
  return attributes;
}

std::string FinishAttention(Call* call) {
  const auto index_of = [call](const AttentionAttribute& attribute) {
    const std::string& value = call->attention_attributes[attribute.name];
    return std::find(attribute.values.begin(), attribute.values.end(), value) - attribute.values.begin();
  };
  const std::vector<AttentionAttribute>& attributes = AttentionAttributes();
  for (const AttentionAttribute& attribute : attributes) {
    if (index_of(attribute) < static_cast<int64_t>(attribute.values.size())) continue;
    return "`" + std::string(attribute.name) + "` must be " + OneOf(attribute.values) + ". Received: \"" +
           call->attention_attributes[attribute.name] + "\"";
  }
  call->score = static_cast<Score>(index_of(attributes[0]));
  call->attends_after = index_of(attributes[1]) == 1;
  call->linear = index_of(attributes[2]) == 1;
  call->weighting = static_cast<Weighting>(index_of(attributes[3]));
  call->attentional = call->counts["attentional_kernels"] > 0;
  call->covers = call->counts["coverages"] > 0;
  if (call->score == Score::kDot) CompareKeysWithHidden(&call->signature);
  call->attentional ? FeedAttentionalVectors(&call->signature) : FeedContexts(&call->signature);
  return "";
}

std::string FindActivation(const char* attribute, const std::string& name, Activation* activation) {
  for (size_t i = 0; i < std::size(kActivationNames); ++i) {
    if (name != kActivationNames[i]) continue;
    *activation = static_cast<Activation>(i);
    return "";
  }
  return "`" + std::string(attribute) + "` must be " +
         OneOf({std::begin(kActivationNames), std::end(kActivationNames)}) + ". Received: \"" + name + "\"";
}

std::string FinishCall(Call* call) {
  const char* no_instruction_set;
  if (InstructionSet(&no_instruction_set) == nullptr) return no_instruction_set;
  std::map<std::string, int64_t>& counts = call->counts;
  const int64_t directions = counts["directions"];
  if (directions < 1 || directions > kMaxDirections) {
    return "`directions` must be from 1 to " + std::to_string(kMaxDirections) +
           ". Received: " + std::to_string(directions);
  }
  for (const auto& [name, count] : counts) {
    const int64_t all = name == "masks" || name == "memory_masks" ? 1 : directions;
    if (count == 0 || count == all) continue;
    return "`" + name + "` must be 0 or " + std::to_string(all) + ". Received: " + std::to_string(count);
  }
  call->multiplied = call->pass == Pass::kForward && counts["kernels"] == 0;
  if (call->multiplied) {
    if (call->keep_residuals) return "`keep_residuals` must be false if `kernels` is 0: there is no gradient";
    TakeProducts(call->attends_after, &call->signature);
  }
  if (call->pass == Pass::kBackward && counts["wanted_biases"] > counts["biases"]) {
    return "`wanted_biases` must be 0 if `biases` is 0";
  }
  for (const ExtraWeightTraits& extra : kExtraWeights) {
    const auto wanted = counts.find(extra.wanted), given = counts.find(extra.count);
    if (wanted == counts.end() || wanted->second <= given->second) continue;
    return "`" + std::string(extra.wanted) + "` must be 0 if `" + extra.count + "` is 0";
  }
  if (call->operation.attends) {
    const std::string error = CheckAttention(*call);
    if (!error.empty()) return error;
  }
  const std::string extensions = FindExtensions(call);
  if (!extensions.empty()) return extensions;
  if (static_cast<int64_t>(call->reverse.size()) != directions) {
    return "`reverse` must have a value for each of the " + std::to_string(directions) +
           " directions. Received: " + std::to_string(call->reverse.size()) + " of them";
  }
  for (const ArgumentSpec& input : call->signature.inputs) call->input_counts.push_back(counts[input.count_name]);
  for (const ArgumentSpec& output : call->signature.outputs) call->output_counts.push_back(counts[output.count_name]);
  return "";
}

}  // namespace keras_seq
