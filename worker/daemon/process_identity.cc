#include "worker/daemon/process_identity.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/files.h"

namespace muster::worker {

namespace {

constexpr size_t kState = 0;
constexpr size_t kParent = 1;
constexpr size_t kStartTime = 19;

// Fields of /proc/<pid>/stat from the third (the state) on; empty when there is no such process.
std::vector<std::string> StatFields(pid_t pid) {
  if (pid <= 0) return {};
  const absl::StatusOr<std::string> stat = base::ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  if (!stat.ok()) return {};
  // The program's name in parentheses may itself hold blanks and parentheses.
  const size_t name_end = stat->rfind(')');
  if (name_end == std::string::npos || name_end + 2 >= stat->size()) return {};
  std::vector<std::string> fields = absl::StrSplit(stat->substr(name_end + 2), ' ');
  if (fields.size() <= kStartTime) return {};
  return fields;
}

}  // namespace

std::optional<ProcessIdentity> IdentifyProcess(pid_t pid) {
  const std::vector<std::string> fields = StatFields(pid);
  if (fields.empty() || fields[kState] == "Z" || fields[kState] == "X") return std::nullopt;
  ProcessIdentity identity;
  identity.pid = pid;
  if (!absl::SimpleAtoi(fields[kStartTime], &identity.start_ticks)) return std::nullopt;
  return identity;
}

pid_t ParentOf(pid_t pid) {
  const std::vector<std::string> fields = StatFields(pid);
  pid_t parent = 0;
  if (fields.empty() || !absl::SimpleAtoi(fields[kParent], &parent)) return 0;
  return parent;
}

bool IsRunning(const ProcessIdentity& process) {
  const std::optional<ProcessIdentity> now = IdentifyProcess(process.pid);
  return now.has_value() && now->start_ticks == process.start_ticks;
}

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = other.Release();
  }
  return *this;
}

int UniqueFd::Release() { return std::exchange(fd_, -1); }

void UniqueFd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

UniqueFd WatchProcess(const ProcessIdentity& process) {
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0)));
  // The number may have been given anew between the caller's look and the open.
  if (fd.valid() && !IsRunning(process)) fd.Reset();
  return fd;
}

}  // namespace muster::worker
