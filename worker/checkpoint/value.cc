#include "worker/checkpoint/value.h"

#include <algorithm>
#include <new>
#include <utility>

namespace muster::checkpoint {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

int64_t SizeOf(ElementType type) {
  switch (type) {
    case ElementType::kFloat64:
    case ElementType::kInt64:
      return 8;
    case ElementType::kFloat32:
    case ElementType::kInt32:
      return 4;
    case ElementType::kFloat16:
    case ElementType::kBFloat16:
    case ElementType::kInt16:
      return 2;
    case ElementType::kInt8:
    case ElementType::kUInt8:
    case ElementType::kBool:
      return 1;
  }
  return 1;
}

std::shared_ptr<Storage> NewStorage(ElementType type, int64_t elements) {
  auto storage = std::make_shared<Storage>();
  storage->type = type;
  storage->elements = elements;
  const auto size = static_cast<size_t>(std::max<int64_t>(1, storage->bytes()));
  storage->owner = std::shared_ptr<void>(::operator new(size, kAlignment), [](void* memory) {
    ::operator delete(memory, kAlignment);
  });
  storage->data = static_cast<char*>(storage->owner.get());
  return storage;
}

Value Value::Bool(bool value) {
  Value result;
  result.kind_ = Kind::kBool;
  result.data_ = value;
  return result;
}

Value Value::Integer(int64_t value) {
  Value result;
  result.kind_ = Kind::kInteger;
  result.data_ = value;
  return result;
}

Value Value::Real(double value) {
  Value result;
  result.kind_ = Kind::kReal;
  result.data_ = value;
  return result;
}

Value Value::Text(std::string value) {
  Value result;
  result.kind_ = Kind::kText;
  result.data_ = std::make_shared<const std::string>(std::move(value));
  return result;
}

Value Value::OfTensor(Tensor value) {
  Value result;
  result.kind_ = Kind::kTensor;
  result.data_ = std::make_shared<const Tensor>(std::move(value));
  return result;
}

Value Value::List(std::vector<Value> items) {
  Value result;
  result.kind_ = Kind::kList;
  result.data_ = std::make_shared<Container>(Container{.items = std::move(items)});
  return result;
}

Value Value::Tuple(std::vector<Value> items) {
  Value result = List(std::move(items));
  result.kind_ = Kind::kTuple;
  return result;
}

Value Value::Dict() {
  Value result = List({});
  result.kind_ = Kind::kDict;
  return result;
}

Value Value::OrderedDict() {
  Value result = List({});
  result.kind_ = Kind::kOrderedDict;
  return result;
}

std::optional<bool> Value::boolean() const {
  if (kind_ != Kind::kBool) return std::nullopt;
  return std::get<bool>(data_);
}

std::optional<int64_t> Value::integer() const {
  if (kind_ != Kind::kInteger) return std::nullopt;
  return std::get<int64_t>(data_);
}

std::optional<double> Value::real() const {
  if (kind_ == Kind::kInteger) return static_cast<double>(std::get<int64_t>(data_));
  if (kind_ != Kind::kReal) return std::nullopt;
  return std::get<double>(data_);
}

const std::string* Value::text() const {
  return kind_ == Kind::kText ? std::get<TextPointer>(data_).get() : nullptr;
}

const Tensor* Value::tensor() const {
  return kind_ == Kind::kTensor ? std::get<TensorPointer>(data_).get() : nullptr;
}

const std::string* Value::opaque_class() const {
  return kind_ == Kind::kOpaque ? std::get<TextPointer>(data_).get() : nullptr;
}

std::shared_ptr<const Storage> Value::storage() const {
  return kind_ == Kind::kStorage ? std::get<std::shared_ptr<const Storage>>(data_) : nullptr;
}

const std::vector<Value>* Value::items() const {
  const auto* container = std::get_if<std::shared_ptr<Container>>(&data_);
  return container == nullptr ? nullptr : &(*container)->items;
}

const Value* Value::Find(absl::string_view key) const {
  if (!is_dict()) return nullptr;
  const std::vector<Value>& entries = *items();
  for (size_t i = 0; i + 1 < entries.size(); i += 2) {
    const std::string* name = entries[i].text();
    if (name != nullptr && *name == key) return &entries[i + 1];
  }
  return nullptr;
}

void Value::Set(Value key, Value value) {
  auto& entries = std::get<std::shared_ptr<Container>>(data_)->items;
  entries.push_back(std::move(key));
  entries.push_back(std::move(value));
}

void Value::Set(absl::string_view key, Value value) {
  Set(Text(std::string(key)), std::move(value));
}

}  // namespace muster::checkpoint
