#include "worker/data/folder_image_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/base/files.h"

namespace muster::data {
namespace {

// Larger than any image; a device or a wrong file would otherwise fill the memory.
constexpr off_t kMaxFileBytes = off_t{1} << 30;

bool StaysInside(const std::filesystem::path& member) {
  if (member.empty() || member.is_absolute()) return false;
  for (const std::filesystem::path& part : member) {
    if (part == "..") return false;
  }
  return true;
}

}  // namespace

FolderImageSource::FolderImageSource(std::filesystem::path folder) : folder_(std::move(folder)) {}

absl::StatusOr<absl::Span<const uint8_t>> FolderImageSource::Read(
    absl::string_view member, std::vector<uint8_t>* scratch) const {
  const std::filesystem::path relative{std::string(member)};
  if (!StaysInside(relative)) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder_.string(), ": image file name '", member, "' leads out of the folder"));
  }
  const std::filesystem::path path = folder_ / relative;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return base::ErrnoStatus(errno, "cannot open image", path);
  const absl::Cleanup close_file = [file] { close(file); };
  struct stat info = {};
  if (fstat(file, &info) != 0) return base::ErrnoStatus(errno, "cannot read image", path);
  if (!S_ISREG(info.st_mode) || info.st_size > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": not an image file"));
  }
  scratch->resize(static_cast<size_t>(info.st_size));
  size_t done = 0;
  while (done < scratch->size()) {
    const ssize_t got = read(file, scratch->data() + done, scratch->size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return base::ErrnoStatus(errno, "cannot read image", path);
    if (got == 0) break;  // it became shorter; the decoder will say so
    done += static_cast<size_t>(got);
  }
  return absl::MakeConstSpan(scratch->data(), done);
}

bool FolderImageSource::Contains(absl::string_view member) const {
  const std::filesystem::path relative{std::string(member)};
  std::error_code ignored;
  return StaysInside(relative) && std::filesystem::is_regular_file(folder_ / relative, ignored);
}

}  // namespace muster::data
