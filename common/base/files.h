#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace muster::base {

// The whole file. NotFound, PermissionDenied, ... with the path and the system's reason.
absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path);

// Publishes `data` as `path` so that a reader sees the old file or the new one, never a part, also
// after a crash: writes path.part, fsyncs it, renames it, fsyncs the folder.
absl::Status WriteFileAtomically(const std::filesystem::path& path, absl::string_view data);

// Publishes a file that somebody has written and closed already: fsync, rename, fsync of the
// folder.
absl::Status PublishFile(const std::filesystem::path& written, const std::filesystem::path& path);

// Like mkdir -p.
absl::Status CreateFolders(const std::filesystem::path& path);

// A status of `code`'s kind for a failed system call: "what: path: reason".
absl::Status ErrnoStatus(int error, absl::string_view what, const std::filesystem::path& path);

}  // namespace muster::base
