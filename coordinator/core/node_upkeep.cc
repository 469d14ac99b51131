// The part of ClusterState that takes nodes out of use and back: for people, for maintenance, and
// after repeated failures.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "coordinator/core/cluster_state.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

constexpr char kFreeze[] = "Freeze";
constexpr char kStarted[] = "Started";
// Of an event that does not say how long it takes.
constexpr absl::Duration kUnknownLength = absl::Minutes(15);
// After it should be over: of a node that does not come back.
constexpr absl::Duration kKeepOfGoneNode = absl::Hours(1);

bool Freezes(const v1::MaintenanceEvent& event) { return event.type() == kFreeze; }

absl::Duration ExpectedLength(const v1::MaintenanceEvent& event) {
  return event.duration_seconds() > 0 ? absl::Seconds(event.duration_seconds()) : kUnknownLength;
}

// "Reboot (id) in 5 min or later: description"
std::string Describe(const v1::MaintenanceEvent& event, absl::Time now) {
  std::string text = absl::StrCat(event.type(), " (", event.id(), ")");
  if (event.status() == kStarted) {
    absl::StrAppend(&text, " has started");
  } else if (event.has_not_before()) {
    const absl::Duration notice =
        std::max(absl::ZeroDuration(), FromTimestamp(event.not_before()) - now);
    absl::StrAppend(&text, " in ", InWords(notice), " or later");
  }
  return event.description().empty() ? text : absl::StrCat(text, ": ", event.description());
}

}  // namespace

bool ClusterState::NodeEntry::Taken() const {
  return std::any_of(record.maintenance().begin(), record.maintenance().end(),
                     [](const auto& announced) { return !Freezes(announced.event()); });
}

void ClusterState::StoreNode(NodeEntry* node, Step* step) {
  step->effects.writes.nodes[node->record.name()] = node->record;
  MarkDirty(node);
  step->schedule = true;
}

void ClusterState::PreemptJobsOn(NodeEntry* node, const std::string& reason, Step* step) {
  const std::string name = absl::StrCat("nodes/", node->record.name());
  const std::map<std::string, int> jobs = node->jobs;
  for (const auto& [job_name, slots] : jobs) {
    JobMachine* job = Find(job_name);
    if (!job->Wanted()) continue;
    Drive(job, step, [&](JobOutput* out) {
      job->Preempt(absl::StrCat(name, " ", reason), name, step->now, out);
    });
  }
}

ClusterState::NodeEntry* ClusterState::CommandedNode(const std::string& name, Step* step) {
  auto it = nodes_.find(std::string(absl::StripPrefix(name, "nodes/")));
  if (it != nodes_.end()) return &it->second;
  step->effects.node_reply = absl::NotFoundError(absl::StrCat("there is no ", name));
  return nullptr;
}

void ClusterState::Handle(const CordonNodeCommand& command, Step* step) {
  NodeEntry* found = CommandedNode(command.name, step);
  if (found == nullptr) return;
  NodeEntry& node = *found;
  node.record.set_cordoned(true);
  node.record.set_draining(command.drain || node.record.draining());
  node.record.set_cordon_reason(
      absl::StrCat(command.drain ? "drained" : "cordoned",
                   command.actor.empty() ? "" : absl::StrCat(" by ", command.actor),
                   command.reason.empty() ? "" : absl::StrCat(": ", command.reason)));
  StoreNode(&node, step);
  RecordNodeEvent(node, command.drain ? "Draining" : "Cordoned", command.reason, command.actor,
                  step);
  if (command.drain) {
    PreemptJobsOn(&node, absl::StrCat("is ", node.record.cordon_reason()), step);
  }
  step->effects.node_reply = ToNode(node);
}

void ClusterState::Handle(const UncordonNodeCommand& command, Step* step) {
  NodeEntry* found = CommandedNode(command.name, step);
  if (found == nullptr) return;
  NodeEntry& node = *found;
  if (node.record.cordoned()) {
    node.record.set_cordoned(false);
    node.record.set_draining(false);
    node.record.clear_cordon_reason();
    node.failures.clear();
    StoreNode(&node, step);
    RecordNodeEvent(node, "Uncordoned", "", command.actor, step);
  }
  step->effects.node_reply = ToNode(node);
}

void ClusterState::Handle(const MaintenanceCommand& command, Step* step) {
  NodeEntry* node = Heard(command.session, step);
  if (node != nullptr) TakeMaintenance(node, command.maintenance, step);
}

void ClusterState::TakeMaintenance(NodeEntry* node, const v1::Maintenance& maintenance,
                                   Step* step) {
  const Instant now = step->now;
  std::map<std::string, internal::MaintenanceRecord> known;
  for (const internal::MaintenanceRecord& announced : node->record.maintenance()) {
    known[announced.event().id()] = announced;
  }
  node->record.clear_maintenance();
  node->knows_maintenance = true;
  std::string taken_by;
  for (const v1::MaintenanceEvent& event : maintenance.events()) {
    internal::MaintenanceRecord& kept = *node->record.add_maintenance();
    auto before = known.find(event.id());
    const bool is_new = before == known.end();
    if (!is_new) kept = before->second;
    const bool starts = event.status() == kStarted && kept.event().status() != kStarted;
    *kept.mutable_event() = event;
    if (is_new || starts) {
      RecordNodeEvent(*node, is_new ? "Maintenance" : "MaintenanceStarted",
                      Describe(event, now.wall), "", step);
      // Also before it is said to have started: it may begin once it is approved, and then the
      // worker says nothing more.
      if (Freezes(event)) *kept.mutable_freeze_time() = ToTimestamp(now.wall);
    }
    if (!Freezes(event) && taken_by.empty()) taken_by = Describe(event, now.wall);
    if (!is_new) known.erase(before);
  }
  for (const auto& [id, over] : known) {
    RecordNodeEvent(*node, "MaintenanceOver", absl::StrCat(over.event().type(), " (", id, ")"), "",
                    step);
  }
  ResumeFreezes(node, now);
  StoreNode(node, step);
  if (!taken_by.empty()) {
    PreemptJobsOn(node, absl::StrCat("is taken by maintenance: ", taken_by), step);
  }
}

void ClusterState::ForgetMaintenanceOfGoneNodes(Step* step) {
  const absl::Time now = step->now.wall;
  for (auto& [name, node] : nodes_) {
    if (node.session != 0 || node.record.maintenance().empty()) continue;
    absl::Time over = absl::InfinitePast();
    for (const internal::MaintenanceRecord& announced : node.record.maintenance()) {
      absl::Time start = std::max(node.last_heard_wall, FromTimestamp(node.record.join_time()));
      if (announced.event().has_not_before()) start = FromTimestamp(announced.event().not_before());
      if (announced.has_freeze_time()) start = FromTimestamp(announced.freeze_time());
      over = std::max(over, start + ExpectedLength(announced.event()));
    }
    if (now >= over + kKeepOfGoneNode) TakeMaintenance(&node, {}, step);
  }
}

void ClusterState::ResumeFreezes(NodeEntry* node, Instant now) {
  node->frozen_until = -absl::InfiniteDuration();
  for (const internal::MaintenanceRecord& announced : node->record.maintenance()) {
    if (!Freezes(announced.event())) continue;
    const absl::Duration limit = ExpectedLength(announced.event());
    // However the wall clock has been set meanwhile.
    const absl::Duration passed =
        std::clamp(now.wall - FromTimestamp(announced.freeze_time()), absl::ZeroDuration(), limit);
    node->frozen_until =
        std::max(node->frozen_until, now.monotonic + (limit - passed) + options_.lease.lost_after);
  }
}

bool ClusterState::Frozen(const JobMachine& job, Instant now) const {
  const auto& shares = job.record().shares();
  return std::any_of(shares.begin(), shares.end(), [&](const internal::ShareRecord& share) {
    return now.monotonic < Node(share.node()).frozen_until;
  });
}

void ClusterState::ApproveMaintenance(NodeEntry* node, Step* step) {
  if (node->session == 0 || !node->knows_maintenance) return;
  for (const internal::MaintenanceRecord& announced : node->record.maintenance()) {
    const v1::MaintenanceEvent& event = announced.event();
    const bool needed = !node->Empty() || ServesFetch(node->record.name());
    if (event.status() == kStarted || (!Freezes(event) && needed)) continue;
    if (!node->approved.insert(event.id()).second) continue;
    SessionMessage message;
    message.session = node->session;
    message.message.mutable_approval()->set_event_id(event.id());
    step->effects.messages.push_back(std::move(message));
    RecordNodeEvent(*node, "MaintenanceApproved", absl::StrCat(event.type(), " (", event.id(), ")"),
                    "", step);
  }
}

void ClusterState::NoteFailureOn(const std::string& node_name, const JobMachine& job, Step* step) {
  auto it = nodes_.find(node_name);
  if (it == nodes_.end() || it->second.record.cordoned()) return;
  NodeEntry& node = it->second;
  const absl::Duration now = step->now.monotonic;
  node.failures.push_back(now);
  while (now - node.failures.front() > kFailureWindow) node.failures.pop_front();
  if (node.failures.size() < kFailuresToSetAside) return;
  const NodePool::Node& pooled = pool_.node(node.index);
  const bool counted = pooled.usable && pooled.slots() >= job.gang().ranks_per_node &&
                       Allows(job.gang(), pooled.inventory);
  if (pool_.CountLargeEnough(job.gang()) - static_cast<int>(counted) < job.gang().min_nodes) return;
  node.record.set_cordoned(true);
  node.record.set_cordon_reason(absl::StrCat("set aside: ", node.failures.size(),
                                             " attempts failed on it within ",
                                             InWords(kFailureWindow)));
  StoreNode(&node, step);
  RecordNodeEvent(node, "SetAside", node.record.cordon_reason(), "", step);
}

}  // namespace muster::coordinator
