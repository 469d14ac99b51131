#include "coordinator/core/job_machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/exit_codes.h"
#include "coordinator/core/lineage.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

using v1::AllocationStatus;
using v1::Job;

bool EndsShare(AllocationStatus::Phase phase) {
  return phase == AllocationStatus::PHASE_SUCCEEDED || phase == AllocationStatus::PHASE_FAILED ||
         phase == AllocationStatus::PHASE_STOPPED;
}

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

bool FromLostPeer(const v1::RankFailure& failure) {
  return failure.signal() == 0 && failure.exit_code() == base::kExitCollectiveLost;
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
  // The worker's message says how the rank ended too.
  if (!failure.message().empty()) return absl::StrCat(rank, ": ", failure.message());
  if (failure.signal() != 0) return absl::StrCat(rank, " was killed by signal ", failure.signal());
  return absl::StrCat(rank, " exited with code ", failure.exit_code());
}

internal::JobRecord JobMachine::NewRecord(const Job& job, int64_t submit_sequence, Instant now) {
  internal::JobRecord record;
  record.set_submit_sequence(submit_sequence);
  Job* stored = record.mutable_job();
  stored->set_name(job.name());
  stored->set_uid(job.uid());
  stored->set_display_name(job.display_name());
  *stored->mutable_labels() = job.labels();
  *stored->mutable_config() = job.config();
  stored->set_state(Job::STATE_QUEUED);
  *stored->mutable_create_time() = ToTimestamp(now.wall);
  *stored->mutable_update_time() = ToTimestamp(now.wall);
  stored->set_etag("1");
  *record.mutable_queue_time() = ToTimestamp(now.wall);
  return record;
}

Gang JobMachine::gang() const {
  const config::v1::Resources& resources = job().config().resources();
  return Gang{std::max(1, static_cast<int>(resources.nodes())),
              std::max(1, static_cast<int>(resources.ranks_per_node()))};
}

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

bool JobMachine::EveryShare(AllocationStatus::Phase phase) const {
  return std::all_of(record_.shares().begin(), record_.shares().end(),
                     [&](const auto& share) { return share.status().phase() == phase; });
}

int JobMachine::SlotsHeld(absl::string_view node) const {
  const internal::ShareRecord* share = FindShare(node);
  if (share == nullptr || Terminal() || job().state() == Job::STATE_QUEUED) return 0;
  return Wanted() || !share->ended() ? share->ranks_size() : 0;
}

std::set<std::string> JobMachine::Nodes() const {
  std::set<std::string> nodes;
  for (const internal::ShareRecord& share : record_.shares()) nodes.insert(share.node());
  return nodes;
}

std::optional<v1::Allocation> JobMachine::AllocationOn(absl::string_view node) const {
  const internal::ShareRecord* share = FindShare(node);
  if (share == nullptr || !Wanted()) return std::nullopt;
  v1::Allocation allocation;
  allocation.set_job(job().name());
  allocation.set_job_uid(job().uid());
  allocation.set_generation(job().generation());
  allocation.set_node_rank(share->node_rank());
  allocation.set_world_size(gang().nodes * gang().ranks_per_node);
  *allocation.mutable_ranks() = share->ranks();
  *allocation.mutable_config() = job().config();
  allocation.set_goal(record_.started() ? v1::Allocation::GOAL_RUN : v1::Allocation::GOAL_PREPARE);
  if (record_.started()) {
    allocation.set_master(job().master());
    if (record_.has_resume_from()) *allocation.mutable_resume_from() = record_.resume_from();
    *allocation.mutable_resume_holders() = record_.resume_holders();
  }
  return allocation;
}

void JobMachine::Touch(Instant now, JobOutput* out) {
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
  Job* job = record_.mutable_job();
  out->state_changes.push_back(StateChange{job->state(), state});
  job->set_state(state);
  job->set_state_reason(reason);
  out->desired_changed = true;
  Touch(now, out);
}

void JobMachine::AddEvent(const std::string& type, const std::string& message, Instant now,
                          JobOutput* out) {
  v1::JobEvent event;
  *event.mutable_time() = ToTimestamp(now.wall);
  event.set_job(job().name());
  event.set_type(type);
  event.set_message(message);
  out->events.push_back(std::move(event));
  out->changed = true;
}

void JobMachine::ShowPhase(const internal::ShareRecord& share, const std::string& phase) {
  for (v1::RankPlacement& rank : *record_.mutable_job()->mutable_ranks()) {
    if (rank.node() == absl::StrCat("nodes/", share.node())) rank.set_phase(phase);
  }
}

void JobMachine::Place(const std::vector<std::string>& nodes, Instant now, JobOutput* out) {
  Job* job = record_.mutable_job();
  job->set_generation(job->generation() + 1);
  job->clear_ranks();
  job->clear_master();
  record_.clear_shares();
  record_.clear_resume_from();
  record_.clear_resume_holders();
  record_.clear_fatal_reason();
  record_.set_started(false);
  record_.set_node_lost(false);
  last_advance_.clear();
  advance_interval_ = absl::ZeroDuration();

  internal::GenerationRecord* generation = record_.add_generations();
  generation->set_generation(job->generation());
  int rank = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    generation->add_nodes(nodes[i]);
    internal::ShareRecord* share = record_.add_shares();
    share->set_node(nodes[i]);
    share->set_node_rank(static_cast<int>(i));
    for (int local = 0; local < gang().ranks_per_node; ++local, ++rank) {
      share->add_ranks(rank);
      v1::RankPlacement* placement = job->add_ranks();
      placement->set_rank(rank);
      placement->set_local_rank(local);
      placement->set_node(absl::StrCat("nodes/", nodes[i]));
      placement->set_phase("PREPARING");
    }
  }
  out->queue_wait = now.wall - FromTimestamp(record_.queue_time());
  SetState(Job::STATE_STARTING, "its nodes prepare", now, out);
  AddEvent("Placed",
           absl::StrCat("generation ", job->generation(), " on ", absl::StrJoin(nodes, ", ")), now,
           out);
}

void JobMachine::SetWaitReason(const std::string& reason, Instant now, JobOutput* out) {
  if (job().state() != Job::STATE_QUEUED || job().state_reason() == reason) return;
  record_.mutable_job()->set_state_reason(reason);
  Touch(now, out);
}

void JobMachine::Cancel(const std::string& reason, Instant now, JobOutput* out) {
  record_.set_cancel_reason(reason.empty() ? "cancelled" : absl::StrCat("cancelled: ", reason));
  if (job().state() == Job::STATE_CANCELLING) return;
  if (job().state() == Job::STATE_QUEUED) {
    Finish(Job::STATE_CANCELLED, record_.cancel_reason(), now, out);
    return;
  }
  SetState(Job::STATE_CANCELLING, "its processes are being ended", now, out);
  AddEvent("Cancelling", record_.cancel_reason(), now, out);
  Settle(now, out);
}

bool JobMachine::Report(absl::string_view node, const AllocationStatus& status, Instant now,
                        JobOutput* out) {
  internal::ShareRecord* share = FindShare(node);
  if (share == nullptr || status.generation() != job().generation() || Terminal() ||
      job().state() == Job::STATE_QUEUED) {
    return false;
  }
  if (share->ended()) return true;
  *share->mutable_status() = status;
  ShowPhase(*share, PhaseName(status.phase()));
  if (EndsShare(status.phase())) share->set_ended(true);
  Touch(now, out);

  for (const v1::Checkpoint& checkpoint : status.checkpoints()) {
    AddCheckpoint(node, checkpoint, now, out);
  }
  if (status.phase() == AllocationStatus::PHASE_FAILED) NoteFailure(*share, now, out);
  if (!Wanted()) {
    Settle(now, out);
    return true;
  }
  switch (status.phase()) {
    case AllocationStatus::PHASE_PREPARED:
      StartWhenPrepared(now, out);
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
  return true;
}

void JobMachine::StartWhenPrepared(Instant now, JobOutput* out) {
  if (record_.started() || !EveryShare(AllocationStatus::PHASE_PREPARED)) return;
  Job* job = record_.mutable_job();
  for (const internal::ShareRecord& share : record_.shares()) {
    if (share.node_rank() == 0) job->set_master(share.status().master());
  }
  if (job->master().empty()) {
    record_.set_fatal_reason(absl::StrCat("nodes/", record_.shares(0).node(),
                                          " is prepared, but named no master address"));
    EndGeneration(record_.fatal_reason(), now, out);
    return;
  }
  std::string from = "from the start";
  if (std::optional<ResumePoint> resume = ChooseResume(record_); resume.has_value()) {
    internal::GenerationRecord* generation =
        record_.mutable_generations(record_.generations_size() - 1);
    generation->set_parent_generation(resume->checkpoint.generation());
    generation->set_parent_step(resume->checkpoint.step());
    *record_.mutable_resume_from() = resume->checkpoint;
    for (int rank : resume->holders) record_.add_resume_holders(rank);
    from = absl::StrCat("from step ", resume->checkpoint.step(), " (", resume->checkpoint.file(),
                        " of generation ", resume->checkpoint.generation(), ")");
  }
  record_.set_started(true);
  job->set_state_reason("its ranks start");
  out->desired_changed = true;
  Touch(now, out);
  AddEvent("Started", absl::StrCat("all nodes are prepared; ", from), now, out);
}

void JobMachine::NoteFailure(const internal::ShareRecord& share, Instant now, JobOutput* out) {
  if (job().state() == Job::STATE_CANCELLING) return;
  v1::RankFailure failure = share.status().failure();
  failure.set_node(absl::StrCat("nodes/", share.node()));
  failure.set_generation(job().generation());
  if (!failure.has_time()) *failure.mutable_time() = ToTimestamp(now.wall);
  if (!record_.started()) {
    // Nothing has run yet: what is wrong lies in the config, the data or the machine.
    record_.set_fatal_reason(
        absl::StrCat(failure.node(), " could not prepare the job: ", failure.message()));
  }
  AddEvent(record_.started() ? "RankFailed" : "PrepareFailed",
           record_.started() ? DescribeFailure(failure) : record_.fatal_reason(), now, out);
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
  share->set_ended(true);
  record_.set_node_lost(true);
  ShowPhase(*share, "LOST");
  Touch(now, out);
  AddEvent("NodeLost", reason, now, out);
  if (Wanted()) {
    EndGeneration(reason, now, out);
  } else {
    Settle(now, out);
  }
}

void JobMachine::NotHeld(absl::string_view node, Instant now, JobOutput* out) {
  internal::ShareRecord* share = FindShare(node);
  if (share == nullptr || share->ended() || Terminal()) return;
  if (!Wanted()) {
    share->set_ended(true);
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
  share->set_ended(true);
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
  if (!record_.fatal_reason().empty()) {
    Finish(Job::STATE_FAILED, record_.fatal_reason(), now, out);
    return;
  }
  const v1::RankFailure& failure = job().first_failure();
  const bool own_failure =
      failure.generation() == job().generation() && !(FromLostPeer(failure) && record_.node_lost());
  if (!own_failure) {
    Requeue(now, out);
    return;
  }
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
    record_.mutable_job()->set_restarts(job().restarts() + 1);
    Requeue(now, out);
  }
}

void JobMachine::Requeue(Instant now, JobOutput* out) {
  Job* job = record_.mutable_job();
  const std::string reason = job->state_reason();
  job->clear_ranks();
  job->clear_master();
  *record_.mutable_queue_time() = ToTimestamp(now.wall);
  SetState(Job::STATE_QUEUED, "waits for a new placement", now, out);
  AddEvent("Restarting",
           absl::StrCat("after ", reason, " (", job->restarts(), " of ",
                        job->config().resources().max_restarts(), " restarts used)"),
           now, out);
}

void JobMachine::Finish(Job::State state, const std::string& reason, Instant now, JobOutput* out) {
  Job* job = record_.mutable_job();
  job->clear_ranks();
  job->clear_master();
  *job->mutable_end_time() = ToTimestamp(now.wall);
  SetState(state, reason, now, out);
  const char* type = state == Job::STATE_SUCCEEDED ? "Succeeded"
                     : state == Job::STATE_FAILED  ? "Failed"
                                                   : "Cancelled";
  AddEvent(type, reason, now, out);
}

}  // namespace muster::coordinator
