#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "worker/checkpoint/value.h"

namespace muster::checkpoint {

// InvalidArgument: "the pickle is damaged: <what>".
absl::Status BrokenPickle(absl::string_view what);

// What only the reader makes of values: containers that grow item by item, of which none can come
// to contain itself or to nest deeper than a destructor's recursion bears.
class ValueBuilder {
 public:
  static Value Opaque(std::string class_name);
  static Value OfStorage(std::shared_ptr<const Storage> storage);

  // A tuple that may lie in other containers from now on.
  static absl::StatusOr<Value> Tuple(std::vector<Value> items);

  // Adds to a list or dict which lies in no other container yet.
  static absl::Status Add(const Value& target, std::vector<Value> items);

 private:
  static absl::Status Append(std::vector<Value> items, Value::Container* container);
  static Value::Container* ContainerOf(const Value& value);
};

}  // namespace muster::checkpoint
