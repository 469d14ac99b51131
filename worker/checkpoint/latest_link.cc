#include "worker/checkpoint/latest_link.h"

#include <system_error>

#include "common/base/files.h"

namespace muster::checkpoint {

namespace fs = std::filesystem;

absl::Status PointLatestAt(const fs::path& folder, const std::string& file) {
  const fs::path link = folder / "latest.pth";
  const fs::path part = folder / "latest.pth.part";
  std::error_code error;
  fs::remove(part, error);
  fs::create_symlink(file, part, error);
  if (!error) fs::rename(part, link, error);
  if (error) return base::ErrnoStatus(error.value(), "cannot replace", link);
  return absl::OkStatus();
}

}  // namespace muster::checkpoint
