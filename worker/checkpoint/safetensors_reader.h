#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "worker/checkpoint/value.h"

namespace muster::checkpoint {

// The tensors of a .safetensors file, in order of name (F64, F32, F16, BF16, I64, I32, I16, I8, U8,
// BOOL). InvalidArgument names the file and what is wrong with it.
absl::StatusOr<NamedTensors> ReadSafetensors(const std::filesystem::path& path);

// The same from memory; `name` stands for the file in errors. The result does not refer to `bytes`.
absl::StatusOr<NamedTensors> ReadSafetensorsFrom(absl::string_view bytes, const std::string& name);

// Whether the bytes begin as such a file does: the size of a header, and a JSON object.
bool LooksLikeSafetensors(absl::string_view bytes);

}  // namespace muster::checkpoint
