#pragma once

#include <filesystem>
#include <vector>

#include "muster/v1/checkpoint.pb.h"

namespace muster::worker {

// The checkpoints in a job's output folder that may be resumed from, newest (highest step, then
// highest generation) first: those whose description (<file>.json, a Checkpoint as proto3 JSON) was
// written and whose file is there with the size it says. Damaged ones are logged and left out.
std::vector<v1::Checkpoint> ListCheckpoints(const std::filesystem::path& output_folder);

}  // namespace muster::worker
