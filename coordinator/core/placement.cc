#include "coordinator/core/placement.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace muster::coordinator {

Gang GangOf(const config::v1::TrainJob& config) {
  const config::v1::Resources& resources = config.resources();
  Gang gang;
  gang.nodes = std::max(1, static_cast<int>(resources.nodes()));
  gang.ranks_per_node = std::max(1, static_cast<int>(resources.ranks_per_node()));
  gang.min_nodes = gang.max_nodes = gang.nodes;
  if (resources.has_min_nodes()) {
    gang.min_nodes = std::clamp(static_cast<int>(resources.min_nodes()), 1, gang.nodes);
  }
  if (resources.has_max_nodes()) {
    gang.max_nodes = std::max(static_cast<int>(resources.max_nodes()), gang.nodes);
  }
  gang.labels.insert(resources.node_labels().begin(), resources.node_labels().end());
  gang.gpu_types.insert(resources.gpu_types().begin(), resources.gpu_types().end());
  return gang;
}

bool Allows(const Gang& gang, const v1::Inventory& inventory) {
  for (const auto& [key, value] : gang.labels) {
    auto it = inventory.labels().find(key);
    if (it == inventory.labels().end() || it->second != value) return false;
  }
  if (gang.gpu_types.empty()) return true;
  return !inventory.gpus().empty() &&
         std::all_of(inventory.gpus().begin(), inventory.gpus().end(),
                     [&](const v1::Gpu& gpu) { return gang.gpu_types.count(gpu.type()) > 0; });
}

std::string NodeWish(const Gang& gang, absl::string_view what) {
  std::string wish =
      absl::StrCat(" with ", gang.ranks_per_node, what.empty() ? "" : " ", what, " slot",
                   gang.ranks_per_node == 1 ? "" : "s", gang.min_nodes == 1 ? "" : " each");
  std::vector<std::string> labels;
  for (const auto& [key, value] : gang.labels) labels.push_back(absl::StrCat(key, "=", value));
  if (!labels.empty()) {
    absl::StrAppend(&wish, labels.size() == 1 ? ", label " : ", labels ",
                    absl::StrJoin(labels, ", "));
  }
  if (!gang.gpu_types.empty()) {
    absl::StrAppend(&wish, ", GPUs of type ", absl::StrJoin(gang.gpu_types, " or "));
  }
  return wish;
}

std::string WaitReason(const Gang& gang, int ready) {
  return absl::StrCat("waits for ", gang.min_nodes, gang.min_nodes == 1 ? " node" : " nodes",
                      NodeWish(gang, "free"), "; ", ready, " of ", gang.min_nodes, " ready");
}

}  // namespace muster::coordinator
