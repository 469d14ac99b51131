#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace muster::security {

// The one line of text in the file. PermissionDenied when its mode lets others than its owner read
// it; NotFound, InvalidArgument (empty, or several lines) and so on name the file.
absl::StatusOr<std::string> ReadSecretFile(const std::filesystem::path& path);

// Publishes the file with mode 0600, whole or not at all, also after a crash.
absl::Status WriteSecretFile(const std::filesystem::path& path, absl::string_view secret);

}  // namespace muster::security
