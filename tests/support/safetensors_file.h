#pragma once

#include <torch/types.h>

#include <filesystem>
#include <map>
#include <string>

namespace muster::testing {

// A .safetensors file, read whole: 8 bytes of header length, a JSON header, the tensors' bytes.
struct SafetensorsFile {
  std::map<std::string, at::Tensor> tensors;
  std::map<std::string, std::string> metadata;

  // The tensor of that name; throws std::runtime_error naming it when it is missing.
  const at::Tensor& at(const std::string& name) const;
  bool has(const std::string& name) const { return tensors.count(name) != 0; }
};

// Throws std::runtime_error naming the file.
SafetensorsFile ReadSafetensors(const std::filesystem::path& path);

}  // namespace muster::testing
