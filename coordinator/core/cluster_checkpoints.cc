// The part of ClusterState that lets checkpoints move between nodes.
#include <string>
#include <utility>
#include <vector>

#include "coordinator/core/cluster_state.h"

namespace muster::coordinator {
namespace {

// The first that fetches and serves.
constexpr int kFetchingProtocol = 2;

}  // namespace

NodeReach ClusterState::ReachOf(const std::string& node) const {
  auto it = nodes_.find(node);
  if (it == nodes_.end() || it->second.state == v1::Node::STATE_LOST) return {};
  const NodeEntry& entry = it->second;
  // Its lease without what other ranks vouch for: a job may be waiting.
  const bool there =
      entry.state == v1::Node::STATE_READY || now_.monotonic < entry.frozen_until ||
      !leases_.Expired(node, -absl::InfiniteDuration(), absl::ZeroDuration(), now_.monotonic);
  if (entry.protocol == 0) return {there, there, there};
  const bool speaks = entry.protocol >= kFetchingProtocol;
  return {there, speaks, speaks && !entry.checkpoint_server.address().empty()};
}

void ClusterState::AddFetchSources(const JobMachine& job, v1::Allocation* allocation) const {
  for (const std::string& source : job.record().fetch_sources()) {
    const auto node = nodes_.find(source);
    if (node == nodes_.end() || node->second.checkpoint_server.address().empty()) continue;
    *allocation->mutable_fetch()->add_sources() = node->second.checkpoint_server;
  }
}

void ClusterState::TakeCheckpointServer(NodeEntry* node, const v1::Hello& hello, Step* step) {
  v1::CheckpointServer server;
  if (node->protocol >= kFetchingProtocol && !hello.checkpoint_server().address().empty()) {
    server = hello.checkpoint_server();
    server.set_node(hello.node());
  }
  if (server.SerializeAsString() == node->checkpoint_server.SerializeAsString()) return;
  node->checkpoint_server = std::move(server);
  for (const auto& [name, sources] : fetches_) {
    if (sources.count(hello.node()) == 0) continue;
    for (const std::string& other : Find(name)->Nodes()) {
      step->nodes_to_tell.push_back(&Node(other));
    }
  }
}

void ClusterState::ReviewFetches(Step* step) {
  std::vector<std::string> names;
  for (const auto& [name, sources] : fetches_) names.push_back(name);
  for (const std::string& name : names) {
    JobMachine* job = Find(name);
    Drive(job, step, [&](JobOutput* out) {
      job->ReviewFetch([this](const std::string& node) { return ReachOf(node); }, step->now, out);
    });
  }
}

void ClusterState::UpdateFetch(const JobMachine& job) {
  const std::string& name = job.job().name();
  auto it = fetches_.find(name);
  if (it == fetches_.end() && !job.Fetching()) return;
  std::set<std::string> sources;
  if (job.Fetching()) {
    for (const std::string& source : job.record().fetch_sources()) {
      if (nodes_.count(source) > 0) sources.insert(source);
    }
  }
  // Maintenance of those that are free of it can be approved.
  if (it != fetches_.end()) {
    for (const std::string& source : it->second) MarkDirty(&Node(source));
  }
  if (sources.empty()) {
    fetches_.erase(name);
  } else {
    fetches_[name] = std::move(sources);
  }
}

bool ClusterState::ServesFetch(const std::string& node) const {
  for (const auto& [name, sources] : fetches_) {
    if (sources.count(node) > 0) return true;
  }
  return false;
}

}  // namespace muster::coordinator
