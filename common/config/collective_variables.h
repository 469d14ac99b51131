#pragma once

#include "absl/strings/string_view.h"

namespace muster::config {

// Whether the environment variable is one of the collectives' (NCCL_*, GLOO_*, TORCH_NCCL_*): the
// only ones that a job may set for its trainers and that are shown of them.
bool IsCollectiveVariable(absl::string_view name);

}  // namespace muster::config
