// SPDX-License-Identifier: Apache-2.0
// The table of ops as JSON, so that Python has no list of its own:
//
//   {"states": {"LSTM": ["h", "c"], ...},
//    "ops": {"LSTM": {"attends": false,
//                     "attributes": {},            those that choose the equations, with their defaults
//                     "forward": {"inputs": [{"name": "inputs", "count": "directions", "kind": "data",
//                                             "shape": ["batch", "time", "features"]}, ...],
//                                 "outputs": [...]},
//                     "gradient": {"inputs": [...], "outputs": [...]}}, ...}}
//
// "count" is the attribute that holds the length of the list, "shape" the first of the shapes that are allowed.
#include "xla/call.h"
#include "xla/sizes.h"

namespace keras_seq {
namespace {

// Strings here are names, so nothing needs to be escaped.
std::string Quoted(const std::string& text) { return "\"" + text + "\""; }

std::string Joined(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

std::string Object(const std::vector<std::string>& members) { return "{" + Joined(members) + "}"; }

std::string Array(const std::vector<std::string>& items) { return "[" + Joined(items) + "]"; }

std::string Member(const std::string& name, const std::string& value) { return Quoted(name) + ": " + value; }

std::string Describe(const ArgumentSpec& argument, CellKind cell) {
  const char* kind = argument.kind == Kind::kMask ? "mask" : argument.kind == Kind::kData ? "data" : "residuals";
  std::vector<std::string> shape;
  for (Axis axis : argument.shapes[0]) shape.push_back(Quoted(NameOf(axis, cell)));
  return Object({Member("name", Quoted(argument.name)), Member("count", Quoted(argument.count_name)),
                 Member("kind", Quoted(kind)), Member("shape", Array(shape))});
}

std::string Describe(const std::vector<ArgumentSpec>& arguments, CellKind cell) {
  std::vector<std::string> items;
  for (const ArgumentSpec& argument : arguments) items.push_back(Describe(argument, cell));
  return Array(items);
}

std::string Describe(const Operation& operation, Pass pass) {
  const Signature signature = SignatureOf(operation, pass);
  return Object({Member("inputs", Describe(signature.inputs, operation.cell)),
                 Member("outputs", Describe(signature.outputs, operation.cell))});
}

std::string Describe(const Operation& operation) {
  const Call defaults = {};
  const CellAttributes has = CellAttributesOf(operation);
  std::vector<std::string> attributes;
  if (has.cell) attributes.push_back(Member("cell", Quoted(NameOf(operation.cell))));
  attributes.push_back(Member("activation", Quoted(NameOf(defaults.activation))));
  if (has.recurrent_activation) {
    attributes.push_back(Member("recurrent_activation", Quoted(NameOf(defaults.recurrent_activation))));
  }
  for (const AttentionAttribute& attribute : AttentionAttributes()) {
    if (operation.attends) attributes.push_back(Member(attribute.name, Quoted(attribute.values[0])));
  }
  if (has.reset_after) attributes.push_back(Member("reset_after", defaults.reset_after ? "true" : "false"));
  return Object({Member("attends", operation.attends ? "true" : "false"), Member("attributes", Object(attributes)),
                 Member("forward", Describe(operation, Pass::kForward)),
                 Member("gradient", Describe(operation, Pass::kBackward))});
}

std::string DescribeAll() {
  std::vector<std::string> states, ops;
  for (const CellTraits& cell : kCells) {
    states.push_back(Member(cell.name, cell.states == 2 ? Array({Quoted("h"), Quoted("c")}) : Array({Quoted("h")})));
  }
#define KERAS_SEQ_DESCRIBE(name, ...) ops.push_back(Member(#name, Describe(k##name##Operation)));
  KERAS_SEQ_FOR_EACH_OP(KERAS_SEQ_DESCRIBE)
#undef KERAS_SEQ_DESCRIBE
  return Object({Member("states", Object(states)), Member("ops", Object(ops))});
}

}  // namespace

const std::string& DescribeOps() {
  static const std::string description = DescribeAll();
  return description;
}

}  // namespace keras_seq
