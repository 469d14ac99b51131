// The part of ClusterState that hands out slots and tells the nodes.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

#include "coordinator/core/cluster_state.h"

namespace muster::coordinator {
namespace {

constexpr int kNamedLeftovers = 3;

Gang GangOf(const config::v1::TrainJob& config) {
  return Gang{std::max(1, static_cast<int>(config.resources().nodes())),
              std::max(1, static_cast<int>(config.resources().ranks_per_node()))};
}

}  // namespace

std::vector<NodeCapacity> ClusterState::ReadyCapacities() const {
  std::vector<NodeCapacity> capacities;
  for (const auto& [name, node] : nodes_) {
    if (node.state != v1::Node::STATE_READY || node.refuses || node.Busy()) continue;
    const int slots = node.record.inventory().slots();
    capacities.push_back(NodeCapacity{name, slots, slots - SlotsUsed(node)});
  }
  return capacities;
}

int ClusterState::SlotsUsed(const NodeEntry& node) const {
  int used = 0;
  for (const std::string& name : node.jobs) {
    used += jobs_.at(name).SlotsHeld(node.record.name());
  }
  for (const auto& [key, leftover] : node.leftovers) used += leftover.slots;
  return used;
}

bool ClusterState::NodeEntry::HasLeftover(const std::string& job) const {
  auto it = leftovers.lower_bound({job, 0});
  return it != leftovers.end() && it->first.first == job;
}

std::string ClusterState::LeftoverNote() const {
  std::string note;
  int named = 0;
  for (const auto& [name, node] : nodes_) {
    if (node.state != v1::Node::STATE_READY || node.leftovers.empty()) continue;
    if (++named > kNamedLeftovers) return absl::StrCat(note, "; ...");
    const auto& [job, generation] = node.leftovers.begin()->first;
    absl::StrAppend(&note, "; nodes/", name, " still ends generation ", generation, " of ", job);
  }
  return note;
}

void ClusterState::Schedule(Step* step) {
  if (queue_.empty()) return;
  std::vector<NodeCapacity> nodes = ReadyCapacities();
  const std::string leftover_note = LeftoverNote();
  std::string blocker;
  const std::map<int64_t, std::string> queue = queue_;
  for (const auto& [sequence, name] : queue) {
    JobMachine& job = jobs_.at(name);
    if (job.WaitsAfterFailure(step->now)) continue;
    const Gang gang = job.gang();
    std::vector<NodeCapacity> without_leftovers;
    if (!leftover_note.empty()) {
      std::copy_if(nodes.begin(), nodes.end(), std::back_inserter(without_leftovers),
                   [&](const NodeCapacity& node) { return !nodes_[node.name].HasLeftover(name); });
    }
    const std::vector<NodeCapacity>& usable = leftover_note.empty() ? nodes : without_leftovers;
    if (blocker.empty()) {
      if (std::optional<std::vector<std::string>> chosen = PlaceGang(gang, usable, job.Nodes());
          chosen.has_value()) {
        for (NodeCapacity& node : nodes) {
          if (std::find(chosen->begin(), chosen->end(), node.name) != chosen->end()) {
            node.free_slots -= gang.ranks_per_node;
          }
        }
        Drive(&job, step, [&](JobOutput* out) { job.Place(*chosen, step->now, out); });
        continue;
      }
    }
    std::string reason = WaitReason(gang, usable) + leftover_note;
    if (!blocker.empty() && PlaceGang(gang, usable, {}).has_value()) {
      reason = absl::StrCat("waits behind ", blocker);
    }
    if (blocker.empty() && FitsWhenEmpty(gang, usable)) blocker = name;
    Drive(&job, step, [&](JobOutput* out) { job.SetWaitReason(reason, step->now, out); });
  }
}

void ClusterState::PushDesiredState(Step* step) {
  for (const std::string& name : step->nodes_to_tell) {
    NodeEntry& node = nodes_[name];
    if (node.session == 0) continue;
    // Above all versions of earlier runs of the coordinator.
    node.desired_version = std::max(node.desired_version + 1, absl::ToUnixMicros(step->now.wall));
    SessionMessage message;
    message.session = node.session;
    v1::DesiredState* desired = message.message.mutable_desired();
    desired->set_version(node.desired_version);
    for (const std::string& job : node.jobs) {
      if (std::optional<v1::Allocation> allocation = jobs_.at(job).AllocationOn(name);
          allocation.has_value()) {
        allocation->set_machine_slots(MachineSlots(node.record.inventory()));
        *desired->add_allocations() = *std::move(allocation);
      }
    }
    step->effects.messages.push_back(std::move(message));
  }
}

int ClusterState::MachineSlots(const v1::Inventory& inventory) const {
  if (inventory.machine_id().empty()) return inventory.slots();
  int slots = 0;
  for (const auto& [name, node] : nodes_) {
    const bool live = node.state != v1::Node::STATE_LOST;
    const v1::Inventory& other = node.record.inventory();
    if (live && other.machine_id() == inventory.machine_id()) slots += other.slots();
  }
  return slots;
}

std::string ClusterState::PlacementWarning(const config::v1::TrainJob& config) const {
  const std::vector<NodeCapacity> nodes = ReadyCapacities();
  const Gang gang = GangOf(config);
  if (FitsWhenEmpty(gang, nodes)) return "";
  return absl::StrCat(
      "would wait for more nodes: it needs ", gang.nodes, " with ", gang.ranks_per_node,
      " slots each, and ",
      std::count_if(nodes.begin(), nodes.end(),
                    [&](const NodeCapacity& node) { return node.slots >= gang.ranks_per_node; }),
      " of the ", nodes.size(), " ready nodes have as many");
}

}  // namespace muster::coordinator
