#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "worker/dist/communicator.h"
#include "worker/train/checkpoint.h"

namespace muster::train {

// Where a run starts from.
struct ResumeRequest {
  // By hand: the newest checkpoint of rank 0's output folder, if there is one.
  bool newest = false;
  // By a worker: this node's copy of the checkpoint (holders only), the ranks that hold it, and
  // what it must be. Empty holders: from the start.
  std::optional<std::filesystem::path> file;
  std::vector<int> holders;
  int64_t step = 0;
  int64_t generation = 0;
};

// The snapshot that all ranks resume from, broadcast by the lowest rank that holds it, so that no
// two ranks can start from different points; nullopt to start afresh. All ranks call it with the
// same `newest` and holders. Throws TrainingFailure (kExitCheckpointError) when the checkpoint
// cannot be read or is not the one that was asked for.
std::optional<Snapshot> ReceiveSnapshot(const ResumeRequest& request,
                                        const std::filesystem::path& output,
                                        dist::Communicator& control);

}  // namespace muster::train
