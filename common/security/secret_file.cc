#include "common/security/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace muster::security {

absl::StatusOr<std::string> ReadSecretFile(const std::filesystem::path& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return base::ErrnoStatus(errno, "open", path);
  if (S_ISREG(info.st_mode) && (info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(path.string(), " holds a secret that others may read: chmod 600 it, and ",
                     "replace the secret if somebody else could have seen it"));
  }
  MUSTER_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path));
  std::string secret(absl::StripAsciiWhitespace(text));
  if (secret.empty() || absl::StrContains(secret, "\n")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " must hold a token, alone on one line"));
  }
  return secret;
}

absl::Status WriteSecretFile(const std::filesystem::path& path, absl::string_view secret) {
  const std::filesystem::path part = path.string() + ".part";
  unlink(part.c_str());
  const int fd = open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return base::ErrnoStatus(errno, "create", part);
  const std::string line = absl::StrCat(secret, "\n");
  const bool written = write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int error = errno;
  close(fd);
  if (!written) {
    unlink(part.c_str());
    return base::ErrnoStatus(error, "write", part);
  }
  return base::PublishFile(part, path);
}

}  // namespace muster::security
