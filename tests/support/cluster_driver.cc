#include "tests/support/cluster_driver.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace muster::testing {

using coordinator::ClusterState;
using coordinator::Command;
using coordinator::Effects;
using coordinator::Snapshot;
using v1::AllocationStatus;

ClusterDriver::ClusterDriver(ClusterState::Options options)
    : options_(options), now_{absl::FromUnixSeconds(1'800'000'000), absl::Seconds(1000)} {
  state_ = std::make_unique<ClusterState>(options_, Snapshot{}, now_);
}

Effects ClusterDriver::Apply(const Command& command) {
  if (store_fails_) {
    waiting_.emplace_back(command, now_);
    return {};
  }
  Effects effects = state_->Apply(command, now_);
  if (observer_) observer_(&effects);
  Deliver(effects);
  return effects;
}

void ClusterDriver::ApplyAndCrash(const Command& command, bool stored) {
  Effects effects = state_->Apply(command, now_);
  effects.messages.clear();
  if (observer_) observer_(&effects);
  if (stored) stored_.Merge(effects.writes);
  Restart();
}

void ClusterDriver::MendStore() {
  store_fails_ = false;
  writes_are_lost_ = false;
  Effects batch;
  for (auto& [command, came] : waiting_) state_->ApplyInBatch(std::move(command), came, &batch);
  waiting_.clear();
  state_->EndBatch(&batch);
  Effects effects = batch;
  state_->TakeBackJobs(&batch.writes);
  if (observer_) observer_(&effects);
  Deliver(effects);
}

void ClusterDriver::CrashWithoutStore(size_t committed) {
  store_fails_ = false;
  writes_are_lost_ = false;
  for (size_t i = 0; i < committed; ++i) {
    Effects effects = state_->Apply(waiting_[i].first, waiting_[i].second);
    effects.messages.clear();
    if (observer_) observer_(&effects);
    stored_.Merge(effects.writes);
  }
  waiting_.clear();
  Restart();
}

void ClusterDriver::Deliver(const Effects& effects) {
  if (!writes_are_lost_) stored_.Merge(effects.writes);
  for (const coordinator::SessionMessage& message : effects.messages) {
    if (message.message.has_desired()) desired_[message.session] = message.message.desired();
    if (message.message.has_approval()) {
      approvals_[message.session].push_back(message.message.approval().event_id());
    }
    closed_[message.session] = message.close;
  }
}

void ClusterDriver::Advance(absl::Duration duration, bool heartbeats) {
  const absl::Duration step = absl::Milliseconds(250);
  int count = 0;
  for (absl::Duration passed; passed < duration; passed += step) {
    now_.wall += step;
    now_.monotonic += step;
    if (heartbeats && ++count % 4 == 0) {
      for (const auto& [node, id] : sessions_) Apply(coordinator::HeartbeatCommand{id, {}});
    }
    Apply(coordinator::TickCommand{});
  }
}

void ClusterDriver::Freeze(absl::Duration duration) {
  now_.wall += duration;
  now_.monotonic += duration;
  Apply(coordinator::TickCommand{});
}

Snapshot ClusterDriver::Stored() const {
  Snapshot snapshot;
  for (const auto& [key, record] : stored_.jobs) snapshot.jobs.push_back(record);
  for (const auto& [key, record] : stored_.nodes) snapshot.nodes.push_back(record);
  for (const auto& [key, record] : stored_.requests) snapshot.requests.push_back(record);
  snapshot.events = stored_.events;
  return snapshot;
}

void ClusterDriver::Restart() {
  state_ = std::make_unique<ClusterState>(options_, Stored(), now_);
  sessions_.clear();
  desired_.clear();
}

std::string ClusterDriver::Submit(const std::string& id, int nodes, int ranks_per_node,
                                  int max_restarts) {
  config::v1::Resources resources;
  resources.set_nodes(nodes);
  resources.set_ranks_per_node(ranks_per_node);
  resources.set_max_restarts(max_restarts);
  return Submit(id, resources);
}

std::string ClusterDriver::Submit(const std::string& id, const config::v1::Resources& resources,
                                  const std::string& actor) {
  coordinator::CreateJobCommand command;
  command.job.set_name(absl::StrCat("jobs/", id));
  command.job.set_uid(absl::StrCat("uid-", id));
  *command.job.mutable_config()->mutable_resources() = resources;
  command.actor = actor;
  Apply(command);
  return command.job.name();
}

Effects ClusterDriver::Cancel(const std::string& job) {
  return Apply(coordinator::CancelJobCommand{job, "test", ""});
}

std::vector<std::string> ClusterDriver::EventTypes(const std::string& job) const {
  std::vector<std::string> types;
  for (const v1::JobEvent& event : state_->EventsAfter(job, 0)) types.push_back(event.type());
  return types;
}

Effects ClusterDriver::Join(const std::string& node, int slots,
                            std::vector<AllocationStatus> allocations, const std::string& uid) {
  coordinator::WorkerHelloCommand command;
  command.session = next_session_++;
  command.hello.set_node(node);
  command.hello.set_node_uid(uid.empty() ? node : uid);
  command.hello.set_instance(absl::StrCat("instance-", command.session));
  command.hello.set_protocol_version(protocol_);
  v1::CheckpointServer& server = *command.hello.mutable_checkpoint_server();
  server.set_address("10.0.0.1:9100");
  server.set_certificate(absl::StrCat("certificate of ", node));
  server.set_token(absl::StrCat("secret of ", node, " ", command.session));
  command.hello.mutable_inventory()->set_slots(slots);
  command.hello.mutable_inventory()->set_address("10.0.0.1");
  command.hello.mutable_inventory()->set_probe_address("10.0.0.1:9000");
  for (AllocationStatus& status : allocations) {
    *command.hello.add_allocations() = std::move(status);
  }
  const coordinator::SessionId before = sessions_.count(node) > 0 ? sessions_[node] : 0;
  sessions_[node] = command.session;
  Effects effects = Apply(command);
  // A worker that is refused leaves the other one's session alone.
  if (closed_[command.session] && before != 0 && !closed_[before]) sessions_[node] = before;
  return effects;
}

void ClusterDriver::Disconnect(const std::string& node) {
  const coordinator::SessionId id = sessions_.at(node);
  sessions_.erase(node);
  Apply(coordinator::SessionClosedCommand{id});
}

Effects ClusterDriver::Cordon(const std::string& node, bool drain) {
  return Apply(coordinator::CordonNodeCommand{absl::StrCat("nodes/", node), "test", drain, "ann"});
}

Effects ClusterDriver::Uncordon(const std::string& node) {
  return Apply(coordinator::UncordonNodeCommand{absl::StrCat("nodes/", node), "ann"});
}

Effects ClusterDriver::Announce(const std::string& node,
                                const std::vector<v1::MaintenanceEvent>& events) {
  coordinator::MaintenanceCommand command;
  command.session = session(node);
  for (const v1::MaintenanceEvent& event : events) *command.maintenance.add_events() = event;
  return Apply(command);
}

std::vector<std::string> ClusterDriver::Approvals(const std::string& node) const {
  auto it = approvals_.find(session(node));
  return it == approvals_.end() ? std::vector<std::string>() : it->second;
}

bool ClusterDriver::SaidGoodbye(const std::string& node) const {
  return closed_.at(sessions_.at(node));
}

v1::DesiredState ClusterDriver::Desired(const std::string& node) const {
  auto session = sessions_.find(node);
  if (session == sessions_.end()) return {};
  auto it = desired_.find(session->second);
  return it == desired_.end() ? v1::DesiredState() : it->second;
}

std::optional<v1::Allocation> ClusterDriver::Allocation(const std::string& node,
                                                        const std::string& job) const {
  const v1::DesiredState desired = Desired(node);
  for (const v1::Allocation& allocation : desired.allocations()) {
    if (allocation.job() == job) return allocation;
  }
  return std::nullopt;
}

AllocationStatus ClusterDriver::Status(const std::string& job,
                                       AllocationStatus::Phase phase) const {
  AllocationStatus status;
  status.set_job(job);
  status.set_generation(this->job(job).generation());
  status.set_phase(phase);
  if (phase == AllocationStatus::PHASE_PREPARED) status.set_master("10.0.0.1:4000");
  status.add_ranks(0);
  return status;
}

Effects ClusterDriver::Report(const std::string& node, const std::string& job,
                              AllocationStatus::Phase phase, std::vector<v1::Checkpoint> held) {
  AllocationStatus status = Status(job, phase);
  for (v1::Checkpoint& checkpoint : held) *status.add_checkpoints() = std::move(checkpoint);
  return Apply(coordinator::AllocationStatusCommand{session(node), status});
}

Effects ClusterDriver::ReportFailure(const std::string& node, const std::string& job,
                                     v1::RankFailure failure) {
  AllocationStatus status = Status(job, AllocationStatus::PHASE_FAILED);
  *status.mutable_failure() = std::move(failure);
  return Apply(coordinator::AllocationStatusCommand{session(node), status});
}

Effects ClusterDriver::AckNewest(const std::string& node, const std::string& error) {
  v1::Ack ack;
  ack.set_version(Desired(node).version());
  ack.set_error(error);
  return Apply(coordinator::AckCommand{session(node), ack});
}

void ClusterDriver::Step(const std::string& node, const std::string& job, int64_t step) {
  coordinator::HeartbeatCommand command;
  command.session = session(node);
  for (const v1::RankPlacement& rank : this->job(job).ranks()) {
    if (rank.node() != absl::StrCat("nodes/", node)) continue;
    v1::RankProgress* progress = command.heartbeat.add_ranks();
    progress->set_job(job);
    progress->set_generation(this->job(job).generation());
    progress->set_rank(rank.rank());
    progress->set_step(step);
  }
  Apply(command);
}

std::vector<std::string> ClusterDriver::NodesOf(const std::string& job) const {
  std::vector<std::string> nodes;
  for (const v1::RankPlacement& rank : this->job(job).ranks()) {
    const std::string node = rank.node().substr(6);
    if (std::find(nodes.begin(), nodes.end(), node) == nodes.end()) nodes.push_back(node);
  }
  return nodes;
}

void ClusterDriver::BringUp(const std::string& job) {
  const std::vector<std::string> nodes = NodesOf(job);
  for (const std::string& node : nodes) Report(node, job, AllocationStatus::PHASE_PREPARED);
  for (const std::string& node : nodes) Report(node, job, AllocationStatus::PHASE_RUNNING);
}

v1::Checkpoint MakeCheckpoint(const std::string& job, int64_t generation, int64_t step,
                              int64_t parent_generation, int64_t parent_step) {
  v1::Checkpoint checkpoint;
  checkpoint.set_job(job);
  checkpoint.set_generation(generation);
  checkpoint.set_step(step);
  checkpoint.set_parent_generation(parent_generation);
  checkpoint.set_parent_step(parent_step);
  checkpoint.set_digest(absl::StrCat("digest-", generation, "-", step));
  checkpoint.set_file(absl::StrCat("step_", step, ".pth"));
  return checkpoint;
}

v1::MaintenanceEvent MakeMaintenance(const std::string& id, const std::string& type,
                                     const std::string& status) {
  v1::MaintenanceEvent event;
  event.set_id(id);
  event.set_type(type);
  event.set_status(status);
  event.set_duration_seconds(-1);
  return event;
}

v1::RankFailure MakeFailure(int rank, int signal, int exit_code) {
  v1::RankFailure failure;
  failure.set_rank(rank);
  failure.set_signal(signal);
  failure.set_exit_code(exit_code);
  return failure;
}

}  // namespace muster::testing
