#include "coordinator/core/placement.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace muster::coordinator {

std::optional<std::vector<std::string>> PlaceGang(const Gang& gang,
                                                  const std::vector<NodeCapacity>& nodes,
                                                  const std::set<std::string>& preferred) {
  std::vector<const NodeCapacity*> fitting;
  for (const NodeCapacity& node : nodes) {
    if (node.free_slots >= gang.ranks_per_node) fitting.push_back(&node);
  }
  if (static_cast<int>(fitting.size()) < gang.nodes) return std::nullopt;
  std::sort(fitting.begin(), fitting.end(), [&](const NodeCapacity* a, const NodeCapacity* b) {
    const bool a_preferred = preferred.count(a->name) > 0;
    const bool b_preferred = preferred.count(b->name) > 0;
    if (a_preferred != b_preferred) return a_preferred;
    if (a->free_slots != b->free_slots) return a->free_slots > b->free_slots;
    return a->name < b->name;
  });
  std::vector<std::string> chosen;
  for (int i = 0; i < gang.nodes; ++i) chosen.push_back(fitting[i]->name);
  // Node ranks follow the names, so that the same nodes get the same ranks in each generation.
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

bool FitsWhenEmpty(const Gang& gang, const std::vector<NodeCapacity>& nodes) {
  const auto fitting = std::count_if(nodes.begin(), nodes.end(), [&](const NodeCapacity& node) {
    return node.slots >= gang.ranks_per_node;
  });
  return fitting >= gang.nodes;
}

std::string WaitReason(const Gang& gang, const std::vector<NodeCapacity>& nodes) {
  const auto ready = std::count_if(nodes.begin(), nodes.end(), [&](const NodeCapacity& node) {
    return node.free_slots >= gang.ranks_per_node;
  });
  return absl::StrCat("waits for ", gang.nodes, gang.nodes == 1 ? " node" : " nodes", " with ",
                      gang.ranks_per_node, " free slot", gang.ranks_per_node == 1 ? "" : "s",
                      gang.nodes == 1 ? "" : " each", "; ", ready, " of ", gang.nodes, " ready");
}

}  // namespace muster::coordinator
