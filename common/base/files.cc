#include "common/base/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace muster::base {
namespace {

absl::Status SyncPath(const std::filesystem::path& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  if (fsync(fd) != 0) {
    const int error = errno;
    close(fd);
    return ErrnoStatus(error, "fsync", path);
  }
  close(fd);
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, absl::string_view data, const std::filesystem::path& path) {
  while (!data.empty()) {
    const ssize_t n = write(fd, data.data(), data.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, "write", path);
    }
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view what, const std::filesystem::path& path) {
  return absl::ErrnoToStatus(error, absl::StrCat(what, " ", path.string()));
}

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  std::string data;
  char buffer[1 << 16];
  while (true) {
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n < 0) {
      if (errno == EINTR) continue;
      const int error = errno;
      close(fd);
      return ErrnoStatus(error, "read", path);
    }
    if (n == 0) break;
    data.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  return data;
}

absl::Status PublishFile(const std::filesystem::path& written, const std::filesystem::path& path) {
  MUSTER_RETURN_IF_ERROR(SyncPath(written, O_RDONLY));
  if (rename(written.c_str(), path.c_str()) != 0) return ErrnoStatus(errno, "rename to", path);
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  return SyncPath(folder, O_RDONLY | O_DIRECTORY);
}

absl::Status WriteFileAtomically(const std::filesystem::path& path, absl::string_view data) {
  const std::filesystem::path part = path.string() + ".part";
  const int fd = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "create", part);
  absl::Status status = WriteAll(fd, data, part);
  if (close(fd) != 0 && status.ok()) status = ErrnoStatus(errno, "close", part);
  if (status.ok()) status = PublishFile(part, path);
  if (!status.ok()) unlink(part.c_str());
  return status;
}

absl::Status CreateFolders(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return ErrnoStatus(error.value(), "create folder", path);
  return absl::OkStatus();
}

}  // namespace muster::base
