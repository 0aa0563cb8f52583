// SPDX-License-Identifier: Apache-2.0
#include "xla/sizes.h"

#include <algorithm>
#include <initializer_list>

namespace keras_seq {
namespace {

int64_t KnownSize(Axis axis, CellKind cell, const Sizes& sizes) {
  switch (axis) {
    case Axis::kBatch:
      return sizes.batch;
    case Axis::kTime:
      return sizes.time;
    case Axis::kFeatures:
      return sizes.features;
    case Axis::kUnits:
      return sizes.units;
    case Axis::kHiddenUnits:
      return sizes.hidden_units;
    case Axis::kGateUnits:
      return sizes.units == kUnknown ? kUnknown : Gates(cell) * sizes.units;
    case Axis::kMemories:
      return sizes.memories;
    case Axis::kSource:
      return sizes.source;
    case Axis::kMemoryUnits:
      return sizes.memory_units;
    case Axis::kAttentionUnits:
      return sizes.attention_units;
    case Axis::kInputUnits:
      return sizes.features == kUnknown || sizes.memory_units == kUnknown ? kUnknown
                                                                           : sizes.features + sizes.memory_units;
    case Axis::kFedUnits:
      return sizes.fed_units;
    case Axis::kFedInputUnits:
      return sizes.features == kUnknown || sizes.fed_units == kUnknown ? kUnknown : sizes.features + sizes.fed_units;
    case Axis::kAttentionalUnits:
      return sizes.units == kUnknown || sizes.memory_units == kUnknown ? kUnknown : sizes.units + sizes.memory_units;
    case Axis::kAttentionalHiddenUnits:
      return sizes.hidden_units == kUnknown || sizes.memory_units == kUnknown
                 ? kUnknown
                 : sizes.hidden_units + sizes.memory_units;
    case Axis::kTwo:
      return 2;
    case Axis::kThree:
      return 3;
    case Axis::kResiduals:
      break;
  }
  return kUnknown;
}

bool AllKnown(const Sizes& sizes) {
  const std::vector<int64_t> list = ListOf(sizes);
  return std::find(list.begin(), list.end(), kUnknown) == list.end();
}

DataType TypeOf(Element element) {
  if (element == Element::kFloat64) return DataType::kFloat64;
  return element == Element::kBFloat16 ? DataType::kBFloat16 : DataType::kFloat32;
}

// Whether so many sequences can attend to so many memories. Only a forward pass can share them.
bool CanShare(const Call& call, int64_t batch, int64_t memories) {
  if (call.pass == Pass::kBackward || call.keep_residuals || memories == 0) return batch == memories;
  return batch % memories == 0;
}

// Whether the product of the known sizes is within the limit. Zeros count as 1, so that they do not hide huge sizes.
bool Fits(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) {
    size = std::max<int64_t>(size, 1);
    if (size > kMaxElements / product) return false;
    product *= size;
  }
  return true;
}

}  // namespace

std::string NameOf(Axis axis, CellKind cell) {
  switch (axis) {
    case Axis::kBatch:
      return "batch";
    case Axis::kTime:
      return "time";
    case Axis::kFeatures:
      return "features";
    case Axis::kUnits:
      return "units";
    case Axis::kHiddenUnits:
      return "hidden_units";
    case Axis::kGateUnits:
      return Gates(cell) == 1 ? "units" : std::to_string(Gates(cell)) + " * units";
    case Axis::kMemories:
      return "memories";
    case Axis::kSource:
      return "source";
    case Axis::kMemoryUnits:
      return "memory_units";
    case Axis::kAttentionUnits:
      return "attention_units";
    case Axis::kInputUnits:
      return "features + memory_units";
    case Axis::kFedUnits:
      return "fed_units";
    case Axis::kFedInputUnits:
      return "features + fed_units";
    case Axis::kAttentionalUnits:
      return "units + memory_units";
    case Axis::kAttentionalHiddenUnits:
      return "hidden_units + memory_units";
    case Axis::kTwo:
      return "2";
    case Axis::kThree:
      return "3";
    case Axis::kResiduals:
      break;
  }
  return "residuals";
}

std::vector<int64_t> ListOf(const Sizes& sizes) {
  return {sizes.batch,  sizes.time,         sizes.features,        sizes.units,
          sizes.source, sizes.memory_units, sizes.attention_units, sizes.hidden_units};
}

Sizes WithoutAttention(const Operation& operation, Sizes sizes) {
  if (operation.attends) return sizes;
  sizes.fed_units = sizes.memories = sizes.source = sizes.memory_units = sizes.attention_units = 0;
  return sizes;
}

std::vector<int64_t*> PartsOf(Axis axis, Sizes* sizes) {
  switch (axis) {
    case Axis::kBatch:
      return {&sizes->batch};
    case Axis::kTime:
      return {&sizes->time};
    case Axis::kFeatures:
      return {&sizes->features};
    case Axis::kUnits:
    case Axis::kGateUnits:
      return {&sizes->units};
    case Axis::kHiddenUnits:
      return {&sizes->hidden_units};
    case Axis::kMemories:
      return {&sizes->memories};
    case Axis::kSource:
      return {&sizes->source};
    case Axis::kMemoryUnits:
      return {&sizes->memory_units};
    case Axis::kAttentionUnits:
      return {&sizes->attention_units};
    case Axis::kInputUnits:
      return {&sizes->features, &sizes->memory_units};
    case Axis::kFedUnits:
      return {&sizes->fed_units};
    case Axis::kFedInputUnits:
      return {&sizes->features, &sizes->fed_units};
    case Axis::kAttentionalUnits:
      return {&sizes->units, &sizes->memory_units};
    case Axis::kAttentionalHiddenUnits:
      return {&sizes->hidden_units, &sizes->memory_units};
    case Axis::kResiduals:
      return {&sizes->batch, &sizes->time, &sizes->units, &sizes->memory_units, &sizes->attention_units};
    case Axis::kTwo:
    case Axis::kThree:
      break;
  }
  return {};
}

int64_t SizeOf(Axis axis, const Call& call, const Sizes& sizes, Element element) {
  if (axis != Axis::kResiduals) return KnownSize(axis, call.operation.cell, sizes);
  if (!call.keep_residuals) return 0;
  if (!AllKnown(sizes) || element == Element::kOther) return kUnknown;
  return ResidualSize(ProblemOf(call, sizes, element));
}

bool Bind(Axis axis, int64_t size, const Call& call, Element element, Sizes* sizes) {
  const int64_t known = SizeOf(axis, call, *sizes, element);
  if (size == kUnknown || size == known) return true;
  if (known != kUnknown || size < 0 || size > kMaxElements) return false;
  if (axis == Axis::kGateUnits) {
    if (size % Gates(call.operation.cell)) return false;
    sizes->units = size / Gates(call.operation.cell);
  } else if (axis == Axis::kInputUnits) {
    if (sizes->features == kUnknown) return true;
    if (size < sizes->features) return false;
    sizes->memory_units = size - sizes->features;
  } else if (axis == Axis::kFedInputUnits || axis == Axis::kAttentionalUnits ||
             axis == Axis::kAttentionalHiddenUnits) {
    return true;  // tensors that come before tell the parts
  } else if (axis == Axis::kMemories) {
    if (sizes->batch != kUnknown && !CanShare(call, sizes->batch, size)) return false;
    sizes->memories = size;
  } else if (axis != Axis::kResiduals) {
    for (int64_t* part : PartsOf(axis, sizes)) *part = size;
  }
  return true;
}

bool SizesFit(const Call& call, const Sizes& sizes) {
  const int64_t gate_units = KnownSize(Axis::kGateUnits, call.operation.cell, sizes);
  const int64_t hidden_units = call.projects ? sizes.hidden_units : sizes.units;
  const int64_t key_units = call.score == Score::kDot ? hidden_units : sizes.attention_units;
  const int64_t memory = std::max(
      {sizes.memory_units, key_units, sizes.hidden_units, call.multiplied ? gate_units : 0, sizes.fed_units});
  return Fits({sizes.batch, sizes.time, std::max({sizes.features, gate_units, sizes.source, memory})}) &&
         Fits({std::max({sizes.features, sizes.units, memory}),
               std::max({gate_units, sizes.attention_units, sizes.fed_units})}) &&
         Fits({sizes.batch, sizes.source, memory});
}

Problem ProblemOf(const Call& call, const Sizes& sizes, Element element) {
  Problem problem = {};
  problem.cell = call.operation.cell;
  problem.dtype = TypeOf(element);
  problem.activation = call.activation;
  problem.recurrent_activation = call.recurrent_activation;
  problem.reset_after = call.reset_after;
  problem.layer_norm = call.layer_norm;
  problem.projects = call.projects;
  problem.projection_units = sizes.hidden_units;
  problem.batch = sizes.batch;
  problem.time = sizes.time;
  problem.features = sizes.features;
  problem.units = sizes.units;
  problem.attends = call.operation.attends;
  problem.source = sizes.source;
  problem.memory_units = sizes.memory_units;
  problem.multiplied = call.multiplied;
  problem.sequences_per_memory = sizes.memories > 0 ? std::max<int64_t>(sizes.batch / sizes.memories, 1) : 1;
  problem.score = call.score;
  problem.covers = call.covers;
  problem.weighting = call.weighting;
  problem.attends_after = call.attends_after;
  problem.attentional = call.attentional;
  problem.linear = call.linear;
  problem.attentional_units = call.attentional ? sizes.fed_units : 0;
  problem.attention_units = call.score == Score::kDot ? HiddenUnits(problem) : sizes.attention_units;
  return problem;
}

}  // namespace keras_seq
