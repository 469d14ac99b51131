#include "tests/support/pth_builder.h"

#include <zip.h>

#include <cstring>
#include <stdexcept>

#include "worker/checkpoint/pickle.h"

namespace muster::testing {
namespace {

using checkpoint::ElementType;
using checkpoint::Tensor;
using checkpoint::Value;

template <typename T>
void Count(const checkpoint::Storage& storage) {
  for (int64_t i = 0; i < storage.elements; ++i) {
    const T element = static_cast<T>(i);
    std::memcpy(storage.data + i * static_cast<int64_t>(sizeof(T)), &element, sizeof(T));
  }
}

void Check(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(what);
}

struct Pickled {
  std::string pickle;
  std::vector<Tensor> tensors;
};

Pickled Pickle(const Value& value) {
  Pickled result;
  const absl::StatusOr<std::string> pickle = checkpoint::Pickle(value, [&](const Tensor& tensor) {
    result.tensors.push_back(tensor);
    return std::to_string(result.tensors.size() - 1);
  });
  Check(pickle.ok(), "a value cannot be pickled");
  result.pickle = *pickle;
  return result;
}

std::string BytesOf(const Tensor& tensor) {
  return std::string(tensor.storage->data, static_cast<size_t>(tensor.storage->bytes()));
}

}  // namespace

Tensor CountingTensor(std::vector<int64_t> shape, ElementType type) {
  Tensor tensor;
  tensor.strides.assign(shape.size(), 1);
  int64_t elements = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    tensor.strides[i] = elements;
    elements *= shape[i];
  }
  tensor.shape = std::move(shape);
  tensor.storage = checkpoint::NewStorage(type, elements);
  switch (type) {
    case ElementType::kFloat32:
      Count<float>(*tensor.storage);
      break;
    case ElementType::kInt64:
      Count<int64_t>(*tensor.storage);
      break;
    case ElementType::kUInt8:
      Count<uint8_t>(*tensor.storage);
      break;
    default:
      throw std::runtime_error("no counting tensor of this type");
  }
  return tensor;
}

std::string PthOfRecords(const std::vector<Record>& records) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* target = zip_source_buffer_create(nullptr, 0, 0, &error);
  Check(target != nullptr, "no buffer for a zip");
  zip_source_keep(target);
  zip_t* archive = zip_open_from_source(target, ZIP_TRUNCATE, &error);
  Check(archive != nullptr, "no zip");
  for (const auto& [name, bytes] : records) {
    zip_source_t* source = zip_source_buffer(archive, bytes.data(), bytes.size(), 0);
    const zip_int64_t index = zip_file_add(archive, ("archive/" + name).c_str(), source, 0);
    Check(index >= 0, "a record cannot be added");
    zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0);
    zip_file_set_mtime(archive, static_cast<zip_uint64_t>(index), 0, 0);
  }
  Check(zip_close(archive) == 0, "a zip cannot be written");
  zip_stat_t stat;
  Check(zip_source_stat(target, &stat) == 0 && zip_source_open(target) == 0, "a zip is lost");
  std::string result(stat.size, '\0');
  Check(zip_source_read(target, result.data(), result.size()) ==
            static_cast<zip_int64_t>(result.size()),
        "a zip cannot be read");
  zip_source_close(target);
  zip_source_free(target);
  return result;
}

std::string PthOf(const Value& value) {
  const Pickled pickled = Pickle(value);
  std::vector<Record> records = {{"data.pkl", pickled.pickle}, {"byteorder", "little"}};
  for (size_t i = 0; i < pickled.tensors.size(); ++i) {
    records.emplace_back("data/" + std::to_string(i), BytesOf(pickled.tensors[i]));
  }
  return PthOfRecords(records);
}

std::string OldPthOf(const Value& value) {
  const Pickled pickled = Pickle(value);
  std::string bytes("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
  bytes += Pickle(Value::Integer(1001)).pickle;
  Value system = Value::Dict();
  system.Set("protocol_version", Value::Integer(1001));
  system.Set("little_endian", Value::Bool(true));
  bytes += Pickle(system).pickle;
  bytes += pickled.pickle;
  std::vector<Value> keys;
  for (size_t i = 0; i < pickled.tensors.size(); ++i) {
    keys.push_back(Value::Text(std::to_string(i)));
  }
  bytes += Pickle(Value::List(keys)).pickle;
  for (const Tensor& tensor : pickled.tensors) {
    const int64_t elements = tensor.storage->elements;
    bytes.append(reinterpret_cast<const char*>(&elements), sizeof(elements));
    bytes += BytesOf(tensor);
  }
  return bytes;
}

std::string SmallestPth() { return PthOf(Value::Dict()); }

}  // namespace muster::testing
