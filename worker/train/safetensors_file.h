#pragma once

#include <torch/types.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace muster::train {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// The tensors of a .safetensors file, in order of name (F64, F32, F16, BF16, I64, I32, I16, I8, U8,
// BOOL). InvalidArgument names the file and what is wrong with it.
absl::StatusOr<NamedTensors> ReadSafetensors(const std::filesystem::path& path);

}  // namespace muster::train
