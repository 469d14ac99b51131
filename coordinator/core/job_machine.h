#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "coordinator/core/command.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/placement.h"
#include "muster/internal/coordinator_store.pb.h"
#include "muster/v1/job.pb.h"
#include "muster/v1/progress.pb.h"
#include "muster/v1/worker_service.pb.h"

namespace muster::coordinator {

// What one input to a job brings about, for the cluster to act on.
struct JobOutput {
  // The record must be stored.
  bool persist = false;
  // Watchers see a change.
  bool changed = false;
  // Its nodes must be told, slots may be free or wanted.
  bool desired_changed = false;
  // Without sequence numbers.
  std::vector<v1::JobEvent> events;
  std::vector<StateChange> state_changes;
  std::optional<absl::Duration> queue_wait;
};

// One job's life. Pure: the time is an argument, all consequences are in JobOutput.
//
//             1            2            3
//   QUEUED ------> STARTING ------> RUNNING ------> SUCCEEDED
//     ^  |            | 4              | 4
//     |  | 8          v                v                 7             9
//     |  |         RESTARTING <--------+   (any live) -------> CANCELLING ----> CANCELLED
//     |  |           |     |                                                       ^
//     |  |         5 |     | 6                                                     |
//     +--|-----------+     +-----> FAILED                                          |
//        +-------------------------------------------------------------------------+
//
//  1 Place: a gang was found; generation + 1; its nodes are told to PREPARE. When all are PREPARED
//    the resume point is chosen and they are told to RUN (still STARTING).
//  2 every node reports RUNNING (or SUCCEEDED)
//  3 every node reports SUCCEEDED (also straight from STARTING)
//  4 a rank failed, a node was lost or could not prepare: nothing of the generation is wanted now
//  5 no process of the generation is left: a retry (counted unless only a node was lost)
//  6 likewise, but a retry cannot mend it, or max_restarts is used up
//  7 Cancel; 8 Cancel while nothing is placed; 9 no process is left
//
// A rank that ended because a peer vanished (exit code kExitCollectiveLost) is the first failure
// only while no better one of its generation is known: reports of several nodes come in any order.
class JobMachine {
 public:
  // A new job in QUEUED: of `job` name, uid, display_name, labels and config are read.
  static internal::JobRecord NewRecord(const v1::Job& job, int64_t submit_sequence, Instant now);

  // Takes up a stored record.
  explicit JobMachine(internal::JobRecord record) : record_(std::move(record)) {}

  const internal::JobRecord& record() const { return record_; }
  const v1::Job& job() const { return record_.job(); }
  Gang gang() const;
  bool Terminal() const;
  // Slots of the node that the job keeps from others.
  int SlotsHeld(absl::string_view node) const;
  // Nodes of its newest generation.
  std::set<std::string> Nodes() const;
  // What the node should hold of this job.
  std::optional<v1::Allocation> AllocationOn(absl::string_view node) const;

  // Transition 1. `nodes` in order of node_rank.
  void Place(const std::vector<std::string>& nodes, Instant now, JobOutput* out);
  void SetWaitReason(const std::string& reason, Instant now, JobOutput* out);
  // Transition 7 or 8; the job must be live.
  void Cancel(const std::string& reason, Instant now, JobOutput* out);

  // False: of another generation, or the node has no part in the job.
  bool Report(absl::string_view node, const v1::AllocationStatus& status, Instant now,
              JobOutput* out);
  // The node is lost, or its worker came back without the ranks.
  void LoseNode(absl::string_view node, const std::string& reason, Instant now, JobOutput* out);
  // The node's worker holds nothing of this job's generation (it says so when it joins).
  void NotHeld(absl::string_view node, Instant now, JobOutput* out);
  // The node has acknowledged the newest desired state, or refused it.
  void Acknowledged(absl::string_view node, Instant now, JobOutput* out);
  void Refused(absl::string_view node, const std::string& error, Instant now, JobOutput* out);

  void ReportRankStep(absl::string_view node, const v1::RankProgress& progress, Instant now,
                      JobOutput* out);
  // Stored at most once every `persist_interval`.
  void ReportProgress(absl::string_view node, const v1::JobProgress& progress,
                      absl::Duration persist_interval, Instant now, JobOutput* out);
  void AddEvaluation(const v1::EvaluationReport& report, Instant now, JobOutput* out);
  void AddCheckpoint(absl::string_view node, const v1::Checkpoint& checkpoint, Instant now,
                     JobOutput* out);

  // When another node than this one last reported progress of the running generation;
  // InfinitePast when none has. For LeaseTable::Expired.
  absl::Duration LastAdvanceElsewhere(absl::string_view node) const;
  absl::Duration advance_interval() const { return advance_interval_; }

 private:
  internal::ShareRecord* FindShare(absl::string_view node);
  const internal::ShareRecord* FindShare(absl::string_view node) const;
  // A generation is placed and meant to run.
  bool Wanted() const;
  bool EveryShare(v1::AllocationStatus::Phase phase) const;
  void Touch(Instant now, JobOutput* out);
  void SetState(v1::Job::State state, const std::string& reason, Instant now, JobOutput* out);
  void AddEvent(const std::string& type, const std::string& message, Instant now, JobOutput* out);
  void ShowPhase(const internal::ShareRecord& share, const std::string& phase);
  void NoteAdvance(absl::string_view node, Instant now);

  void StartWhenPrepared(Instant now, JobOutput* out);
  void NoteFailure(const internal::ShareRecord& share, Instant now, JobOutput* out);
  // Transition 4, then 5 or 6 if nothing is left already.
  void EndGeneration(const std::string& reason, Instant now, JobOutput* out);
  // Transitions 5, 6 and 9, once every share has ended.
  void Settle(Instant now, JobOutput* out);
  void Finish(v1::Job::State state, const std::string& reason, Instant now, JobOutput* out);
  void Requeue(Instant now, JobOutput* out);

  internal::JobRecord record_;
  // Not stored.
  std::map<std::string, absl::Duration> last_advance_;
  absl::Duration advance_interval_;
  absl::Duration progress_stored_ = -absl::InfiniteDuration();
};

// "rank 1 on nodes/b: " and what its worker said of it.
std::string DescribeFailure(const v1::RankFailure& failure);

}  // namespace muster::coordinator
