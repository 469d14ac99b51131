// The part of JobMachine that gets a generation going.
#include <google/protobuf/message.h>
#include <google/protobuf/unknown_field_set.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "coordinator/core/job_machine.h"
#include "coordinator/core/lineage.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {

using v1::AllocationStatus;
using v1::Job;

namespace {

constexpr size_t kNamedNodes = 5;

// "nodes/a, nodes/b have not prepared the job within 15 min"
std::string NotDone(const std::vector<std::string>& nodes, const char* what, absl::Duration limit) {
  std::string names =
      absl::StrJoin(nodes.begin(), nodes.begin() + std::min(nodes.size(), kNamedNodes), ", ");
  if (nodes.size() > kNamedNodes) {
    absl::StrAppend(&names, " and ", nodes.size() - kNamedNodes, " more");
  }
  return absl::StrCat(names, nodes.size() == 1 ? " has not " : " have not ", what, " within ",
                      InWords(limit));
}

}  // namespace

const internal::ShareRecord* JobMachine::FindWantedShare(absl::string_view node) const {
  const internal::ShareRecord* share = Wanted() ? FindShare(node) : nullptr;
  // A share that is over must not begin again on a worker that has forgotten it.
  return share == nullptr || share->ended() ? nullptr : share;
}

bool JobMachine::WantedOn(absl::string_view node) const { return FindWantedShare(node) != nullptr; }

v1::Allocation* JobMachine::AddAllocationOn(absl::string_view node,
                                            v1::DesiredState* desired) const {
  const internal::ShareRecord* share = FindWantedShare(node);
  if (share == nullptr) return nullptr;
  v1::Allocation& allocation = *desired->add_allocations();
  allocation.set_job(job().name());
  allocation.set_job_uid(job().uid());
  allocation.set_generation(job().generation());
  allocation.set_node_rank(share->node_rank());
  allocation.set_world_size(job().ranks_size());
  *allocation.mutable_ranks() = share->ranks();
  if (config_bytes_.empty()) config_bytes_ = job().config().SerializeAsString();
  // On the wire it is field `config`. A copy of the message itself for each node of each gang would
  // be most of what a placement costs.
  allocation.GetReflection()
      ->MutableUnknownFields(&allocation)
      ->AddLengthDelimited(v1::Allocation::kConfigFieldNumber, config_bytes_);
  allocation.set_goal(record_.started() ? v1::Allocation::GOAL_RUN : v1::Allocation::GOAL_PREPARE);
  if (record_.started()) {
    allocation.set_master(job().master());
    if (record_.has_resume_from()) *allocation.mutable_resume_from() = record_.resume_from();
    *allocation.mutable_resume_holders() = record_.resume_holders();
  } else if (record_.has_fetch() && share->node_rank() == 0) {
    *allocation.mutable_fetch()->mutable_checkpoint() = record_.fetch();
  }
  return &allocation;
}

void JobMachine::Place(const std::vector<std::string>& nodes, LookAtNode look, Instant now,
                       JobOutput* out) {
  Job* job = record_.mutable_job();
  job->set_generation(job->generation() + 1);
  job->clear_ranks();
  job->clear_master();
  record_.clear_shares();
  record_.clear_resume_from();
  record_.clear_resume_holders();
  record_.clear_fetch();
  record_.clear_fetch_sources();
  record_.clear_fatal_reason();
  record_.set_started(false);
  record_.set_node_lost(false);
  record_.clear_not_before();
  record_.clear_stop_time();
  record_.clear_preempt_reason();
  *record_.mutable_place_time() = ToTimestamp(now.wall);
  phase_start_ = now.monotonic;
  charged_ = now.monotonic;
  eta_end_ = absl::InfiniteDuration();
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
  out->queue_wait = std::max(absl::ZeroDuration(), now.wall - FromTimestamp(record_.queue_time()));
  SetState(Job::STATE_STARTING, "its nodes prepare", now, out);
  AddEvent("Placed",
           absl::StrCat("generation ", job->generation(), " on ", absl::StrJoin(nodes, ", ")), now,
           out);
  ChooseFetch(look, now, out);
}

absl::Duration JobMachine::NotBefore() const {
  return record_.has_not_before() ? wait_end_ : -absl::InfiniteDuration();
}

bool JobMachine::WaitIsOver(Instant now) const {
  return job().state() == Job::STATE_QUEUED && record_.has_not_before() &&
         now.monotonic >= wait_end_;
}

void JobMachine::EndWait(Instant now, JobOutput* out) {
  record_.clear_not_before();
  Touch(now, out);
}

void JobMachine::ReviewFetch(LookAtNode look, Instant now, JobOutput* out) {
  if (!Wanted() || record_.started()) return;
  ChooseFetch(look, now, out);
  StartWhenPrepared(look, now, out);
}

void JobMachine::ChooseFetch(LookAtNode look, Instant now, JobOutput* out) {
  const std::optional<FetchPlan> plan = PlanFetch(record_, look);
  if (!plan.has_value() && !record_.has_fetch()) return;
  const bool other =
      !plan.has_value() || !record_.has_fetch() || !SamePoint(plan->checkpoint, record_.fetch());
  if (!other && std::equal(plan->sources.begin(), plan->sources.end(),
                           record_.fetch_sources().begin(), record_.fetch_sources().end())) {
    return;
  }
  record_.clear_fetch();
  record_.clear_fetch_sources();
  std::string reason = "its nodes prepare";
  if (plan.has_value()) {
    *record_.mutable_fetch() = plan->checkpoint;
    std::vector<std::string> names;
    for (const std::string& source : plan->sources) {
      record_.add_fetch_sources(source);
      names.push_back(absl::StrCat("nodes/", source));
    }
    for (const internal::ShareRecord& share : record_.shares()) {
      if (share.node_rank() != 0) continue;
      reason = absl::StrCat("nodes/", share.node(), " fetches ", plan->checkpoint.file(), " from ",
                            absl::StrJoin(names, " or "));
    }
    if (other) AddEvent("Fetching", reason, now, out);
  }
  record_.mutable_job()->set_state_reason(reason);
  out->desired_changed = true;
  Touch(now, out);
}

void JobMachine::StartWhenPrepared(LookAtNode look, Instant now, JobOutput* out) {
  if (record_.has_fetch() || !EveryShare(AllocationStatus::PHASE_PREPARED)) return;
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
  int64_t resume_step = 0;
  if (std::optional<ResumePoint> resume = ChooseResume(record_); resume.has_value()) {
    internal::GenerationRecord* generation =
        record_.mutable_generations(record_.generations_size() - 1);
    generation->set_parent_generation(resume->checkpoint.generation());
    generation->set_parent_step(resume->checkpoint.step());
    *record_.mutable_resume_from() = resume->checkpoint;
    for (int rank : resume->holders) record_.add_resume_holders(rank);
    resume_step = resume->checkpoint.step();
    from = absl::StrCat("from step ", resume->checkpoint.step(), " (", resume->checkpoint.file(),
                        " of generation ", resume->checkpoint.generation(), ")");
  }
  if (const std::string why = WhyOlder(record_, resume_step, look); !why.empty()) {
    AddEvent("CheckpointMissing",
             absl::StrCat(why, ": ",
                          resume_step > 0 ? absl::StrCat("resumes at step ", resume_step)
                                          : "starts from the beginning"),
             now, out);
  }
  record_.set_started(true);
  job->set_state_reason("its ranks start");
  out->desired_changed = true;
  Touch(now, out);
  AddEvent("Started", absl::StrCat("all nodes are prepared; ", from), now, out);
}

bool JobMachine::StartOverdue(Instant now) const {
  const config::v1::Resources& resources = job().config().resources();
  return job().state() == Job::STATE_STARTING && resources.has_start_timeout() &&
         now.monotonic - phase_start_ >= FromProto(resources.start_timeout());
}

void JobMachine::FailStart(Instant now, JobOutput* out) {
  // What each node has not done.
  const char* const kPrepare = "prepared the job";
  const char* const kFetch = "fetched the checkpoint";
  const char* const kStart = "started the ranks";
  const char* const kJoin = "brought all ranks into the group";
  std::vector<std::pair<const char*, std::vector<std::string>>> late = {
      {kPrepare, {}}, {kFetch, {}}, {kStart, {}}, {kJoin, {}}};
  const internal::ShareRecord* first = nullptr;
  for (const internal::ShareRecord& share : record_.shares()) {
    const AllocationStatus::Phase phase = share.status().phase();
    // It was PREPARED before it was told to, and may not have taken that up.
    const bool fetches = !record_.started() && record_.has_fetch() && share.node_rank() == 0;
    if (!fetches && phase >= (record_.started() ? AllocationStatus::PHASE_RUNNING
                                                : AllocationStatus::PHASE_PREPARED)) {
      continue;
    }
    const char* const missing = fetches                                     ? kFetch
                                : phase < AllocationStatus::PHASE_PREPARED  ? kPrepare
                                : phase == AllocationStatus::PHASE_PREPARED ? kStart
                                                                            : kJoin;
    for (auto& [what, nodes] : late) {
      if (what == missing) nodes.push_back(absl::StrCat("nodes/", share.node()));
    }
    if (first == nullptr) first = &share;
  }
  if (first == nullptr) return;
  // Longer than start_timeout when a coordinator was restarted meanwhile.
  const absl::Duration limit = now.wall - FromTimestamp(record_.place_time());
  std::vector<std::string> texts;
  for (const auto& [what, nodes] : late) {
    if (!nodes.empty()) texts.push_back(NotDone(nodes, what, limit));
  }
  v1::RankFailure failure;
  failure.set_rank(first->ranks(0));
  failure.set_node(absl::StrCat("nodes/", first->node()));
  failure.set_generation(job().generation());
  failure.set_message(absl::StrJoin(texts, "; "));
  *failure.mutable_time() = ToTimestamp(now.wall);
  AddEvent("StartTimeout", failure.message(), now, out);
  *record_.mutable_job()->mutable_first_failure() = failure;
  EndGeneration(failure.message(), now, out);
}

}  // namespace muster::coordinator
