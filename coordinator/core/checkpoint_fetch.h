#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"

#include "muster/internal/coordinator_store.pb.h"
#include "muster/v1/checkpoint.pb.h"

namespace muster::coordinator {

// What a node can do about the checkpoints of others, as far as is known.
struct NodeReach {
  // It has a stream, or is expected back before its lease ends. Of one that has not come yet since
  // the coordinator's start the rest is hoped for.
  bool there = false;
  // Its worker can fetch a checkpoint, and serves its own.
  bool fetches = false;
  bool serves = false;
};
using LookAtNode = absl::FunctionRef<NodeReach(const std::string& node)>;

struct FetchPlan {
  v1::Checkpoint checkpoint;
  // Nodes that hold it, without "nodes/".
  std::vector<std::string> sources;
};

// What node_rank 0 of the newest generation should fetch before the start: the checkpoint with the
// highest step on the lineage that a node outside can hand on, if it is newer than all that the
// generation's nodes hold (as they say once they are prepared, as they are known to before).
std::optional<FetchPlan> PlanFetch(const internal::JobRecord& record, LookAtNode look);

// "nodes/b, which holds step_120.pth, is not there": why the generation does not resume at the
// newest checkpoint of the lineage but at `resume_step` (0: at the start). Empty when it does.
std::string WhyOlder(const internal::JobRecord& record, int64_t resume_step, LookAtNode look);

}  // namespace muster::coordinator
