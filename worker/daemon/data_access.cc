#include "worker/daemon/data_access.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace muster::worker {

absl::StatusOr<DataAccess> DataAccess::Open(const std::vector<std::filesystem::path>& roots,
                                            std::string node) {
  std::vector<std::filesystem::path> resolved;
  for (const std::filesystem::path& root : roots) {
    std::error_code error;
    const std::filesystem::path canonical = std::filesystem::canonical(root, error);
    if (error) return base::ErrnoStatus(error.value(), "--data-root", root);
    if (!std::filesystem::is_directory(canonical, error)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--data-root ", root.string(), " is not a folder"));
    }
    resolved.push_back(canonical);
  }
  return DataAccess(std::move(resolved), std::move(node));
}

bool DataAccess::IsBelowRoot(const std::filesystem::path& canonical) const {
  return std::any_of(roots_.begin(), roots_.end(), [&](const std::filesystem::path& root) {
    // Component by component: /data2 is not below /data.
    return std::mismatch(root.begin(), root.end(), canonical.begin(), canonical.end()).first ==
           root.end();
  });
}

absl::Status DataAccess::CheckPath(const std::string& field,
                                   const std::filesystem::path& path) const {
  std::error_code error;
  const std::filesystem::path canonical = std::filesystem::canonical(path, error);
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
    // Nobody learns from the answer what lies outside.
    if (!IsBelowRoot(std::filesystem::weakly_canonical(path, error))) {
      return absl::PermissionDeniedError(
          absl::StrCat(field, ": ", path.string(), " lies outside the data roots of node ", node_));
    }
    return absl::NotFoundError(
        absl::StrCat(field, ": ", path.string(), " not found on node ", node_));
  }
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat(
        field, ": ", path.string(), " cannot be read on node ", node_, ": ", error.message()));
  }
  if (!IsBelowRoot(canonical)) {
    return absl::PermissionDeniedError(
        absl::StrCat(field, ": ", path.string(), " lies outside the data roots of node ", node_));
  }
  const int mode = std::filesystem::is_directory(canonical, error) ? R_OK | X_OK : R_OK;
  if (access(canonical.c_str(), mode) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        field, ": ", path.string(), " cannot be read on node ", node_, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::filesystem::path> DataAccess::ResolveDataRoot(
    const std::string& data_root) const {
  const std::filesystem::path path = data_root;
  if (roots_.empty()) {
    return absl::PermissionDeniedError(absl::StrCat(
        "data.root: node ", node_, " allows no data: start its worker with --data-root DIR"));
  }
  if (path.is_absolute()) {
    MUSTER_RETURN_IF_ERROR(CheckPath("data.root", path));
    return std::filesystem::canonical(path);
  }
  for (const std::filesystem::path& root : roots_) {
    std::error_code ignored;
    if (!std::filesystem::exists(root / path, ignored)) continue;
    MUSTER_RETURN_IF_ERROR(CheckPath("data.root", root / path));
    return std::filesystem::canonical(root / path);
  }
  return absl::NotFoundError(absl::StrCat(
      "data.root: ", data_root, " not found on node ", node_, " below ",
      absl::StrJoin(roots_, ", ", [](std::string* out, const std::filesystem::path& root) {
        absl::StrAppend(out, root.string());
      })));
}

absl::Status DataAccess::CheckJob(const config::v1::TrainJob& job) const {
  MUSTER_ASSIGN_OR_RETURN(const std::filesystem::path root, ResolveDataRoot(job.data().root()));
  const auto check = [&](const char* field, const std::string& path) {
    return path.empty() ? absl::OkStatus() : CheckPath(field, root / path);
  };
  const config::v1::Data& data = job.data();
  MUSTER_RETURN_IF_ERROR(check("data.train.annotations", data.train().annotations()));
  MUSTER_RETURN_IF_ERROR(check("data.train.images", data.train().images()));
  MUSTER_RETURN_IF_ERROR(check("data.val.annotations", data.val().annotations()));
  MUSTER_RETURN_IF_ERROR(check("data.val.images", data.val().images()));

  const std::string& load_from = job.model().load_from();
  if (load_from.empty()) return absl::OkStatus();
  absl::Status found = CheckPath("model.load_from", root / load_from);
  for (const std::filesystem::path& other : roots_) {
    if (!absl::IsNotFound(found)) break;
    found = CheckPath("model.load_from", other / load_from);
  }
  return found;
}

}  // namespace muster::worker
