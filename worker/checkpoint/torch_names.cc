#include "worker/checkpoint/torch_names.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "worker/checkpoint/value_builder.h"

namespace muster::checkpoint {
namespace {

using Kind = Value::Kind;

constexpr size_t kMaxDimensions = 16;

struct StorageClass {
  absl::string_view name;
  ElementType type;
};

constexpr StorageClass kStorageClasses[] = {
    {"FloatStorage", ElementType::kFloat32}, {"DoubleStorage", ElementType::kFloat64},
    {"HalfStorage", ElementType::kFloat16},  {"BFloat16Storage", ElementType::kBFloat16},
    {"LongStorage", ElementType::kInt64},    {"IntStorage", ElementType::kInt32},
    {"ShortStorage", ElementType::kInt16},   {"CharStorage", ElementType::kInt8},
    {"ByteStorage", ElementType::kUInt8},    {"BoolStorage", ElementType::kBool},
};

absl::StatusOr<Value> MakeOrderedDict(const std::vector<Value>& arguments, int64_t* copies_left) {
  Value dict = Value::OrderedDict();
  if (arguments.empty()) return dict;
  const absl::Status unknown = BrokenPickle("an OrderedDict is made of something other than pairs");
  if (arguments.size() != 1 || arguments[0].kind() != Kind::kList) return unknown;
  *copies_left -= static_cast<int64_t>(arguments[0].items()->size());
  if (*copies_left < 0) return BrokenPickle("it copies too many values");
  for (const Value& pair : *arguments[0].items()) {
    const std::vector<Value>* items = pair.items();
    if (items == nullptr || pair.is_dict() || items->size() != 2) return unknown;
    MUSTER_RETURN_IF_ERROR(ValueBuilder::Add(dict, *items));
  }
  return dict;
}

// (storage, offset, shape, strides, ...); what follows is of no use without gradients.
absl::StatusOr<Value> MakeTensor(const std::vector<Value>& arguments) {
  const absl::Status unknown = BrokenPickle("a tensor's description is not understood");
  if (arguments.size() < 4 || arguments[0].kind() != Kind::kStorage ||
      arguments[2].kind() != Kind::kTuple || arguments[3].kind() != Kind::kTuple ||
      arguments[2].items()->size() != arguments[3].items()->size() ||
      arguments[2].items()->size() > kMaxDimensions || arguments[1].integer().value_or(-1) < 0) {
    return unknown;
  }
  Tensor tensor;
  tensor.storage = arguments[0].storage();
  tensor.offset = *arguments[1].integer();
  for (const Value& size : *arguments[2].items()) {
    tensor.shape.push_back(size.integer().value_or(-1));
  }
  for (const Value& stride : *arguments[3].items()) {
    tensor.strides.push_back(stride.integer().value_or(-1));
  }
  // The last element that the tensor reaches must lie in the storage.
  bool empty = false;
  __int128 last = tensor.offset;
  __int128 elements = 1;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    const int64_t size = tensor.shape[i];
    if (size < 0 || tensor.strides[i] < 0) return BrokenPickle("a tensor has a negative size");
    if (size == 0) {
      empty = true;
      continue;
    }
    last += static_cast<__int128>(size - 1) * tensor.strides[i];
    elements *= size;
    if (last > INT64_MAX || elements > INT64_MAX) return BrokenPickle("a tensor is too large");
  }
  // A stride of 0 would let a few bytes stand for a tensor of any size.
  if (!empty && (last >= tensor.storage->elements || elements > tensor.storage->elements)) {
    return BrokenPickle("a tensor is larger than its storage");
  }
  return Value::OfTensor(std::move(tensor));
}

}  // namespace

absl::string_view StorageClassOf(ElementType type) {
  for (const StorageClass& storage_class : kStorageClasses) {
    if (storage_class.type == type) return storage_class.name;
  }
  return "";
}

std::optional<ElementType> StorageType(absl::string_view class_name) {
  for (const StorageClass& storage_class : kStorageClasses) {
    if (class_name == absl::StrCat("torch.", storage_class.name)) return storage_class.type;
  }
  return std::nullopt;
}

absl::StatusOr<Value> Call(const std::string& function, const std::vector<Value>& arguments,
                           int64_t* copies_left) {
  if (function == "collections.OrderedDict") return MakeOrderedDict(arguments, copies_left);
  if (function == "torch.Size" && arguments.size() == 1 && arguments[0].kind() == Kind::kTuple) {
    return arguments[0];
  }
  if (function == "torch._utils._rebuild_tensor_v2" || function == "torch._utils._rebuild_tensor") {
    return MakeTensor(arguments);
  }
  if (function == "torch._utils._rebuild_parameter" ||
      function == "torch._utils._rebuild_parameter_with_state") {
    if (arguments.empty() || arguments[0].tensor() == nullptr) {
      return BrokenPickle("a parameter is no tensor");
    }
    return arguments[0];
  }
  return ValueBuilder::Opaque(function);
}

absl::StatusOr<Value> OpenStorage(const Value& id, const LoadStorage& load_storage) {
  const std::vector<Value>* fields = id.kind() == Kind::kTuple ? id.items() : nullptr;
  if (fields == nullptr || fields->size() < 5 || (*fields)[1].opaque_class() == nullptr ||
      (*fields)[2].text() == nullptr || !(*fields)[4].integer().has_value()) {
    return BrokenPickle("a storage's description is not understood");
  }
  const std::optional<ElementType> type = StorageType(*(*fields)[1].opaque_class());
  if (!type.has_value()) return RefuseClass((*fields)[1]);
  if (fields->size() > 5 && (*fields)[5].kind() != Kind::kNone) {
    return BrokenPickle("a storage is a view of another, as no PyTorch since 0.4 writes it");
  }
  const StorageReference reference{*type, *(*fields)[2].text(), *(*fields)[4].integer()};
  if (reference.elements < 0) return BrokenPickle("a storage has a negative size");
  MUSTER_ASSIGN_OR_RETURN(std::shared_ptr<const Storage> storage, load_storage(reference));
  return ValueBuilder::OfStorage(std::move(storage));
}

}  // namespace muster::checkpoint
