#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace muster::dist {

// One collective of this process.
struct FlightRecord {
  // Scheduled: called here, and not known to have ended. Started: NCCL's kernel runs.
  enum class State { kScheduled, kStarted, kCompleted };
  // "control", "sync_bn" or "gradients".
  std::string group;
  // In the group, from 1: equal on all ranks, as each calls the group's collectives in one order.
  int64_t sequence = 0;
  // "all_reduce", "all_gather", "broadcast", ...
  std::string operation;
  State state = State::kScheduled;
};

// The newest `per_group` collectives of each group, oldest first, from c10d's flight recorder: a
// ring of the last 2000 that Gloo and NCCL keep by themselves (TORCH_FR_BUFFER_SIZE; 0 turns it
// off). May be called from any thread while others are inside collectives. For Gloo the recorder
// does not tell started from scheduled. Internal, when the dump is not what it is known to be.
absl::StatusOr<std::vector<FlightRecord>> NewestCollectives(size_t per_group);

}  // namespace muster::dist
