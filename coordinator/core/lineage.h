#pragma once

#include <optional>
#include <string>
#include <vector>

#include "muster/internal/coordinator_store.pb.h"
#include "muster/v1/checkpoint.pb.h"
#include "muster/v1/worker_service.pb.h"

namespace muster::coordinator {

// Which of a job's checkpoints continue one history.
//
// Generation g resumed from (parent generation, parent step), which the coordinator chose and
// recorded. Walk back from the newest generation that has left a checkpoint: all of its checkpoints
// are on the lineage, then those of its parent up to the parent step, and so on. A checkpoint that
// an older generation wrote past the point from which a newer one has resumed is a branch that was
// given up: its node was away when the choice was made.

enum class CheckpointNews {
  kNew,
  kKnown,
  // Known, but not that this node holds it.
  kNewHolder,
  // It names parents that no generation of this job has, and was not noted.
  kForeign,
  // Nodes disagree on the digest: the checkpoint is rejected for good.
  kDigestsDiffer,
};

// Notes a checkpoint that a node (without "nodes/") says it holds. The newest 100 are kept, of the
// newest 10 also who holds them.
CheckpointNews RegisterCheckpoint(const v1::Checkpoint& checkpoint, const std::string& node,
                                  internal::JobRecord* record);

// The node holds nothing but this, or not this any more. Whether it was thought to.
bool HoldsOnly(const std::string& node, const v1::AllocationStatus& prepared,
               internal::JobRecord* record);
bool HoldsNoMore(const std::string& node, const v1::Checkpoint& checkpoint,
                 internal::JobRecord* record);

// The same generation and step.
bool SamePoint(const v1::Checkpoint& a, const v1::Checkpoint& b);

// Those that may be resumed from, highest step first, then highest generation.
std::vector<const internal::CheckpointRecord*> OnLineage(const internal::JobRecord& record);

// The one with the highest step on the lineage, or null.
const v1::Checkpoint* NewestCheckpoint(const internal::JobRecord& record);

struct ResumePoint {
  v1::Checkpoint checkpoint;
  // All ranks of the nodes that hold it, rising.
  std::vector<int> holders;
};

// Where the generation that has been prepared should resume: the highest step on the lineage that
// one of its nodes holds (shares' status). Nothing: from the start. All checkpoints in the shares
// must have been registered.
std::optional<ResumePoint> ChooseResume(const internal::JobRecord& record);

}  // namespace muster::coordinator
