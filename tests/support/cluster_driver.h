#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/core/cluster_state.h"

namespace muster::testing {

// Drives ClusterState by hand: the test says what workers do and when, and looks at what each was
// told last. Effects are applied to `stored` at once, as a store would.
class ClusterDriver {
 public:
  explicit ClusterDriver(coordinator::ClusterState::Options options = {});

  coordinator::ClusterState& state() { return *state_; }
  coordinator::Instant now() const { return now_; }

  coordinator::Effects Apply(const coordinator::Command& command);
  // The coordinator is killed while it handles the command: before or after its writes are stored,
  // and before anything is sent. Then it is started again.
  void ApplyAndCrash(const coordinator::Command& command, bool stored);
  // The store does not answer from now on: commands wait, each with the time at which it came, and
  // Apply returns nothing.
  void FailStore() { store_fails_ = true; }
  // A defect, for tests of tests: it goes on meanwhile as if all were stored.
  void LoseWrites() { writes_are_lost_ = true; }
  // It answers again: all that waits is applied, stored in one commit, and then let out.
  void MendStore();
  // The coordinator is killed instead. Of what waits the first `committed` were applied and stored,
  // but nothing of them was let out. Then it is started again, with a store that works.
  void CrashWithoutStore(size_t committed);
  size_t waiting() const { return waiting_.size(); }
  // Sees all effects, and may change them before they are stored and sent.
  void Observe(std::function<void(coordinator::Effects*)> observer) {
    observer_ = std::move(observer);
  }
  // In steps of a quarter second, with ticks; `heartbeats` from all nodes that are connected.
  void Advance(absl::Duration duration, bool heartbeats = true);
  // The whole coordinator stands still, ticks included.
  void Freeze(absl::Duration duration);
  // Somebody sets the wall clock.
  void JumpWallClock(absl::Duration jump) { now_.wall += jump; }
  // A coordinator that was killed and started again: only what was stored is left, no session is.
  void Restart();

  // The job's name.
  std::string Submit(const std::string& id, int nodes, int ranks_per_node = 1,
                     int max_restarts = 3);
  std::string Submit(const std::string& id, const config::v1::Resources& resources,
                     const std::string& actor = "");
  coordinator::Effects Cancel(const std::string& job);
  const v1::Job& job(const std::string& name) const { return *state_->FindJob(name); }
  std::vector<std::string> EventTypes(const std::string& job) const;

  // Hello over a new session. `uid` empty: the node's name.
  coordinator::Effects Join(const std::string& node, int slots = 1,
                            std::vector<v1::AllocationStatus> allocations = {},
                            const std::string& uid = "");
  // Of workers that join from now on.
  void SpeakProtocol(int version) { protocol_ = version; }
  // Of the next Join.
  coordinator::SessionId next_session() const { return next_session_; }
  void Disconnect(const std::string& node);
  coordinator::Effects Cordon(const std::string& node, bool drain = false);
  coordinator::Effects Uncordon(const std::string& node);
  // All that the cloud has announced for the node, as its worker says.
  coordinator::Effects Announce(const std::string& node,
                                const std::vector<v1::MaintenanceEvent>& events);
  // Ids of the events that the node's session was sent an approval for, in order.
  std::vector<std::string> Approvals(const std::string& node) const;
  coordinator::SessionId session(const std::string& node) const { return sessions_.at(node); }
  // Whether the last message on the node's stream ended it.
  bool SaidGoodbye(const std::string& node) const;

  // The newest desired state that the node was sent; and its allocation of the job.
  v1::DesiredState Desired(const std::string& node) const;
  std::optional<v1::Allocation> Allocation(const std::string& node, const std::string& job) const;

  v1::AllocationStatus Status(const std::string& job, v1::AllocationStatus::Phase phase) const;
  // The node reports this phase of the job's newest generation; PREPARED comes with a master.
  coordinator::Effects Report(const std::string& node, const std::string& job,
                              v1::AllocationStatus::Phase phase,
                              std::vector<v1::Checkpoint> held = {});
  coordinator::Effects ReportFailure(const std::string& node, const std::string& job,
                                     v1::RankFailure failure);
  coordinator::Effects AckNewest(const std::string& node, const std::string& error = "");
  void Step(const std::string& node, const std::string& job, int64_t step);
  // All nodes of the job report PREPARED, then RUNNING.
  void BringUp(const std::string& job);
  std::vector<std::string> NodesOf(const std::string& job) const;

 private:
  void Deliver(const coordinator::Effects& effects);

  const coordinator::ClusterState::Options options_;
  coordinator::Instant now_;
  coordinator::Snapshot Stored() const;
  coordinator::Writes stored_;
  std::unique_ptr<coordinator::ClusterState> state_;
  std::function<void(coordinator::Effects*)> observer_;
  bool store_fails_ = false;
  bool writes_are_lost_ = false;
  std::vector<std::pair<coordinator::Command, coordinator::Instant>> waiting_;
  int protocol_ = coordinator::kProtocolVersion;
  coordinator::SessionId next_session_ = 1;
  std::map<std::string, coordinator::SessionId> sessions_;
  std::map<coordinator::SessionId, v1::DesiredState> desired_;
  std::map<coordinator::SessionId, bool> closed_;
  std::map<coordinator::SessionId, std::vector<std::string>> approvals_;
};

// A checkpoint of the job with a digest made of generation and step.
v1::Checkpoint MakeCheckpoint(const std::string& job, int64_t generation, int64_t step,
                              int64_t parent_generation = 0, int64_t parent_step = 0);
v1::MaintenanceEvent MakeMaintenance(const std::string& id, const std::string& type,
                                     const std::string& status = "Scheduled");
v1::RankFailure MakeFailure(int rank, int signal, int exit_code);

}  // namespace muster::testing
