#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "muster/config/v1/train_job.pb.h"

namespace muster::worker {

// What jobs may read on this node: everything below some folders (--data-root), links resolved.
// Immutable.
class DataAccess {
 public:
  // Each root must be a readable folder. `node` is named in messages.
  static absl::StatusOr<DataAccess> Open(const std::vector<std::filesystem::path>& roots,
                                         std::string node);

  // Absolute, links resolved, in the order given.
  const std::vector<std::filesystem::path>& roots() const { return roots_; }

  // data.root: a relative one in the first root where it exists, an absolute one below a root.
  // PermissionDenied when it lies outside, NotFound when it is not there.
  absl::StatusOr<std::filesystem::path> ResolveDataRoot(const std::string& data_root) const;

  // That all files which the job names are there, below a root and readable. The error names the
  // field, the path and the node.
  absl::Status CheckJob(const config::v1::TrainJob& job) const;

 private:
  DataAccess(std::vector<std::filesystem::path> roots, std::string node)
      : roots_(std::move(roots)), node_(std::move(node)) {}

  absl::Status CheckPath(const std::string& field, const std::filesystem::path& path) const;
  bool IsBelowRoot(const std::filesystem::path& canonical) const;

  std::vector<std::filesystem::path> roots_;
  std::string node_;
};

}  // namespace muster::worker
