#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"

namespace muster::checkpoint {

// Makes latest.pth in a job's output folder a link to this file of it, in one step.
absl::Status PointLatestAt(const std::filesystem::path& folder, const std::string& file);

}  // namespace muster::checkpoint
