#include "tests/support/safetensors_file.h"

#include <torch/torch.h>

#include <cstring>
#include <fstream>
#include <stdexcept>
#include <vector>

#include <nlohmann/json.hpp>

namespace muster::testing {
namespace {

at::ScalarType TypeOf(const std::string& name) {
  if (name == "F64") return at::kDouble;
  if (name == "F32") return at::kFloat;
  if (name == "I64") return at::kLong;
  if (name == "U8") return at::kByte;
  throw std::runtime_error("safetensors dtype " + name + " is not read here");
}

}  // namespace

const at::Tensor& SafetensorsFile::at(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw std::runtime_error("no tensor " + name);
  return found->second;
}

SafetensorsFile ReadSafetensors(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  uint64_t header_size = 0;
  in.read(reinterpret_cast<char*>(&header_size), sizeof header_size);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  std::string header(header_size, '\0');
  in.read(header.data(), static_cast<std::streamsize>(header_size));
  const std::vector<char> data{std::istreambuf_iterator<char>(in), {}};
  SafetensorsFile file;
  const nlohmann::json entries = nlohmann::json::parse(header);
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") {
      file.metadata = entry.get<std::map<std::string, std::string>>();
      continue;
    }
    const auto shape = entry.at("shape").get<std::vector<int64_t>>();
    const auto offsets = entry.at("data_offsets").get<std::vector<size_t>>();
    at::Tensor tensor = at::empty(shape, TypeOf(entry.at("dtype").get<std::string>()));
    if (offsets[1] > data.size() || tensor.nbytes() != offsets[1] - offsets[0]) {
      throw std::runtime_error(path.string() + ": " + name + " has a wrong size");
    }
    if (tensor.nbytes() > 0)
      std::memcpy(tensor.data_ptr(), data.data() + offsets[0], tensor.nbytes());
    file.tensors.emplace(name, tensor);
  }
  return file;
}

}  // namespace muster::testing
