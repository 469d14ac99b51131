#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "coordinator/core/checkpoint_fetch.h"
#include "coordinator/core/command.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/hang_attribution.h"
#include "coordinator/core/hang_watch.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/straggler_watch.h"
#include "muster/internal/coordinator_store.pb.h"
#include "muster/v1/job.pb.h"
#include "muster/v1/progress.pb.h"
#include "muster/v1/worker_service.pb.h"

namespace muster::coordinator {

// Attempts that fail again and again are at most so far apart.
inline constexpr absl::Duration kLongestBackoff = absl::Minutes(5);

// What one input to a job brings about, for the cluster to act on.
struct JobOutput {
  // The record must be stored.
  bool persist = false;
  // Watchers see a change.
  bool changed = false;
  // Its nodes must be told, slots may be free or wanted.
  bool desired_changed = false;
  // It keeps slots of other nodes, or fewer.
  bool holdings_changed = false;
  // Without sequence numbers.
  std::vector<v1::JobEvent> events;
  std::vector<StateChange> state_changes;
  std::optional<absl::Duration> queue_wait;
  // Used since the last input that was stored.
  double slot_seconds = 0;
  // The node on which an attempt has failed, when another node may do better.
  std::string blamed_node;
  // The generation is ended because no rank advanced, and why (CauseName); empty: it is not.
  std::string hang_cause;
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
//  1 Place: a gang was found, and the wait after a failure is over; generation + 1; its nodes are
//    told to PREPARE. When all are PREPARED the resume point is chosen and they are told to RUN
//    (still STARTING). If another node has a newer checkpoint than they, node_rank 0 fetches it
//    before.
//  2 every node reports RUNNING (or SUCCEEDED)
//  3 every node reports SUCCEEDED (also straight from STARTING)
//  4 a rank failed, a node was lost or could not prepare, after start_timeout not every rank has
//    joined, Preempt, Grow, or max_run_time is used up: nothing of the generation is wanted now
//  5 every share has ended: a retry. A failure of the job's own counts and, unless the generation
//  has
//    left a checkpoint, waits restart_backoff, doubled for each failure in a row; after a lost
//    node, Preempt or Grow neither.
//  6 likewise, but a retry cannot mend it, or max_restarts or max_run_time is used up
//  7 Cancel; 8 Cancel while nothing is placed; 9 every share has ended
//
// A share (one node's part of a generation) has ended when no process of it is left, when its node
// is lost, or when its node was given up because it has not ended the share within grace_period and
// 30 s of being told to.
//
// A rank that ended because a peer vanished (exit code kExitCollectiveLost) is the first failure
// only while no better one of its generation is known: reports of several nodes come in any order.
//
// What counts as a lost node, so that it costs no restart: the lease of its worker ran out; its
// worker ended the ranks by itself; its worker came back and holds nothing of the generation, as
// after a reboot of the machine (a worker that finds that all of its ranks were killed together
// with their shims, which leaves no exit status, forgets them). A rank whose end was seen, also by
// SIGKILL, is a failure of the job's own, unless it stopped as asked after a checkpoint
// (kExitStopped), which costs nothing.
//
// A generation that is stopped by checkpoint (Preempt, Grow) is no longer wanted: its workers ask
// the trainers to stop, and those write a checkpoint first. Whatever its ranks say while they end
// is no failure of the job's; if they had just finished, it has SUCCEEDED.
//
// Time on nodes (max_run_time) counts from the placement until every share has ended, over all
// generations, and also while the coordinator was away or stood still.
//
// Time limits count in time that this coordinator was there: a paused one forgives the pause, and
// one that takes up a stored record lets them start anew. start_timeout also starts anew with each
// sign that a fetch gets on.
class JobMachine {
 public:
  // A new job in QUEUED: of `job` name, uid, display_name, labels, creator and config are read.
  static internal::JobRecord NewRecord(v1::Job job, int64_t submit_sequence, Instant now);

  // Takes up a stored record, also one from a release that knew fewer fields.
  JobMachine(internal::JobRecord record, Instant now);

  const internal::JobRecord& record() const { return record_; }
  // Lends it, or takes it back: nothing else may be called between.
  void SwapRecord(internal::JobRecord* other) { record_.Swap(other); }
  const v1::Job& job() const { return record_.job(); }
  const Gang& gang() const { return gang_; }
  int priority() const { return job().config().resources().priority(); }
  // Default true.
  bool preemptible() const;
  bool Terminal() const;
  // Has a generation on nodes.
  bool Live() const;
  // It is meant to run.
  bool Wanted() const;
  // Its generation is over because a rank failed or hangs, or a node is lost: the ranks that are
  // left wait for a collective that never completes.
  bool Aborted() const;
  // Slots of the node, or of a share's node, that the job keeps from others.
  int SlotsHeld(absl::string_view node) const;
  int SlotsHeld(const internal::ShareRecord& share) const;
  // Nodes of its newest generation.
  std::set<std::string> Nodes() const;
  // The node should hold something of this job.
  bool WantedOn(absl::string_view node) const;
  // What it should hold, if anything; `config` is there only for whoever reads it off the wire.
  v1::Allocation* AddAllocationOn(absl::string_view node, v1::DesiredState* desired) const;

  // In QUEUED: not to be placed before, because an attempt has failed (Instant::monotonic). Place
  // must not be called.
  absl::Duration NotBefore() const;
  // In QUEUED: that wait is over, and EndWait must be called.
  bool WaitIsOver(Instant now) const;
  void EndWait(Instant now, JobOutput* out);
  // Transition 1. `nodes` in order of node_rank, from gang().min_nodes to max_nodes of them.
  void Place(const std::vector<std::string>& nodes, LookAtNode look, Instant now, JobOutput* out);
  // Transition 7 or 8; the job must not be terminal.
  void Cancel(const std::string& reason, const std::string& actor, Instant now, JobOutput* out);
  // Transition 4, for no fault of the job; it must be Wanted(). `reason`: "for jobs/x". `node` is
  // "nodes/x" when it is the reason.
  void Preempt(const std::string& reason, const std::string& node, Instant now, JobOutput* out);
  // Likewise, so that it is placed on more nodes.
  void Grow(const std::string& reason, Instant now, JobOutput* out);
  // RUNNING since then, as far as this coordinator knows.
  absl::Duration running_since() const { return phase_start_; }

  // Does nothing when it is of another generation or the node has no part in the job.
  void Report(absl::string_view node, const v1::AllocationStatus& status, LookAtNode look,
              Instant now, JobOutput* out);
  // node_rank 0 is to fetch a checkpoint from record().fetch_sources().
  bool Fetching() const { return Wanted() && !record_.started() && record_.has_fetch(); }
  // In STARTING: looks anew what there is to fetch, and starts if that was all it waited for.
  void ReviewFetch(LookAtNode look, Instant now, JobOutput* out);
  // In STARTING: start_timeout has passed. Transition 4 with the nodes that are late.
  bool StartOverdue(Instant now) const;
  void FailStart(Instant now, JobOutput* out);
  // In RESTARTING and CANCELLING: nodes that have had more than enough time to end their share.
  std::vector<std::string> NodesOverdueToStop(Instant now) const;
  // Goes on without such a node, whose processes may run on.
  void GiveUpNode(absl::string_view node, Instant now, JobOutput* out);
  // Wanted() and max_run_time has passed: transition 4, then 6.
  bool RunTimeUsedUp(Instant now) const;
  void EndRunTime(Instant now, JobOutput* out);
  // How long it will be on nodes at most, or as it says itself; infinite: not known.
  absl::Duration ExpectedRunTime(Instant now) const;
  // By Instant::monotonic: when it is expected to have left its nodes; infinite: not known.
  absl::Duration ExpectedEnd(Instant now) const;
  // It does not count against anybody that no tick came for so long, or a node was frozen.
  void Forgive(absl::Duration pause);
  // The node is lost, or its worker came back without the ranks.
  void LoseNode(absl::string_view node, const std::string& reason, Instant now, JobOutput* out);
  // The node's worker holds nothing of this job's generation (it says so when it joins). One that
  // was `restarted` may have lost what it ran, one that was not has ended it.
  void NotHeld(absl::string_view node, bool restarted, Instant now, JobOutput* out);
  // The node has acknowledged the newest desired state, or refused it.
  void Acknowledged(absl::string_view node, Instant now, JobOutput* out);
  void Refused(absl::string_view node, const std::string& error, Instant now, JobOutput* out);

  // In RUNNING: no rank has advanced for longer than it should take (HangWatch). The cluster then
  // asks the nodes (BeginHangInquiry; `unasked` by node: why not), hands in what they answer, and
  // once HangDiagnosed calls EndHang: transition 4, for the verdict of AttributeHang. Any sign of
  // progress meanwhile ends the inquiry.
  bool HangSuspected(Instant now) const;
  void BeginHangInquiry(int64_t request_id, const std::map<std::string, std::string>& unasked,
                        Instant now);
  void TakeDiagnosis(absl::string_view node, const v1::Diagnosis& diagnosis);
  bool HangDiagnosed(Instant now) const;
  void EndHang(Instant now, JobOutput* out);
  absl::Duration Stalled(Instant now) const { return hang_watch_.Stalled(now.monotonic); }
  // A node of it was not heard for so long: its ranks may have advanced.
  void ForgiveSilence(absl::Duration pause);
  // Time to look at the ranks' times anew (StragglerWatch).
  bool StragglersDue(Instant now) const;
  void JudgeStragglers(Instant now, JobOutput* out);

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
  const internal::ShareRecord* FindWantedShare(absl::string_view node) const;
  static void EndShare(internal::ShareRecord* share, JobOutput* out);
  const internal::ShareRecord* FindShare(absl::string_view node) const;
  bool EveryShare(v1::AllocationStatus::Phase phase) const;
  void Touch(Instant now, JobOutput* out);
  void SetState(v1::Job::State state, const std::string& reason, Instant now, JobOutput* out);
  // To be completed; valid until the next.
  v1::JobEvent* AddEvent(const std::string& type, const std::string& message, Instant now,
                         JobOutput* out);
  void ShowPhase(const internal::ShareRecord& share, const std::string& phase,
                 const std::string& detail = "");
  void NoteAdvance(absl::string_view node, Instant now);
  // job_hang.cc
  void WatchGeneration(Instant now);
  void NoteStep(int64_t step, Instant now);
  void NoteEvaluation(int rank, int64_t images_left, Instant now);
  void NoteMove(Instant now);
  void NoteStepTimes(const v1::RankProgress& progress, JobOutput* out);
  HangVerdict JudgeHang(Instant now) const;

  void ChooseFetch(LookAtNode look, Instant now, JobOutput* out);
  void StartWhenPrepared(LookAtNode look, Instant now, JobOutput* out);
  void NoteFailure(const internal::ShareRecord& share, Instant now, JobOutput* out);
  // From now on nothing of the generation is wanted.
  void BeginStop(Instant now);
  absl::Duration StopLimit() const;
  void StopByCheckpoint(const std::string& reason, Instant now, JobOutput* out);
  // Time on nodes so far, and its limit (infinite: none).
  absl::Duration RunTime(Instant now) const;
  absl::Duration MaxRunTime() const;
  std::string RunTimeReason() const;
  void ChargeTime(Instant now, JobOutput* out);
  // The newest generation has left a checkpoint that is newer than what it resumed from.
  bool WroteCheckpoint() const;
  // Transition 4, then 5 or 6 if nothing is left already.
  void EndGeneration(const std::string& reason, Instant now, JobOutput* out);
  // Transitions 5, 6 and 9, once every share has ended.
  void Settle(Instant now, JobOutput* out);
  void Finish(v1::Job::State state, const std::string& reason, Instant now, JobOutput* out);
  void Requeue(bool own_failure, Instant now, JobOutput* out);

  internal::JobRecord record_;
  Gang gang_;
  // Of job().config(), once something of it was placed.
  mutable std::string config_bytes_;
  // Not stored; all times by Instant::monotonic.
  // In STARTING: since the placement. In RUNNING: since all ranks had joined. In RESTARTING and
  // CANCELLING: since nothing is wanted.
  absl::Duration phase_start_;
  // In QUEUED with not_before: that time.
  absl::Duration wait_end_;
  std::map<std::string, absl::Duration> last_advance_;
  absl::Duration advance_interval_;
  absl::Duration progress_stored_ = -absl::InfiniteDuration();
  struct HangInquiry {
    int64_t request_id = 0;
    absl::Duration deadline;
    // By node.
    std::map<std::string, v1::Diagnosis> answers;
  };
  HangWatch hang_watch_;
  std::optional<HangInquiry> hang_inquiry_;
  // The node at fault ("nodes/x") when the generation was ended for a hang.
  std::string hang_blame_;
  StragglerWatch stragglers_;
  absl::Duration stragglers_judged_ = -absl::InfiniteDuration();
  // Time on nodes is in the record up to here.
  absl::Duration charged_;
  // From the newest progress of the running generation; infinite: it has told none.
  absl::Duration eta_end_ = absl::InfiniteDuration();
};

// "rank 1 on nodes/b: " and what its worker said of it; the message alone when no process has
// ended.
std::string DescribeFailure(const v1::RankFailure& failure);

// A worker that says so has no process of its share left.
bool EndsShare(v1::AllocationStatus::Phase phase);

}  // namespace muster::coordinator
