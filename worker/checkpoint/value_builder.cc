#include "worker/checkpoint/value_builder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace muster::checkpoint {
namespace {

// A pickle nested deeper is no checkpoint.
constexpr int kMaxDepth = 64;

}  // namespace

absl::Status BrokenPickle(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the pickle is damaged: ", what));
}

Value ValueBuilder::Opaque(std::string class_name) {
  Value value;
  value.kind_ = Value::Kind::kOpaque;
  value.data_ = std::make_shared<const std::string>(std::move(class_name));
  return value;
}

Value ValueBuilder::OfStorage(std::shared_ptr<const Storage> storage) {
  Value value;
  value.kind_ = Value::Kind::kStorage;
  value.data_ = std::move(storage);
  return value;
}

Value::Container* ValueBuilder::ContainerOf(const Value& value) {
  const auto* container = std::get_if<std::shared_ptr<Value::Container>>(&value.data_);
  return container == nullptr ? nullptr : container->get();
}

absl::Status ValueBuilder::Append(std::vector<Value> items, Value::Container* container) {
  for (Value& item : items) {
    if (Value::Container* inner = ContainerOf(item); inner != nullptr) {
      if (inner == container) return BrokenPickle("a value contains itself");
      inner->sealed = true;
      container->depth = std::max(container->depth, inner->depth + 1);
      if (container->depth > kMaxDepth) return BrokenPickle("values are nested too deeply");
    }
    container->items.push_back(std::move(item));
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> ValueBuilder::Tuple(std::vector<Value> items) {
  Value tuple = Value::Tuple({});
  ContainerOf(tuple)->items.reserve(items.size());
  MUSTER_RETURN_IF_ERROR(Append(std::move(items), ContainerOf(tuple)));
  return tuple;
}

absl::Status ValueBuilder::Add(const Value& target, std::vector<Value> items) {
  Value::Container* container = ContainerOf(target);
  if (container == nullptr || container->sealed || target.kind_ == Value::Kind::kTuple) {
    return BrokenPickle("a value that cannot grow grows");
  }
  return Append(std::move(items), container);
}

}  // namespace muster::checkpoint
