#include "worker/checkpoint/safetensors_reader.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include <nlohmann/json.hpp>

namespace muster::checkpoint {
namespace {

constexpr size_t kMaxDimensions = 16;

std::optional<ElementType> TypeOf(const std::string& name) {
  static const auto* types = new std::map<std::string, ElementType>{
      {"F64", ElementType::kFloat64}, {"F32", ElementType::kFloat32},
      {"F16", ElementType::kFloat16}, {"BF16", ElementType::kBFloat16},
      {"I64", ElementType::kInt64},   {"I32", ElementType::kInt32},
      {"I16", ElementType::kInt16},   {"I8", ElementType::kInt8},
      {"U8", ElementType::kUInt8},    {"BOOL", ElementType::kBool}};
  const auto found = types->find(name);
  if (found == types->end()) return std::nullopt;
  return found->second;
}

// A header entry's numbers; nullopt when they are anything else.
std::optional<std::vector<int64_t>> Naturals(const nlohmann::json& entry, const char* field) {
  if (!entry.is_object() || !entry.contains(field)) return std::nullopt;
  const nlohmann::json& value = entry[field];
  if (!value.is_array() || value.size() > kMaxDimensions) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const auto& item : value) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > INT64_MAX) return std::nullopt;
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

std::vector<int64_t> ContiguousStrides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;)
    strides[i - 1] = strides[i] * std::max<int64_t>(shape[i], 1);
  return strides;
}

}  // namespace

bool LooksLikeSafetensors(absl::string_view bytes) {
  uint64_t header_size = 0;
  if (bytes.size() < sizeof(header_size) + 2) return false;
  std::memcpy(&header_size, bytes.data(), sizeof(header_size));
  return header_size <= bytes.size() - sizeof(header_size) && bytes[sizeof(header_size)] == '{';
}

absl::StatusOr<NamedTensors> ReadSafetensors(const std::filesystem::path& path) {
  const absl::StatusOr<std::string> bytes = base::ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  return ReadSafetensorsFrom(*bytes, path.string());
}

absl::StatusOr<NamedTensors> ReadSafetensorsFrom(absl::string_view bytes, const std::string& name) {
  const auto bad = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is no readable safetensors file: ", what));
  };
  uint64_t header_size = 0;
  if (bytes.size() < sizeof(header_size)) return bad("it ends too early");
  std::memcpy(&header_size, bytes.data(), sizeof(header_size));
  if (header_size > bytes.size() - sizeof(header_size)) return bad("its header has no end");
  const absl::string_view text = bytes.substr(sizeof(header_size), header_size);
  const absl::string_view data = bytes.substr(sizeof(header_size) + header_size);
  const nlohmann::json header =
      nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return bad("its header is no JSON object");

  NamedTensors tensors;
  uint64_t left = data.size();
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") continue;
    const auto wrong = [&, tensor_name = key](absl::string_view what) {
      return bad(absl::StrCat("tensor ", tensor_name, " ", what));
    };
    const std::optional<std::vector<int64_t>> shape = Naturals(entry, "shape");
    const std::optional<std::vector<int64_t>> range = Naturals(entry, "data_offsets");
    if (!shape.has_value() || !range.has_value() || range->size() != 2 ||
        !entry.contains("dtype") || !entry["dtype"].is_string()) {
      return wrong("is not described as it should be");
    }
    const std::string type_name = entry["dtype"].get<std::string>();
    const std::optional<ElementType> type = TypeOf(type_name);
    if (!type.has_value()) return wrong(absl::StrCat("has the unknown type ", type_name));
    const auto begin = static_cast<uint64_t>((*range)[0]);
    const auto end = static_cast<uint64_t>((*range)[1]);
    if (begin > end || end > data.size()) return wrong("lies outside the file");
    // The sides without those of 0, whose strides must not overflow either.
    __int128 reach = SizeOf(*type);
    bool empty = false;
    for (const int64_t side : *shape) {
      if (side == 0) empty = true;
      reach *= std::max<int64_t>(side, 1);
      if (reach > INT64_MAX) return wrong("has another size than its shape");
    }
    if ((empty ? 0 : reach) != static_cast<__int128>(end - begin)) {
      return wrong("has another size than its shape");
    }
    if (end - begin > left) return wrong("shares its bytes with another");
    left -= end - begin;
    const std::shared_ptr<Storage> storage =
        NewStorage(*type, static_cast<int64_t>(end - begin) / SizeOf(*type));
    if (end > begin) std::memcpy(storage->data, data.data() + begin, end - begin);
    tensors.emplace_back(
        key, Tensor{.storage = storage, .shape = *shape, .strides = ContiguousStrides(*shape)});
  }
  return tensors;
}

}  // namespace muster::checkpoint
