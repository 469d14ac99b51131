// The part of JobMachine that ends a generation and decides what follows.
#include <algorithm>

#include "absl/strings/str_cat.h"

#include "common/base/exit_codes.h"
#include "coordinator/core/job_machine.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

using v1::AllocationStatus;
using v1::Job;

// For a worker that kills what does not end, to do so and say it.
constexpr absl::Duration kStopMargin = absl::Seconds(30);

bool FromLostPeer(const v1::RankFailure& failure) {
  return failure.signal() == 0 && failure.exit_code() == base::kExitCollectiveLost;
}

// Somebody else than the coordinator and the workers asked it to (a signal sent by hand, a machine
// that shuts down): it has left a checkpoint and is no fault of the job.
bool Stopped(const v1::RankFailure& failure) {
  return failure.signal() == 0 && failure.exit_code() == base::kExitStopped;
}

// Whether `candidate` explains the end of a generation better than `known`.
bool ExplainsBetter(const v1::RankFailure& candidate, const v1::RankFailure& known) {
  if (known.generation() != candidate.generation()) return true;
  if (FromLostPeer(candidate) != FromLostPeer(known)) return FromLostPeer(known);
  return FromTimestamp(candidate.time()) < FromTimestamp(known.time());
}

}  // namespace

std::string DescribeFailure(const v1::RankFailure& failure) {
  const std::string rank = absl::StrCat("rank ", failure.rank(), " on ", failure.node());
  const bool process_ended = failure.signal() != 0 || failure.exit_code() != 0;
  if (!process_ended && !failure.message().empty()) return failure.message();
  // The worker's message says how the rank ended too.
  if (!failure.message().empty()) return absl::StrCat(rank, ": ", failure.message());
  if (failure.signal() != 0) return absl::StrCat(rank, " was killed by signal ", failure.signal());
  return absl::StrCat(rank, " exited with code ", failure.exit_code());
}

void JobMachine::Cancel(const std::string& reason, const std::string& actor, Instant now,
                        JobOutput* out) {
  record_.set_cancel_reason(reason.empty() ? "cancelled" : absl::StrCat("cancelled: ", reason));
  if (job().state() == Job::STATE_CANCELLING) return;
  if (job().state() == Job::STATE_QUEUED) {
    Finish(Job::STATE_CANCELLED, record_.cancel_reason(), now, out);
    out->events.back().set_actor(actor);
    return;
  }
  if (Wanted()) BeginStop(now);
  SetState(Job::STATE_CANCELLING, "its processes are being ended", now, out);
  AddEvent("Cancelling", record_.cancel_reason(), now, out)->set_actor(actor);
  Settle(now, out);
}

void JobMachine::StopByCheckpoint(const std::string& reason, Instant now, JobOutput* out) {
  record_.set_preempt_reason(reason);
  BeginStop(now);
  SetState(Job::STATE_RESTARTING, absl::StrCat("is stopped after a checkpoint: ", reason), now,
           out);
}

void JobMachine::Preempt(const std::string& reason, const std::string& node, Instant now,
                         JobOutput* out) {
  StopByCheckpoint(reason, now, out);
  record_.mutable_job()->set_preemptions(job().preemptions() + 1);
  AddEvent("Preempted", reason, now, out)->set_node(node);
}

void JobMachine::Grow(const std::string& reason, Instant now, JobOutput* out) {
  StopByCheckpoint(reason, now, out);
  AddEvent("Growing", reason, now, out);
}

void JobMachine::NoteFailure(const internal::ShareRecord& share, Instant now, JobOutput* out) {
  if (job().state() == Job::STATE_CANCELLING || !record_.preempt_reason().empty()) return;
  v1::RankFailure failure = share.status().failure();
  failure.set_node(absl::StrCat("nodes/", share.node()));
  failure.set_generation(job().generation());
  if (!failure.has_time()) *failure.mutable_time() = ToTimestamp(now.wall);
  // A link between two nodes may be there the next time, or other nodes may be taken.
  const bool unreachable = failure.exit_code() == base::kExitCollectiveLost;
  if (!record_.started() && !unreachable) {
    // Nothing has run yet: what is wrong lies in the config, the data or the machine.
    record_.set_fatal_reason(
        absl::StrCat(failure.node(), " could not prepare the job: ", failure.message()));
  }
  AddEvent(record_.started() ? "RankFailed" : "PrepareFailed",
           record_.fatal_reason().empty() ? DescribeFailure(failure) : record_.fatal_reason(), now,
           out);
  if (!job().has_first_failure() || ExplainsBetter(failure, job().first_failure())) {
    *record_.mutable_job()->mutable_first_failure() = failure;
    if (job().state() == Job::STATE_RESTARTING) {
      record_.mutable_job()->set_state_reason(DescribeFailure(failure));
    }
  }
}

void JobMachine::LoseNode(absl::string_view node, const std::string& reason, Instant now,
                          JobOutput* out) {
  internal::ShareRecord* share = FindShare(node);
  if (share == nullptr || share->ended() || Terminal() || job().state() == Job::STATE_QUEUED) {
    return;
  }
  EndShare(share, out);
  record_.set_node_lost(true);
  ShowPhase(*share, "LOST");
  Touch(now, out);
  AddEvent("NodeLost", reason, now, out)->set_node(absl::StrCat("nodes/", node));
  if (Wanted()) {
    EndGeneration(reason, now, out);
  } else {
    // Those that are being stopped by checkpoint cannot agree on one any more.
    out->desired_changed = true;
    Settle(now, out);
  }
}

void JobMachine::BeginStop(Instant now) {
  *record_.mutable_stop_time() = ToTimestamp(now.wall);
  phase_start_ = now.monotonic;
}

bool JobMachine::Aborted() const {
  if (job().state() != Job::STATE_RESTARTING) return false;
  // One that lost its peer ends in any case, and the peer may be about to say what went wrong
  // there.
  const v1::RankFailure& failure = job().first_failure();
  if (failure.generation() == job().generation() && !Stopped(failure) && !FromLostPeer(failure)) {
    return true;
  }
  // Of a node that is lost nobody has seen how its ranks ended.
  return std::any_of(record_.shares().begin(), record_.shares().end(),
                     [](const internal::ShareRecord& share) {
                       return share.ended() && !EndsShare(share.status().phase());
                     });
}

absl::Duration JobMachine::StopLimit() const {
  return FromProto(job().config().resources().grace_period()) + kStopMargin;
}

std::vector<std::string> JobMachine::NodesOverdueToStop(Instant now) const {
  std::vector<std::string> nodes;
  const bool stopping =
      job().state() == Job::STATE_RESTARTING || job().state() == Job::STATE_CANCELLING;
  if (!stopping || now.monotonic - phase_start_ < StopLimit()) return nodes;
  for (const internal::ShareRecord& share : record_.shares()) {
    if (!share.ended()) nodes.push_back(share.node());
  }
  return nodes;
}

void JobMachine::GiveUpNode(absl::string_view node, Instant now, JobOutput* out) {
  // Longer than the limit when a coordinator was restarted meanwhile.
  const absl::Duration waited = now.wall - FromTimestamp(record_.stop_time());
  LoseNode(node,
           absl::StrCat("nodes/", node, " is given up: its worker is connected, but has not ended ",
                        "its part of the job within ", InWords(waited)),
           now, out);
}

void JobMachine::NotHeld(absl::string_view node, bool restarted, Instant now, JobOutput* out) {
  internal::ShareRecord* share = FindShare(node);
  if (share == nullptr || share->ended() || Terminal()) return;
  if (!Wanted()) {
    EndShare(share, out);
    // It may be what the other ranks' collectives were lost with.
    if (restarted && record_.started()) record_.set_node_lost(true);
    ShowPhase(*share, "STOPPED");
    Touch(now, out);
    Settle(now, out);
  } else if (record_.started()) {
    LoseNode(node, absl::StrCat("the worker of nodes/", node, " no longer holds its ranks"), now,
             out);
  } else if (share->has_status()) {
    share->clear_status();
    Touch(now, out);
  }
}

void JobMachine::Acknowledged(absl::string_view node, Instant now, JobOutput* out) {
  internal::ShareRecord* share = FindShare(node);
  // A generation that was never told to run has no process; a worker that took and dropped it
  // between two messages has nothing to report.
  if (share == nullptr || share->ended() || record_.started() || Wanted()) return;
  EndShare(share, out);
  ShowPhase(*share, "STOPPED");
  Touch(now, out);
  Settle(now, out);
}

void JobMachine::Refused(absl::string_view node, const std::string& error, Instant now,
                         JobOutput* out) {
  const internal::ShareRecord* share = FindShare(node);
  if (share == nullptr || share->ended() || !Wanted()) return;
  if (share->status().phase() > AllocationStatus::PHASE_PREPARED) return;
  LoseNode(node, absl::StrCat("nodes/", node, " refused the job: ", error), now, out);
}

void JobMachine::EndGeneration(const std::string& reason, Instant now, JobOutput* out) {
  BeginStop(now);
  SetState(Job::STATE_RESTARTING, reason, now, out);
  Settle(now, out);
}

void JobMachine::Settle(Instant now, JobOutput* out) {
  const Job::State state = job().state();
  if (state != Job::STATE_RESTARTING && state != Job::STATE_CANCELLING) return;
  for (const internal::ShareRecord& share : record_.shares()) {
    if (!share.ended()) return;
  }
  if (state == Job::STATE_CANCELLING) {
    Finish(Job::STATE_CANCELLED, record_.cancel_reason(), now, out);
    return;
  }
  if (!record_.shares().empty() && EveryShare(AllocationStatus::PHASE_SUCCEEDED)) {
    Finish(Job::STATE_SUCCEEDED, "", now, out);
    return;
  }
  if (!record_.fatal_reason().empty()) {
    Finish(Job::STATE_FAILED, record_.fatal_reason(), now, out);
    return;
  }
  if (RunTime(now) >= MaxRunTime()) {
    Finish(Job::STATE_FAILED, RunTimeReason(), now, out);
    return;
  }
  const v1::RankFailure& failure = job().first_failure();
  const bool own_failure = failure.generation() == job().generation() && !Stopped(failure) &&
                           !(FromLostPeer(failure) && record_.node_lost());
  if (!own_failure) {
    Requeue(/*own_failure=*/false, now, out);
    return;
  }
  const bool ended = failure.signal() != 0 || failure.exit_code() != 0;
  if (ended && !FromLostPeer(failure) && failure.exit_code() != base::kExitNonFinite &&
      (failure.signal() != 0 || base::IsRetryable(failure.exit_code()))) {
    out->blamed_node = failure.node();
  }
  if (!ended && !hang_blame_.empty()) out->blamed_node = hang_blame_;
  const uint32_t max_restarts = job().config().resources().max_restarts();
  if (failure.signal() == 0 && !base::IsRetryable(failure.exit_code())) {
    Finish(Job::STATE_FAILED,
           absl::StrCat(DescribeFailure(failure), "; a retry would fail in the same way"), now,
           out);
  } else if (static_cast<uint32_t>(job().restarts()) >= max_restarts) {
    Finish(Job::STATE_FAILED,
           absl::StrCat(DescribeFailure(failure), "; max_restarts (", max_restarts, ") used up"),
           now, out);
  } else {
    Requeue(/*own_failure=*/true, now, out);
  }
}

bool JobMachine::WroteCheckpoint() const {
  const internal::GenerationRecord& newest = record_.generations(record_.generations_size() - 1);
  return std::any_of(record_.checkpoints().begin(), record_.checkpoints().end(),
                     [&](const internal::CheckpointRecord& entry) {
                       return !entry.rejected() &&
                              entry.checkpoint().generation() == newest.generation() &&
                              entry.checkpoint().step() > newest.parent_step();
                     });
}

void JobMachine::Requeue(bool own_failure, Instant now, JobOutput* out) {
  Job* job = record_.mutable_job();
  // Whatever failed does so rarely: there is nothing to be gained by a wait.
  const bool advanced = WroteCheckpoint();
  if (advanced) record_.set_consecutive_failures(0);
  absl::Duration wait;
  if (own_failure) job->set_restarts(job->restarts() + 1);
  if (own_failure && !advanced) {
    wait = FromProto(job->config().resources().restart_backoff());
    for (int i = 0; i < record_.consecutive_failures() && wait < kLongestBackoff; ++i) wait *= 2;
    wait = std::min(wait, kLongestBackoff);
    record_.set_consecutive_failures(record_.consecutive_failures() + 1);
  }
  const std::string reason =
      record_.preempt_reason().empty() ? job->state_reason() : record_.preempt_reason();
  record_.clear_preempt_reason();
  job->clear_ranks();
  job->clear_master();
  wait_end_ = now.monotonic + wait;
  *record_.mutable_queue_time() = ToTimestamp(now.wall + wait);
  std::string next = "waits for a new placement";
  if (wait > absl::ZeroDuration()) {
    *record_.mutable_not_before() = ToTimestamp(now.wall + wait);
    next = absl::StrCat("waits ", InWords(wait), " after a failure: ", reason);
  }
  SetState(Job::STATE_QUEUED, next, now, out);
  AddEvent("Restarting",
           absl::StrCat(wait > absl::ZeroDuration() ? absl::StrCat("in ", InWords(wait), ", ") : "",
                        "after ", reason, " (", job->restarts(), " of ",
                        job->config().resources().max_restarts(), " restarts used)"),
           now, out);
}

void JobMachine::Finish(Job::State state, const std::string& reason, Instant now, JobOutput* out) {
  Job* job = record_.mutable_job();
  config_bytes_ = std::string();
  // It is kept for long: their memory is given back.
  google::protobuf::RepeatedPtrField<v1::RankPlacement>().Swap(job->mutable_ranks());
  job->clear_master();
  *job->mutable_end_time() = ToTimestamp(now.wall);
  SetState(state, reason, now, out);
  const char* type = state == Job::STATE_SUCCEEDED ? "Succeeded"
                     : state == Job::STATE_FAILED  ? "Failed"
                                                   : "Cancelled";
  AddEvent(type, reason, now, out);
}

}  // namespace muster::coordinator
