#include "worker/train/safetensors_file.h"

#include <cstdint>
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "common/base/files.h"
#include <nlohmann/json.hpp>

namespace muster::train {
namespace {

const std::map<std::string, at::ScalarType>& Types() {
  static const auto* types = new std::map<std::string, at::ScalarType>{
      {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf},  {"BF16", at::kBFloat16},
      {"I64", at::kLong},   {"I32", at::kInt},   {"I16", at::kShort}, {"I8", at::kChar},
      {"U8", at::kByte},    {"BOOL", at::kBool}};
  return *types;
}

}  // namespace

absl::StatusOr<NamedTensors> ReadSafetensors(const std::filesystem::path& path) {
  const absl::StatusOr<std::string> file = base::ReadFile(path);
  if (!file.ok()) return file.status();
  const std::string& bytes = *file;
  const auto bad = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " is no readable safetensors file: ", what));
  };
  uint64_t header_size = 0;
  if (bytes.size() < sizeof(header_size)) return bad("it ends too early");
  std::memcpy(&header_size, bytes.data(), sizeof(header_size));
  if (header_size > bytes.size() - sizeof(header_size)) return bad("its header has no end");
  const absl::string_view data = absl::string_view(bytes).substr(sizeof(header_size) + header_size);
  const nlohmann::json header = nlohmann::json::parse(
      bytes.begin() + sizeof(header_size),
      bytes.begin() + sizeof(header_size) + static_cast<ptrdiff_t>(header_size), nullptr,
      /*allow_exceptions=*/false);
  if (!header.is_object()) return bad("its header is no JSON object");

  NamedTensors tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto described = [&](const char* field, auto check) {
      return entry.is_object() && entry.contains(field) && check(entry[field]);
    };
    const auto naturals = [](const nlohmann::json& value) {
      if (!value.is_array() || value.size() > 16) return false;
      for (const auto& item : value) {
        if (!item.is_number_unsigned() || item.get<uint64_t>() > INT64_MAX) return false;
      }
      return true;
    };
    if (!described("dtype", [](const nlohmann::json& v) { return v.is_string(); }) ||
        !described("shape", naturals) || !described("data_offsets", naturals) ||
        entry["data_offsets"].size() != 2) {
      return bad(absl::StrCat("tensor ", name, " is not described as it should be"));
    }
    const auto type = Types().find(entry["dtype"].get<std::string>());
    if (type == Types().end()) {
      return bad(absl::StrCat("tensor ", name, " has the unknown type ",
                              entry["dtype"].get<std::string>()));
    }
    const auto begin = entry["data_offsets"][0].get<uint64_t>();
    const auto end = entry["data_offsets"][1].get<uint64_t>();
    if (begin > end || end > data.size()) {
      return bad(absl::StrCat("tensor ", name, " lies outside the file"));
    }
    std::vector<int64_t> shape;
    __int128 size = c10::elementSize(type->second);
    for (const auto& side : entry["shape"]) {
      shape.push_back(side.get<int64_t>());
      size *= shape.back();
      if (size > static_cast<__int128>(data.size())) break;
    }
    if (size != static_cast<__int128>(end - begin)) {
      return bad(absl::StrCat("tensor ", name, " has another size than its shape"));
    }
    at::Tensor tensor = at::empty(shape, type->second);
    std::memcpy(tensor.data_ptr(), data.data() + begin, end - begin);
    tensors.emplace_back(name, std::move(tensor));
  }
  return tensors;
}

}  // namespace muster::train
