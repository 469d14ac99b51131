#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "coordinator/core/command.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/job_machine.h"
#include "coordinator/core/lease_table.h"
#include "coordinator/core/placement.h"
#include "muster/v1/job.pb.h"
#include "muster/v1/node.pb.h"

namespace muster::coordinator {

// Protocol of WorkerService.Session.
inline constexpr int kProtocolVersion = 1;

// All that the coordinator knows. Pure: no clock, no randomness, no lock, no I/O; the same commands
// at the same times give the same effects. One thread at a time.
//
// A node's life:
//
//               hello                silent              lost_after
//   (unknown) --------> READY <=================> UNREACHABLE ------> LOST
//                         ^        heard again                          |
//                         +---------------------------------------------+
//                                             hello
//
// A job's life: JobMachine. Queued jobs are placed in order of submission. A job that would fit the
// ready nodes if they were empty holds later ones back; one that would not, or that waits after a
// failure, lets them pass.
//
// What a node still runs of a generation that is over for its job keeps its slots (NodeEntry's
// leftovers) until its worker says that no process of it is left. Meanwhile the node gets no other
// generation of that job, and nothing at all before its worker has acknowledged the newest desired
// state: so neither a worker that hangs nor a rank that cannot be killed is given more to do.
class ClusterState {
 public:
  struct Options {
    LeaseTable::Options lease;
    // After a start of the coordinator, the time in which stored nodes may come back.
    absl::Duration recovery_grace = absl::Seconds(15);
    // How long a request id is remembered.
    absl::Duration request_retention = absl::Hours(24);
    // Progress alone is stored at most this often.
    absl::Duration progress_persist_interval = absl::Seconds(5);
  };

  ClusterState(const Options& options, Snapshot stored, Instant now);
  ClusterState(const ClusterState&) = delete;
  ClusterState& operator=(const ClusterState&) = delete;

  Effects Apply(const Command& command, Instant now);

  // Null when there is none; valid until the next Apply.
  const v1::Job* FindJob(const std::string& name) const;
  // Newest first, only in `states` (empty: all), only submitted before `before` (0: all).
  // *next is the `before` of the next page, 0 when there is none.
  std::vector<v1::Job> ListJobs(int limit, int64_t before, const std::set<v1::Job::State>& states,
                                int64_t* next) const;
  // Kept events of the job with a higher sequence number.
  std::vector<v1::JobEvent> EventsAfter(const std::string& job, int64_t sequence) const;

  std::optional<v1::Node> FindNode(const std::string& name) const;
  // By name, after the node of name `after` (both with "nodes/").
  std::vector<v1::Node> ListNodes(int limit, const std::string& after, bool* more) const;
  // Every state is there, also with 0.
  std::map<v1::Job::State, int> CountJobs() const;
  std::map<v1::Node::State, int> CountNodes() const;
  // Since each node with a stream was last heard. By name without "nodes/".
  std::map<std::string, absl::Duration> HeartbeatAges(Instant now) const;

  // Empty, or why a job with this config would have to wait however few jobs run.
  std::string PlacementWarning(const config::v1::TrainJob& config) const;

  struct RankLocation {
    std::string node;
    int64_t generation = 0;
    SessionId session = 0;
  };
  // Where the rank of the generation (0: the newest) ran. NotFound; FailedPrecondition when nothing
  // was placed yet; Unavailable while its node has no stream.
  absl::StatusOr<RankLocation> LocateRank(const std::string& job, int64_t generation,
                                          int rank) const;

 private:
  struct Leftover {
    int slots = 0;
    // Was never told to run, so that an acknowledgement of a later state is its end.
    bool only_prepared = false;
  };
  struct NodeEntry {
    internal::NodeRecord record;
    v1::Node::State state = v1::Node::STATE_UNREACHABLE;
    SessionId session = 0;
    std::string instance;
    absl::Time last_heard_wall = absl::InfinitePast();
    int64_t desired_version = 0;
    int64_t acknowledged_version = 0;
    // It refused work or ended some by itself, as a worker that is being stopped does: nothing is
    // placed on it before it joins again.
    bool refuses = false;
    // Live jobs with slots here.
    std::set<std::string> jobs;
    // By (job, generation): not wanted, but not over here yet.
    std::map<std::pair<std::string, int64_t>, Leftover> leftovers;

    // Nothing is placed on it for now.
    bool Busy() const { return !leftovers.empty() && acknowledged_version != desired_version; }
    bool HasLeftover(const std::string& job) const;
  };
  // One Apply under way.
  struct Step {
    Instant now;
    Effects effects;
    std::set<std::string> nodes_to_tell;
    bool schedule = false;
  };

  void Handle(const CreateJobCommand& command, Step* step);
  void Handle(const CancelJobCommand& command, Step* step);
  void Handle(const WorkerHelloCommand& command, Step* step);
  void Handle(const HeartbeatCommand& command, Step* step);
  void Handle(const AckCommand& command, Step* step);
  void Handle(const AllocationStatusCommand& command, Step* step);
  void Handle(const CheckpointCommand& command, Step* step);
  void Handle(const EvaluationCommand& command, Step* step);
  void Handle(const SessionClosedCommand& command, Step* step);
  void Handle(const TickCommand& command, Step* step);

  // The node of a live stream, its lease renewed; null for a stream that was replaced.
  NodeEntry* Heard(SessionId session, Step* step);
  void EndSession(NodeEntry* node, const std::string& reason, bool retry, Step* step);
  void TakeInventory(NodeEntry* node, const v1::Hello& hello, Step* step);
  void ApplyStatus(NodeEntry* node, const v1::AllocationStatus& status, Step* step);
  void LoseNode(NodeEntry* node, Step* step);
  // Of jobs on nodes, and of those that wait after a failure.
  void CheckTimeLimits(Step* step);
  // The worker is there, but has not ended its part of the job in time.
  void GiveUpNode(JobMachine* job, const std::string& node_name, Step* step);
  std::set<std::string> LiveJobs() const;
  bool LeaseExpired(const NodeEntry& node, Instant now) const;
  void ForgetRequests(Step* step);

  // Runs one input of a job and gathers what comes of it.
  void Drive(JobMachine* job, Step* step, absl::FunctionRef<void(JobOutput*)> input);
  JobMachine* Find(const std::string& name);

  void Schedule(Step* step);
  // Slots of all live workers on the machine of `inventory`, which share its cores.
  int MachineSlots(const v1::Inventory& inventory) const;
  // "; nodes/b still ends generation 3 of jobs/j", or empty.
  std::string LeftoverNote() const;
  void PushDesiredState(Step* step);
  std::vector<NodeCapacity> ReadyCapacities() const;
  int SlotsUsed(const NodeEntry& node) const;
  v1::Node ToNode(const NodeEntry& node) const;

  const Options options_;
  LeaseTable leases_;
  // By name ("jobs/x"), and by order of submission.
  std::map<std::string, JobMachine> jobs_;
  std::map<int64_t, std::string> jobs_by_sequence_;
  // Jobs in QUEUED, by order of submission.
  std::map<int64_t, std::string> queue_;
  // By name without "nodes/".
  std::map<std::string, NodeEntry> nodes_;
  std::map<SessionId, std::string> sessions_;
  std::map<std::string, internal::RequestRecord> requests_;
  std::map<std::string, std::deque<v1::JobEvent>> events_;
  absl::Duration last_tick_ = absl::InfiniteDuration();
  int64_t next_event_ = 1;
  int64_t next_submission_ = 1;
};

}  // namespace muster::coordinator
