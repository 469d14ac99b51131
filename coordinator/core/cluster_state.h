#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "coordinator/core/command.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/event_log.h"
#include "coordinator/core/fair_share.h"
#include "coordinator/core/job_index.h"
#include "coordinator/core/job_machine.h"
#include "coordinator/core/job_queue.h"
#include "coordinator/core/lease_table.h"
#include "coordinator/core/live_jobs.h"
#include "coordinator/core/node_pool.h"
#include "coordinator/core/reservation.h"
#include "muster/v1/job.pb.h"
#include "muster/v1/node.pb.h"

namespace muster::coordinator {

// Protocol of WorkerService.Session.
// Each worker is served with the highest version that both speak. 2: checkpoints are fetched from
// other workers (CheckpointServer), and hangs diagnosed.
inline constexpr int kProtocolVersion = 2;
inline constexpr int kOldestProtocolVersion = 1;

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
// Nothing new is placed on a node that is cordoned (by a person, or set aside because attempts
// failed on it again and again) or that maintenance is about to take. A drain and such maintenance
// also move its jobs: they are stopped by checkpoint (JobMachine::Preempt) and placed elsewhere, or
// wait. Maintenance is approved once no process is left on the node; a Freeze at once, and it moves
// nothing: while it may be under way the node's silence counts for nothing, and no time limit of
// its jobs runs.
//
// A job's life: JobMachine. Queued jobs (their order: JobQueue) are placed when enough nodes are
// free. The first that is not gets a Reservation; what comes after it may go ahead around that
// (backfill), up to kBackfillDepth jobs. If stopping jobs of lower priority makes it fit, they are
// stopped by checkpoint; so they are for one that waits behind it, on nodes that those before it
// could not use. A job that would not fit the ready nodes if they were empty, or that waits
// after a failure, holds nobody up. An elastic job is placed on as many nodes as fit, up to
// `nodes`, or max_nodes while nobody else waits; it grows when it has run for kGrowAfter, nobody
// waits and nodes are free.
//
// What a node still runs of a generation that is over for its job keeps its slots (NodeEntry's
// leftovers) until its worker says that no process of it is left. Meanwhile the node gets no other
// generation of that job, and nothing at all before its worker has acknowledged the newest desired
// state: so neither a worker that hangs nor a rank that cannot be killed is given more to do.
class ClusterState {
 public:
  // Jobs that are looked at behind the first that waits.
  static constexpr int kBackfillDepth = 100;
  static constexpr absl::Duration kGrowAfter = absl::Seconds(60);
  // So many attempts that failed on a node in so long set it aside, unless the job that failed last
  // could then not be placed at all.
  static constexpr size_t kFailuresToSetAside = 3;
  static constexpr absl::Duration kFailureWindow = absl::Minutes(10);

  struct Options {
    LeaseTable::Options lease;
    // After a start of the coordinator, the time in which stored nodes may come back.
    absl::Duration recovery_grace = absl::Seconds(15);
    // How long a request id is remembered.
    absl::Duration request_retention = absl::Hours(24);
    // Jobs that have ended are forgotten with their events after so long, or when there are more.
    absl::Duration keep_finished_for = absl::Hours(30 * 24);
    size_t keep_finished = 10'000;
    // Progress alone is stored at most this often.
    absl::Duration progress_persist_interval = absl::Seconds(5);
  };

  ClusterState(const Options& options, Snapshot stored, Instant now);
  ClusterState(const ClusterState&) = delete;
  ClusterState& operator=(const ClusterState&) = delete;

  Effects Apply(const Command& command, Instant now);
  // The same for commands whose writes are stored together: their effects are added to `batch`, of
  // which `reply` and `node_reply` answer the last command. Once after the last, EndBatch adds what
  // many commands change and needs to be there once: the newest desired state of each node that is
  // to be told, and the records of jobs, which are lent without a copy: nothing else may be called
  // until TakeBackJobs has them back.
  void ApplyInBatch(Command&& command, Instant now, Effects* batch);
  void EndBatch(Effects* batch);
  void TakeBackJobs(Writes* writes);

  // Null when there is none; valid until the next Apply. A queued job says what it waits for now.
  const v1::Job* FindJob(const std::string& name) const;
  // Newest first, only in `states` (empty: all), only submitted before `before` (0: all).
  // *next is the `before` of the next page, 0 when there is none.
  std::vector<v1::Job> ListJobs(int limit, int64_t before, const std::set<v1::Job::State>& states,
                                int64_t* next) const;
  // Kept events of the job with a higher sequence number.
  std::vector<v1::JobEvent> EventsAfter(const std::string& job, int64_t sequence) const;
  // Events with a higher sequence number, in order: all (parent ""), or of "jobs/x" or "nodes/x".
  std::vector<v1::JobEvent> ListEvents(const std::string& parent, int64_t after_sequence, int limit,
                                       bool* more) const;

  std::optional<v1::Node> FindNode(const std::string& name) const;
  // By name, after the node of name `after` (both with "nodes/").
  std::vector<v1::Node> ListNodes(int limit, const std::string& after, bool* more) const;
  // Every state is there, also with 0.
  std::map<v1::Job::State, int> CountJobs() const;
  std::map<v1::Node::State, int> CountNodes() const;
  // Since each node with a stream was last heard. By name without "nodes/".
  std::map<std::string, absl::Duration> HeartbeatAges(Instant now) const;

  struct RankScore {
    std::string job;
    int rank = 0;
    // "nodes/x"
    std::string node;
    double score = 0;
  };
  // Of the ranks of live jobs, where they are known (StragglerWatch).
  std::vector<RankScore> RankScores() const;

  // The job as it would be placed now (ranks), or with what it would wait for (state_reason). Its
  // creator counts for nothing: among equals it comes last.
  v1::Job DryRun(const v1::Job& job) const;

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
    // In pool_.
    int index = 0;
    v1::Node::State state = v1::Node::STATE_UNREACHABLE;
    SessionId session = 0;
    std::string instance;
    // Agreed with its newest session; 0: none since this coordinator's start.
    int protocol = 0;
    // Of that session, with a secret: for workers that fetch, never shown or stored. Empty: none.
    v1::CheckpointServer checkpoint_server;
    absl::Time last_heard_wall = absl::InfinitePast();
    int64_t desired_version = 0;
    int64_t acknowledged_version = 0;
    // It refused work or ended some by itself, as a worker that is being stopped does: nothing is
    // placed on it before it joins again.
    bool refuses = false;
    // Slots held here, by live job.
    std::map<std::string, int> jobs;
    // By (job, generation): not wanted, but not over here yet.
    std::map<std::pair<std::string, int64_t>, Leftover> leftovers;
    // A Freeze may be under way until then (Instant::monotonic).
    absl::Duration frozen_until = -absl::InfiniteDuration();
    // This session has told what the cloud announces; it was sent approvals for these ids.
    bool knows_maintenance = false;
    std::set<std::string> approved;
    // When attempts failed on it.
    std::deque<absl::Duration> failures;
    // It is in dirty_nodes_, in untold_nodes_.
    bool dirty = false;
    bool untold = false;

    // Nothing is placed on it for now.
    bool Busy() const { return !leftovers.empty() && acknowledged_version != desired_version; }
    bool HasLeftover(const std::string& job) const;
    // Maintenance is about to take it.
    bool Taken() const;
    // Something may be placed on it.
    bool Usable() const;
    // Nothing runs on it.
    bool Empty() const { return jobs.empty() && leftovers.empty(); }
  };
  // One Apply under way.
  struct Step {
    Instant now;
    // Of the batch.
    Effects& effects;
    std::vector<NodeEntry*> nodes_to_tell = {};
    // Looked at when all else is done.
    std::set<std::string> maintenance_to_approve = {};
    bool schedule = false;
  };
  // What is kept for the first job that waits.
  struct Head {
    int64_t sequence = 0;
    std::string name;
    int priority = 0;
    // Of pool_changes_.
    int64_t pool_changes = 0;
    Reservation reservation;
  };

  void Handle(CreateJobCommand& command, Step* step);
  void Handle(const CancelJobCommand& command, Step* step);
  void Handle(const CordonNodeCommand& command, Step* step);
  void Handle(const UncordonNodeCommand& command, Step* step);
  void Handle(const MaintenanceCommand& command, Step* step);
  void Handle(const WorkerHelloCommand& command, Step* step);
  void Handle(const HeartbeatCommand& command, Step* step);
  void Handle(const AckCommand& command, Step* step);
  void Handle(const AllocationStatusCommand& command, Step* step);
  void Handle(const CheckpointCommand& command, Step* step);
  void Handle(const EvaluationCommand& command, Step* step);
  void Handle(const DiagnosisCommand& command, Step* step);
  void Handle(const SessionClosedCommand& command, Step* step);
  void Handle(const TickCommand& command, Step* step);

  // Adds it when it is new.
  NodeEntry& Entry(const std::string& name);
  // It must be there.
  NodeEntry& Node(const std::string& name) const { return *nodes_by_name_.at(name); }
  void MarkDirty(NodeEntry* node);
  // The node of a live stream, its lease renewed; null for a stream that was replaced.
  NodeEntry* Heard(SessionId session, Step* step);
  // The node that a command names; null, with the reply, when there is none.
  NodeEntry* CommandedNode(const std::string& name, Step* step);
  void EndSession(NodeEntry* node, const std::string& reason, bool retry, Step* step);
  void TakeInventory(NodeEntry* node, const v1::Hello& hello, Step* step);
  void ApplyStatus(NodeEntry* node, const v1::AllocationStatus& status, Step* step);
  void LoseNode(NodeEntry* node, Step* step);
  // Of jobs on nodes, and of those that wait after a failure. `passed`: since the last tick.
  void CheckTimeLimits(absl::Duration passed, Step* step);
  // The worker is there, but has not ended its part of the job in time.
  void GiveUpNode(JobMachine* job, const std::string& node_name, Step* step);
  bool LeaseExpired(const NodeEntry& node, Instant now) const;
  void ForgetRequests(Step* step);

  // cluster_hang.cc
  // Of nodes that a job runs on; a quick look before AllHeard.
  bool SomeAreSilent() const;
  bool AllHeard(const JobMachine& job) const;
  // `passed`: since the last tick.
  void WatchForHang(JobMachine* job, bool some_are_silent, absl::Duration passed, Step* step);
  void AskWhyItHangs(JobMachine* job, Step* step);

  // node_upkeep.cc
  void PreemptJobsOn(NodeEntry* node, const std::string& reason, Step* step);
  void TakeMaintenance(NodeEntry* node, const v1::Maintenance& maintenance, Step* step);
  // Sends approvals that are due.
  void ApproveMaintenance(NodeEntry* node, Step* step);
  void NoteFailureOn(const std::string& node_name, const JobMachine& job, Step* step);
  // Looks at a record that was stored.
  void ResumeFreezes(NodeEntry* node, Instant now);
  bool Frozen(const JobMachine& job, Instant now) const;
  void StoreNode(NodeEntry* node, Step* step);
  // Of workers that are gone for good nobody says that it is over.
  void ForgetMaintenanceOfGoneNodes(Step* step);

  // Runs one input of a job and gathers what comes of it.
  void Drive(JobMachine* job, Step* step, absl::FunctionRef<void(JobOutput*)> input);
  // After an input: where it is in the queue, what it holds.
  void UpdateQueue(JobMachine* job, Step* step);
  void UpdateHoldings(JobMachine* job, Step* step);
  void RecordEvent(v1::JobEvent event, Step* step);
  void RecordNodeEvent(const NodeEntry& node, const std::string& type, const std::string& message,
                       const std::string& actor, Step* step);
  JobMachine* Find(const std::string& name);

  // retention.cc
  void NoteFinished(const JobMachine& job);
  void ForgetFinishedJobs(Step* step);

  // cluster_schedule.cc
  void Schedule(Step* step);
  // Nodes for the job, ahead of all others or (with `head`) around what is kept; `ends_before`: it
  // leaves them in time.
  std::vector<int> ChooseNodes(const QueuedJob& queued, bool ends_before, const Head* head,
                               Instant now) const;
  void PlaceOn(JobMachine* job, const std::vector<int>& chosen, Step* step);
  // The reservation of the first job that waits; also stops others for it. Null when it cannot be
  // placed whatever ends.
  const Head* KeepFor(const QueuedJob& queued, Step* step);
  // Stops jobs of lower priority by checkpoint so that it fits, if that helps.
  void StopOthersFor(const QueuedJob& queued, Reservation::Excluded excluded, Step* step);
  // The same for a job behind others that wait, on nodes that none of those could use.
  void StopOthersBehind(const std::vector<const Gang*>& waiting, const QueuedJob& queued,
                        Step* step);
  // Stops one that could run on more nodes.
  void GrowElasticJobs(Step* step);
  // Another job than this one is queued that the nodes could hold.
  bool OthersCouldUse(int64_t sequence, Instant now) const;
  bool HasLeftover(int index, const std::string& job) const;
  // Brings pool_ up to date with dirty_nodes_.
  void RefreshPool(Step* step);
  // From now on acknowledgements of what these nodes were told before do not count.
  void OutdateDesiredState(const Step& step);
  void TellNodes(Effects* effects);
  void AddPeers(const JobMachine& job, const std::string& node, v1::Allocation* allocation) const;
  // Slots of all live workers on the machine of `inventory`, which share its cores.
  int MachineSlots(const v1::Inventory& inventory) const;
  int SlotsUsed(const NodeEntry& node) const;
  std::set<int> IndexesOf(const JobMachine& job) const;

  // cluster_checkpoints.cc
  NodeReach ReachOf(const std::string& node) const;
  // Of those that the worker should fetch from, those that it can be told of now.
  void AddFetchSources(const JobMachine& job, v1::Allocation* allocation) const;
  void TakeCheckpointServer(NodeEntry* node, const v1::Hello& hello, Step* step);
  void ReviewFetches(Step* step);
  // After an input of the job.
  void UpdateFetch(const JobMachine& job);
  bool ServesFetch(const std::string& node) const;

  // cluster_views.cc
  v1::Job Shown(const JobMachine& job, bool with_position) const;
  std::string WaitReasonOf(const QueuedJob& queued) const;
  // "; nodes/b still ends generation 3 of jobs/j; nodes/c is cordoned", or empty.
  std::string NotesOnNodes() const;
  // Jobs that come first.
  int PositionOf(int64_t sequence) const;
  // Watchers of the first jobs in the queue.
  void TellWaiting(Step* step);
  v1::Node ToNode(const NodeEntry& node) const;

  const Options options_;
  LeaseTable leases_;
  // By name ("jobs/x"), and in other orders.
  std::unordered_map<std::string, JobMachine> jobs_;
  JobIndex index_;
  // Jobs that have ended: when, and their sequence.
  std::set<std::pair<absl::Time, int64_t>> finished_;
  JobQueue queue_;
  // Sequences of queued jobs that wait after a failure.
  std::set<int64_t> waiting_after_failure_;
  LiveJobs live_;
  FairShare shares_;
  // By name without "nodes/". None is ever erased.
  std::map<std::string, NodeEntry> nodes_;
  std::unordered_map<std::string, NodeEntry*> nodes_by_name_;
  NodePool pool_;
  // Nodes by Inventory::machine_id.
  std::map<std::string, std::set<std::string>> machines_;
  // Indexes of nodes with leftovers.
  std::set<int> leftover_nodes_;
  // All that NotesOnNodes may name.
  std::set<std::string> noted_nodes_;
  // Nodes that pool_ does not know well; and how often the set of usable nodes has changed.
  std::vector<NodeEntry*> dirty_nodes_;
  // Jobs that wait for a checkpoint from elsewhere, with the nodes that hold it.
  std::map<std::string, std::set<std::string>> fetches_;
  int64_t pool_changes_ = 0;
  std::optional<Head> head_;
  std::unordered_map<SessionId, NodeEntry*> sessions_;
  std::unordered_map<std::string, internal::RequestRecord> requests_;
  std::set<std::pair<absl::Time, std::string>> request_expiry_;
  EventLog events_;
  absl::Duration last_tick_ = absl::InfiniteDuration();
  absl::Duration last_look_at_waiting_ = -absl::InfiniteDuration();
  // Of the first jobs in the queue, as their watchers know them.
  std::map<std::string, std::string> told_reasons_;
  int64_t next_submission_ = 1;
  // The newest DiagnosisRequest's number.
  int64_t last_diagnosis_ = 0;
  // Of the last Apply.
  Instant now_;
  // At the end of the batch: records to be stored, and nodes to be told.
  std::unordered_set<std::string> changed_jobs_;
  std::vector<NodeEntry*> untold_nodes_;
  // Queued jobs as shown since the last Apply; and their positions since the queue last moved.
  mutable std::map<std::string, v1::Job> shown_;
  mutable std::map<int64_t, int> positions_;
};

}  // namespace muster::coordinator
