#include "coordinator/core/node_pool.h"

#include <algorithm>

namespace muster::coordinator {

int NodePool::Index(const std::string& name) {
  auto [it, is_new] = indexes_.try_emplace(name, size());
  if (is_new) {
    nodes_.emplace_back();
    nodes_.back().name = name;
  }
  return it->second;
}

int NodePool::Find(const std::string& name) const {
  auto it = indexes_.find(name);
  return it == indexes_.end() ? -1 : it->second;
}

void NodePool::Describe(int index, const v1::Inventory& inventory) {
  const bool usable = nodes_[index].usable;
  Set(index, false, nodes_[index].free);
  nodes_[index].inventory = inventory;
  Set(index, usable, nodes_[index].free);
}

void NodePool::Set(int index, bool usable, int free) {
  Node& node = nodes_[index];
  free = std::max(0, free);
  if (node.usable == usable && node.free == free) return;
  if (node.usable) by_free_[node.free].erase({node.slots(), index});
  if (node.usable != usable) usable_by_slots_[node.slots()] += usable ? 1 : -1;
  node.usable = usable;
  node.free = free;
  if (!usable) return;
  if (by_free_.size() <= static_cast<size_t>(free)) by_free_.resize(free + 1);
  by_free_[free].insert({node.slots(), index});
}

std::vector<int> NodePool::Choose(const Gang& gang, int most, const std::set<int>& preferred,
                                  Limit limit) const {
  const auto needed = static_cast<size_t>(gang.ranks_per_node);
  size_t roomy = 0;
  for (size_t free = needed; free < by_free_.size(); ++free) roomy += by_free_[free].size();
  if (roomy < static_cast<size_t>(gang.min_nodes)) return {};

  std::vector<int> chosen;
  auto consider = [&](int index) {
    const Node& node = nodes_[index];
    if (node.usable && node.free >= gang.ranks_per_node &&
        limit(index, node.free) >= gang.ranks_per_node && Allows(gang, node.inventory)) {
      chosen.push_back(index);
    }
    return static_cast<int>(chosen.size()) == most;
  };
  bool enough = std::any_of(preferred.begin(), preferred.end(), consider);
  for (size_t free = needed; free < by_free_.size() && !enough; ++free) {
    for (const auto& [slots, index] : by_free_[free]) {
      if (preferred.count(index) > 0) continue;
      enough = consider(index);
      if (enough) break;
    }
  }
  if (static_cast<int>(chosen.size()) < gang.min_nodes) return {};
  // Node ranks follow the names, so that the same nodes get the same ranks in each generation.
  std::sort(chosen.begin(), chosen.end(),
            [&](int a, int b) { return nodes_[a].name < nodes_[b].name; });
  return chosen;
}

int NodePool::CountReady(const Gang& gang, Limit limit) const {
  int count = 0;
  for (size_t free = gang.ranks_per_node; free < by_free_.size(); ++free) {
    for (const auto& [slots, index] : by_free_[free]) {
      const Node& node = nodes_[index];
      count += limit(index, node.free) >= gang.ranks_per_node && Allows(gang, node.inventory);
    }
  }
  return count;
}

int NodePool::CountLargeEnough(const Gang& gang) const {
  if (gang.plain()) return CountUsable(gang.ranks_per_node);
  return static_cast<int>(std::count_if(nodes_.begin(), nodes_.end(), [&](const Node& node) {
    return node.usable && node.slots() >= gang.ranks_per_node && Allows(gang, node.inventory);
  }));
}

int NodePool::CountUsable(int slots) const {
  int count = 0;
  for (auto it = usable_by_slots_.lower_bound(slots); it != usable_by_slots_.end(); ++it) {
    count += it->second;
  }
  return count;
}

}  // namespace muster::coordinator
