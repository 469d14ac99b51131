#pragma once

#include "absl/status/statusor.h"

namespace muster::coordinator {

// Files that a coordinator may have open besides one a worker: its store, listeners, people, logs.
inline constexpr int kFilesBesidesSessions = 1000;

// How many workers this process can serve at a time, up to `wanted`: each needs an open file.
// Raises RLIMIT_NOFILE as far as that takes. FailedPrecondition, with the remedy, when there is
// room for none.
absl::StatusOr<int> RaiseFileLimit(int wanted);

}  // namespace muster::coordinator
