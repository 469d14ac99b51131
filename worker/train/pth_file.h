#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "worker/train/pickle.h"

// PyTorch's checkpoint files, as torch.save writes and torch.load(weights_only=True) reads them.
namespace muster::train {

// Reads a .pth: the zip container of PyTorch 1.6 and later, or the older plain one. The checksums
// of all records are verified. NotFound, or InvalidArgument that names the file and what is wrong.
absl::StatusOr<Value> ReadPth(const std::filesystem::path& path);

// The same from memory; `name` stands for the file in errors.
absl::StatusOr<Value> ReadPthFrom(absl::string_view bytes, const std::string& name);

// Writes a zip container to `path`, which is not published yet (base::PublishFile does that).
// Returns the system's error, such as ResourceExhausted for a full disk; what was written stays for
// the caller to remove.
absl::Status WritePth(const std::filesystem::path& path, const Value& value);

// The same into memory.
std::string WritePthToString(const Value& value);

// Cheap look at a zip container: its directory is whole and has the pickle that ReadPth would read.
absl::Status CheckPth(const std::filesystem::path& path);

}  // namespace muster::train
