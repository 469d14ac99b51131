#include "coordinator/core/job_machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "coordinator/core/lineage.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

using v1::AllocationStatus;
using v1::Job;

std::string PhaseName(AllocationStatus::Phase phase) {
  switch (phase) {
    case AllocationStatus::PHASE_PREPARED:
      return "PREPARED";
    case AllocationStatus::PHASE_STARTING:
      return "STARTING";
    case AllocationStatus::PHASE_RUNNING:
      return "RUNNING";
    case AllocationStatus::PHASE_SUCCEEDED:
      return "EXITED";
    case AllocationStatus::PHASE_FAILED:
      return "FAILED";
    case AllocationStatus::PHASE_STOPPED:
      return "STOPPED";
    default:
      return "PREPARING";
  }
}

}  // namespace

bool EndsShare(AllocationStatus::Phase phase) {
  return phase == AllocationStatus::PHASE_SUCCEEDED || phase == AllocationStatus::PHASE_FAILED ||
         phase == AllocationStatus::PHASE_STOPPED;
}

internal::JobRecord JobMachine::NewRecord(Job job, int64_t submit_sequence, Instant now) {
  internal::JobRecord record;
  record.set_submit_sequence(submit_sequence);
  Job* stored = record.mutable_job();
  stored->set_name(job.name());
  stored->set_uid(job.uid());
  stored->set_display_name(job.display_name());
  *stored->mutable_labels() = std::move(*job.mutable_labels());
  stored->set_creator(job.creator());
  *stored->mutable_config() = std::move(*job.mutable_config());
  stored->set_state(Job::STATE_QUEUED);
  *stored->mutable_create_time() = ToTimestamp(now.wall);
  *stored->mutable_update_time() = ToTimestamp(now.wall);
  stored->set_etag("1");
  *record.mutable_queue_time() = ToTimestamp(now.wall);
  return record;
}

JobMachine::JobMachine(internal::JobRecord record, Instant now)
    : record_(std::move(record)),
      gang_(GangOf(record_.job().config())),
      phase_start_(now.monotonic),
      hang_watch_(now.monotonic),
      stragglers_(record_.job().ranks_size()),
      charged_(now.monotonic) {
  const Job::State state = job().state();
  if (Live() && job().has_update_time()) {
    const absl::Duration away = now.wall - FromTimestamp(job().update_time());
    *record_.mutable_run_time() =
        ToProto(FromProto(record_.run_time()) + std::max(absl::ZeroDuration(), away));
  }
  if (Live() && job().progress().has_eta()) {
    eta_end_ = now.monotonic + FromProto(job().progress().eta());
  }
  if (state == Job::STATE_STARTING && !record_.has_place_time()) {
    *record_.mutable_place_time() = ToTimestamp(now.wall);
  }
  if ((state == Job::STATE_RESTARTING || state == Job::STATE_CANCELLING) &&
      !record_.has_stop_time()) {
    *record_.mutable_stop_time() = ToTimestamp(now.wall);
  }
  // However the wall clock has been set meanwhile.
  const absl::Duration wait = FromTimestamp(record_.not_before()) - now.wall;
  wait_end_ = now.monotonic + std::clamp(wait, absl::ZeroDuration(), kLongestBackoff);
}

bool JobMachine::preemptible() const {
  const config::v1::Resources& resources = job().config().resources();
  return !resources.has_preemptible() || resources.preemptible();
}

bool JobMachine::Live() const { return job().state() != Job::STATE_QUEUED && !Terminal(); }

bool JobMachine::Wanted() const {
  return job().state() == Job::STATE_STARTING || job().state() == Job::STATE_RUNNING;
}

bool JobMachine::Terminal() const {
  const Job::State state = job().state();
  return state == Job::STATE_SUCCEEDED || state == Job::STATE_FAILED ||
         state == Job::STATE_CANCELLED;
}

internal::ShareRecord* JobMachine::FindShare(absl::string_view node) {
  for (internal::ShareRecord& share : *record_.mutable_shares()) {
    if (share.node() == node) return &share;
  }
  return nullptr;
}

const internal::ShareRecord* JobMachine::FindShare(absl::string_view node) const {
  return const_cast<JobMachine*>(this)->FindShare(node);
}

void JobMachine::EndShare(internal::ShareRecord* share, JobOutput* out) {
  share->set_ended(true);
  out->holdings_changed = true;
}

bool JobMachine::EveryShare(AllocationStatus::Phase phase) const {
  return std::all_of(record_.shares().begin(), record_.shares().end(),
                     [&](const auto& share) { return share.status().phase() == phase; });
}

int JobMachine::SlotsHeld(absl::string_view node) const {
  const internal::ShareRecord* share = FindShare(node);
  return share == nullptr ? 0 : SlotsHeld(*share);
}

int JobMachine::SlotsHeld(const internal::ShareRecord& share) const {
  return Wanted() || (Live() && !share.ended()) ? share.ranks_size() : 0;
}

std::set<std::string> JobMachine::Nodes() const {
  std::set<std::string> nodes;
  for (const internal::ShareRecord& share : record_.shares()) nodes.insert(share.node());
  return nodes;
}

void JobMachine::Touch(Instant now, JobOutput* out) {
  ChargeTime(now, out);
  out->persist = true;
  out->changed = true;
  Job* job = record_.mutable_job();
  *job->mutable_update_time() = ToTimestamp(now.wall);
  int64_t revision = 0;
  if (!absl::SimpleAtoi(job->etag(), &revision)) revision = 0;
  job->set_etag(absl::StrCat(revision + 1));
  progress_stored_ = now.monotonic;
}

void JobMachine::SetState(Job::State state, const std::string& reason, Instant now,
                          JobOutput* out) {
  // In the state that ends here.
  ChargeTime(now, out);
  Job* job = record_.mutable_job();
  out->state_changes.push_back(StateChange{job->state(), state});
  job->set_state(state);
  job->set_state_reason(reason);
  out->desired_changed = true;
  out->holdings_changed = true;
  Touch(now, out);
}

v1::JobEvent* JobMachine::AddEvent(const std::string& type, const std::string& message, Instant now,
                                   JobOutput* out) {
  v1::JobEvent event;
  *event.mutable_time() = ToTimestamp(now.wall);
  event.set_job(job().name());
  event.set_type(type);
  event.set_message(message);
  out->events.push_back(std::move(event));
  out->changed = true;
  return &out->events.back();
}

void JobMachine::ShowPhase(const internal::ShareRecord& share, const std::string& phase,
                           const std::string& detail) {
  // None when the job has just ended or waits again.
  auto* placements = record_.mutable_job()->mutable_ranks();
  for (const int rank : share.ranks()) {
    if (rank >= placements->size()) return;
    v1::RankPlacement* placement = placements->Mutable(rank);
    if (placement->phase() != phase) placement->set_phase(phase);
    if (placement->detail() != detail) placement->set_detail(detail);
  }
}

void JobMachine::Report(absl::string_view node, const AllocationStatus& status, LookAtNode look,
                        Instant now, JobOutput* out) {
  internal::ShareRecord* share = FindShare(node);
  if (share == nullptr || status.generation() != job().generation() || Terminal() ||
      job().state() == Job::STATE_QUEUED || share->ended()) {
    return;
  }
  if (Fetching() && status.phase() == AllocationStatus::PHASE_PREPARING &&
      status.detail() != share->status().detail()) {
    phase_start_ = now.monotonic;
  }
  *share->mutable_status() = status;
  ShowPhase(*share, PhaseName(status.phase()), status.detail());
  if (EndsShare(status.phase())) EndShare(share, out);
  if (share->node_rank() == 0 && !status.environment().empty()) {
    *record_.mutable_job()->mutable_environment() = status.environment();
  }
  Touch(now, out);

  for (const v1::Checkpoint& checkpoint : status.checkpoints()) {
    AddCheckpoint(node, checkpoint, now, out);
  }
  if (status.phase() == AllocationStatus::PHASE_PREPARED) {
    HoldsOnly(std::string(node), status, &record_);
  }
  if (record_.has_fetch()) {
    for (const std::string& other : status.not_held_by()) {
      HoldsNoMore(other, record_.fetch(), &record_);
    }
  }
  if (status.phase() == AllocationStatus::PHASE_FAILED) NoteFailure(*share, now, out);
  if (!Wanted()) {
    Settle(now, out);
    return;
  }
  switch (status.phase()) {
    case AllocationStatus::PHASE_PREPARED:
      ReviewFetch(look, now, out);
      break;
    case AllocationStatus::PHASE_RUNNING:
    case AllocationStatus::PHASE_SUCCEEDED: {
      if (EveryShare(AllocationStatus::PHASE_SUCCEEDED)) {
        Finish(Job::STATE_SUCCEEDED, "", now, out);
        break;
      }
      const bool all_joined =
          std::all_of(record_.shares().begin(), record_.shares().end(), [](const auto& other) {
            return other.status().phase() == AllocationStatus::PHASE_RUNNING ||
                   other.status().phase() == AllocationStatus::PHASE_SUCCEEDED;
          });
      if (job().state() == Job::STATE_STARTING && all_joined) {
        if (!job().has_start_time()) {
          *record_.mutable_job()->mutable_start_time() = ToTimestamp(now.wall);
        }
        phase_start_ = now.monotonic;
        WatchGeneration(now);
        SetState(Job::STATE_RUNNING, "", now, out);
        AddEvent("Running", absl::StrCat("all ", job().ranks_size(), " ranks have joined"), now,
                 out);
      }
      break;
    }
    case AllocationStatus::PHASE_FAILED:
      EndGeneration(DescribeFailure(job().first_failure()), now, out);
      break;
    case AllocationStatus::PHASE_STOPPED:
      record_.set_node_lost(true);
      EndGeneration(absl::StrCat("nodes/", node, " ended its ranks by itself"), now, out);
      break;
    default:
      break;
  }
}

}  // namespace muster::coordinator
