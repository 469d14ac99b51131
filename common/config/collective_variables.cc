#include "common/config/collective_variables.h"

#include "absl/strings/match.h"

namespace muster::config {

bool IsCollectiveVariable(absl::string_view name) {
  return absl::StartsWith(name, "NCCL_") || absl::StartsWith(name, "GLOO_") ||
         absl::StartsWith(name, "TORCH_NCCL_");
}

}  // namespace muster::config
