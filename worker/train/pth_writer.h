#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "worker/checkpoint/value.h"

namespace muster::train {

// Writes PyTorch's zip container, which torch.load(weights_only=True) reads, to `path`, which is
// not published yet (base::PublishFile does that). Returns the system's error, such as
// ResourceExhausted for a full disk; what was written stays for the caller to remove.
absl::Status WritePth(const std::filesystem::path& path, const checkpoint::Value& value);

// The same into memory.
absl::StatusOr<std::string> WritePthToString(const checkpoint::Value& value);

}  // namespace muster::train
