#include "coordinator/service/file_limit.h"

#include <sys/resource.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace muster::coordinator {

absl::StatusOr<int> RaiseFileLimit(int wanted) {
  const rlim_t needed = static_cast<rlim_t>(wanted) + kFilesBesidesSessions;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < needed) {
    limit.rlim_cur = std::min(needed, limit.rlim_max);
    // Only lowers what follows when it fails.
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) getrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur >= needed) return wanted;
  const int sessions = static_cast<int>(limit.rlim_cur) - kFilesBesidesSessions;
  if (sessions > 0) return sessions;
  return absl::FailedPreconditionError(absl::StrCat(
      "this process may open ", limit.rlim_cur, " files, and needs ", kFilesBesidesSessions,
      " and one for each worker: raise the limit (LimitNOFILE= of the systemd unit, or ulimit "
      "-n)"));
}

}  // namespace muster::coordinator
