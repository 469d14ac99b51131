// The checkpoint readers: any bytes as a .pth of either format, as a pickle by itself (which a
// container's checksum would hide), and as safetensors.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "tests/fuzz/fuzz_target.h"
#include "tests/support/pth_builder.h"
#include "worker/checkpoint/pickle.h"
#include "worker/checkpoint/pth_reader.h"
#include "worker/checkpoint/safetensors_reader.h"

namespace muster::fuzz {
namespace {

using checkpoint::Storage;
using checkpoint::StorageReference;
using checkpoint::Tensor;
using checkpoint::Value;

// Reads every byte of the storage, and checks that the tensor's last element lies in it.
void Visit(const Tensor& tensor) {
  const Storage& storage = *tensor.storage;
  uint64_t sum = 0;
  for (int64_t i = 0; i < storage.bytes(); ++i) sum += static_cast<uint8_t>(storage.data[i]);
  Require(sum <= 255 * static_cast<uint64_t>(storage.bytes()), "bytes");
  Require(tensor.shape.size() == tensor.strides.size(), "a stride for each dimension");
  int64_t elements = 1;
  int64_t last = tensor.offset;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    Require(tensor.shape[i] >= 0 && tensor.strides[i] >= 0, "no negative sizes");
    if (tensor.shape[i] == 0) return;
    elements *= tensor.shape[i];
    last += (tensor.shape[i] - 1) * tensor.strides[i];
  }
  Require(tensor.offset >= 0 && last < storage.elements, "a tensor lies in its storage");
  Require(elements <= storage.elements, "a tensor is no larger than its storage");
}

// Values may share containers: each is looked at once.
void Visit(const Value& value, int depth, std::set<const void*>* seen) {
  Require(depth < 100, "values are not nested deeply");
  if (value.tensor() != nullptr) Visit(*value.tensor());
  const std::vector<Value>* items = value.items();
  if (items == nullptr || !seen->insert(items).second) return;
  for (const Value& item : *items) Visit(item, depth + 1, seen);
}

void Visit(const absl::StatusOr<Value>& value, absl::string_view name) {
  if (!value.ok()) {
    Require(absl::IsInvalidArgument(value.status()), "an error is InvalidArgument");
    Require(absl::StrContains(value.status().message(), name), "an error names the file");
    return;
  }
  Require(value->opaque_class() == nullptr, "the result is of no foreign class");
  std::set<const void*> seen;
  Visit(*value, 0, &seen);
  const auto tensors = checkpoint::TensorsOf(*value, "fuzzed");
  if (!tensors.ok()) return;
  for (const auto& [key, tensor] : *tensors) Visit(tensor);
}

template <size_t size>
std::string Bytes(const char (&literal)[size]) {
  return std::string(literal, size - 1);
}

Value Example() {
  Value state = Value::OrderedDict();
  state.Set("module.w", Value::OfTensor(testing::CountingTensor({2, 3})));
  state.Set("n", Value::OfTensor(testing::CountingTensor({}, checkpoint::ElementType::kInt64)));
  Value value = Value::Dict();
  value.Set("meta", Value::List({Value::Integer(1 << 20), Value::Real(0.5), Value::Bool(true),
                                 Value::Tuple({Value::Text("a"), Value()})}));
  value.Set("state_dict", state);
  return value;
}

}  // namespace

std::vector<std::string> Seeds() {
  const auto pickle = checkpoint::Pickle(Example(), [](const Tensor&) { return std::string("0"); });
  Require(pickle.ok(), "seed");
  const std::string header(R"({"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}})");
  const uint64_t size = header.size();
  return {testing::PthOf(Example()), testing::OldPthOf(Example()), testing::SmallestPth(), *pickle,
          // Opaque objects by every instruction that makes one, memo, sets, long numbers.
          Bytes("\x80\x04\x95\x08\0\0\0\0\0\0\0}\x94(\x8c\x01"
                "aca\nB\n)\x81}b\x8c\x01"
                "b\x8c\x01m\x8c\x01n\x93(tRq\1h\1\x8f(\x88\x90\x8a\1\xff(NN\x91U\1x]Na}NNsu."),
          Bytes("\x80\x02"
                "ccollections\nOrderedDict\n](U\1aN\x86"
                "e\x85R}b."),
          std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + "01234567"};
}

void FuzzOne(absl::Span<const uint8_t> input) {
  const absl::string_view bytes(reinterpret_cast<const char*>(input.data()), input.size());
  Visit(checkpoint::ReadPthFrom(bytes, "fuzzed"), "fuzzed");
  const checkpoint::LoadStorage load =
      [](const StorageReference& reference) -> absl::StatusOr<std::shared_ptr<const Storage>> {
    if (reference.elements > 1000) return absl::InvalidArgumentError("the pickle asks too much");
    const std::shared_ptr<Storage> storage =
        checkpoint::NewStorage(reference.type, reference.elements);
    std::fill(storage->data, storage->data + storage->bytes(), '\0');
    return storage;
  };
  Visit(checkpoint::Unpickle(bytes, load), "the pickle");
  if (const auto tensors = checkpoint::ReadSafetensorsFrom(bytes, "fuzzed"); tensors.ok()) {
    for (const auto& [name, tensor] : *tensors) Visit(tensor);
  }
}

}  // namespace muster::fuzz
