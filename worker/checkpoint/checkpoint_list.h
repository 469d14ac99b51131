#pragma once

#include <filesystem>
#include <vector>

#include "absl/strings/string_view.h"

#include "muster/v1/checkpoint.pb.h"

namespace muster::checkpoint {

// The checkpoints in a job's output folder that can be resumed from, newest (highest step, then
// highest generation) first: those with a description beside them (<file>.json, a Checkpoint as
// proto3 JSON), of the described size, and whole by CheckPth. Damaged ones are left out and logged,
// where `component` says who speaks.
std::vector<v1::Checkpoint> ListCheckpoints(const std::filesystem::path& folder,
                                            absl::string_view component);

}  // namespace muster::checkpoint
