#include "worker/daemon/allocation_manager.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/daemon/tcp_socket.h"

namespace muster::worker {
namespace {

absl::Duration GracePeriod(const v1::Allocation& allocation) {
  const auto& period = allocation.config().resources().grace_period();
  return absl::Seconds(period.seconds()) + absl::Nanoseconds(period.nanos());
}

bool IsIdentifier(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

bool IsCheckpointFile(absl::string_view file) {
  return absl::ConsumeSuffix(&file, ".pth") && !file.empty() &&
         std::all_of(file.begin(), file.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
         });
}

// Names become folders and files: nothing but plain ones may get there.
absl::Status CheckAllocation(const v1::Allocation& allocation) {
  const auto refuse = [&](absl::string_view reason) {
    return absl::InvalidArgumentError(absl::StrCat(
        "allocation of ", allocation.job(), " generation ", allocation.generation(), ": ", reason));
  };
  const absl::string_view job = allocation.job();
  if (!absl::StartsWith(job, "jobs/") || !IsIdentifier(job.substr(5))) {
    return refuse("not a job's name");
  }
  if (!IsIdentifier(allocation.job_uid())) return refuse("job_uid is missing or malformed");
  if (allocation.generation() <= 0) return refuse("generation must be positive");
  if (allocation.goal() == v1::Allocation::GOAL_UNSPECIFIED) return refuse("goal is missing");
  if (allocation.ranks().empty()) return refuse("no ranks");
  for (int rank : allocation.ranks()) {
    if (rank < 0 || rank >= allocation.world_size()) {
      return refuse(absl::StrCat("rank ", rank, " is not below world_size"));
    }
  }
  if (allocation.has_fetch() && !IsCheckpointFile(allocation.fetch().checkpoint().file())) {
    return refuse("the checkpoint to fetch has no plain file name");
  }
  if (allocation.goal() == v1::Allocation::GOAL_RUN && !SplitAddress(allocation.master()).ok()) {
    return refuse("master is not an address");
  }
  return absl::OkStatus();
}

}  // namespace

AllocationManager::AllocationManager(AllocationContext context, int slots, Deps deps)
    : context_(std::move(context)), slots_(slots), deps_(std::move(deps)) {}

AllocationManager::~AllocationManager() {
  absl::MutexLock lock(&gate_->mutex);
  gate_->open = false;
}

void AllocationManager::SetNodeAddress(const std::string& address) {
  absl::MutexLock lock(&mutex_);
  node_address_ = address;
}

LocalAllocation::ExitCallback AllocationManager::ExitCallbackFor(const Key& key) {
  return [this, key, gate = gate_](int rank, const RankExit& exit) {
    absl::MutexLock passing(&gate->mutex);
    if (!gate->open) return;
    absl::MutexLock lock(&mutex_);
    LocalAllocation* held = Find(key);
    if (held == nullptr) return;
    base::Log(base::LogSeverity::kInfo, "worker", "rank ended",
              {{"job", key.first},
               {"generation", key.second},
               {"rank", rank},
               {"how", DescribeExit(exit)}});
    held->OnExit(rank, exit);
    Publish();
    // Its end may be what a newer generation waits for.
    Reconcile();
  };
}

void AllocationManager::Change(const Key& key,
                               const std::function<void(LocalAllocation*)>& change) {
  absl::MutexLock lock(&mutex_);
  LocalAllocation* held = Find(key);
  if (held == nullptr) return;
  change(held);
  Reconcile();
}

LocalAllocation::PrepareCallbacks AllocationManager::PrepareCallbacksFor(const Key& key) {
  const auto change = [this, key, gate = gate_](const std::function<void(LocalAllocation*)>& what) {
    absl::MutexLock passing(&gate->mutex);
    if (gate->open) Change(key, what);
  };
  LocalAllocation::PrepareCallbacks callbacks;
  callbacks.on_dialled = [change](const absl::Status& dialled) {
    change([&](LocalAllocation* held) { held->OnDialled(dialled); });
  };
  callbacks.on_fetching = [change](int fetch, const std::string& detail) {
    change([&](LocalAllocation* held) { held->OnFetching(fetch, detail); });
  };
  callbacks.on_fetched = [change](int fetch, const CheckpointFetcher::Outcome& outcome) {
    change([&](LocalAllocation* held) { held->OnFetched(fetch, outcome); });
  };
  return callbacks;
}

void AllocationManager::AdoptRecorded() {
  absl::MutexLock lock(&mutex_);
  for (v1::Allocation& record : context_.state->ReadRecords()) {
    const Key key(record.job(), record.generation());
    auto held = std::make_unique<LocalAllocation>(context_, std::move(record));
    if (!held->Adopt(ExitCallbackFor(key))) {
      base::Log(base::LogSeverity::kWarning, "worker",
                "the ranks of an earlier daemon are gone, and nobody saw how they ended",
                {{"job", key.first}, {"generation", key.second}});
      RemoveRecord(held->allocation());
      continue;
    }
    base::Log(base::LogSeverity::kInfo, "worker", "adopted what an earlier daemon started",
              {{"job", key.first}, {"generation", key.second}});
    // Kept until the coordinator says otherwise.
    desired_[key] = held->allocation();
    held_[key] = std::move(held);
  }
  Publish();
}

void AllocationManager::RemoveRecord(const v1::Allocation& allocation) const {
  if (absl::Status removed = context_.state->RemoveRecord(allocation); !removed.ok()) {
    base::Log(base::LogSeverity::kWarning, "worker", removed.message());
  }
}

absl::Status AllocationManager::Check(const v1::DesiredState& desired) const {
  int ranks = 0;
  std::map<std::string, int64_t> generations;
  for (const v1::Allocation& allocation : desired.allocations()) {
    MUSTER_RETURN_IF_ERROR(CheckAllocation(allocation));
    if (!generations.emplace(allocation.job(), allocation.generation()).second) {
      return absl::InvalidArgumentError(absl::StrCat(allocation.job(), " is listed twice"));
    }
    ranks += allocation.ranks_size();
  }
  if (ranks > slots_) {
    return absl::InvalidArgumentError(
        absl::StrCat(ranks, " ranks do not fit the ", slots_, " slots of node ", context_.node));
  }
  return absl::OkStatus();
}

absl::Status AllocationManager::Apply(const v1::DesiredState& desired) {
  MUSTER_RETURN_IF_ERROR(Check(desired));
  absl::MutexLock lock(&mutex_);
  if (closing_) return absl::UnavailableError(absl::StrCat("node ", context_.node, " is ending"));
  desired_.clear();
  for (const v1::Allocation& allocation : desired.allocations()) {
    desired_[{allocation.job(), allocation.generation()}] = allocation;
  }
  for (auto it = held_.begin(); it != held_.end();) {
    const bool over = it->second->ended() && desired_.count(it->first) == 0;
    if (over) {
      RemoveRecord(it->second->allocation());
    }
    it = over ? held_.erase(it) : std::next(it);
  }
  Reconcile();
  for (const v1::AbortedGeneration& aborted : desired.aborted()) {
    const Key key(aborted.job(), aborted.generation());
    LocalAllocation* held = Find(key);
    if (held != nullptr && desired_.count(key) == 0) held->Kill();
  }
  return absl::OkStatus();
}

void AllocationManager::Reconcile() {
  for (auto& [key, held] : held_) {
    if (desired_.count(key) == 0) Stop(*held);
  }
  for (const auto& [key, wanted] : desired_) {
    LocalAllocation* held = Find(key);
    if (held == nullptr) {
      if (OlderRuns(wanted)) continue;
      auto made = std::make_unique<LocalAllocation>(context_, wanted);
      held = made.get();
      held_[key] = std::move(made);
      held->Prepare(node_address_, PrepareCallbacksFor(key));
    } else {
      held->UpdateFetch(wanted);
    }
    if (wanted.goal() == v1::Allocation::GOAL_RUN &&
        held->status().phase() == v1::AllocationStatus::PHASE_PREPARED) {
      held->Start(wanted, ExitCallbackFor(key));
    }
  }
  Publish();
}

bool AllocationManager::OlderRuns(const v1::Allocation& allocation) const {
  return std::any_of(held_.begin(), held_.end(), [&](const auto& entry) {
    return entry.first.first == allocation.job() && !entry.second->ended();
  });
}

void AllocationManager::Stop(LocalAllocation& held) {
  if (held.ended() || held.stopping()) return;
  held.Stop();
  if (held.ended()) return;
  const Key key(held.allocation().job(), held.allocation().generation());
  const absl::Duration grace = GracePeriod(held.allocation());
  base::Log(
      base::LogSeverity::kInfo, "worker", "ending ranks",
      {{"job", key.first}, {"generation", key.second}, {"grace", absl::FormatDuration(grace)}});
  deps_.timers->RunAt(context_.clock->Monotonic() + grace, [this, key, gate = gate_] {
    absl::MutexLock passing(&gate->mutex);
    if (!gate->open) return;
    absl::MutexLock lock(&mutex_);
    if (LocalAllocation* late = Find(key); late != nullptr) late->Kill();
  });
}

void AllocationManager::Publish() {
  for (auto& [key, held] : held_) {
    if (!held->TakeChanged()) continue;
    const v1::AllocationStatus& status = held->status();
    const std::string phase = v1::AllocationStatus::Phase_Name(status.phase());
    if (status.phase() == v1::AllocationStatus::PHASE_FAILED) {
      base::Log(base::LogSeverity::kError, "worker", "allocation failed",
                {{"job", key.first},
                 {"generation", key.second},
                 {"rank", status.failure().rank()},
                 {"reason", status.failure().message()}});
    } else if (status.detail().empty()) {
      base::Log(base::LogSeverity::kInfo, "worker", "allocation",
                {{"job", key.first}, {"generation", key.second}, {"phase", phase}});
    }
    deps_.outbox->AddStatus(status);
    if (!held->ended()) continue;
    if (status.phase() == v1::AllocationStatus::PHASE_STOPPED) {
      // Nobody will ask for it again.
      RemoveRecord(held->allocation());
    }
    deps_.on_ended(key.first, key.second);
  }
  int used = 0;
  for (const auto& [key, held] : held_) {
    if (!held->ended()) used += held->allocation().ranks_size();
  }
  deps_.on_slots_used(used);
}

LocalAllocation* AllocationManager::Find(const Key& key) {
  const auto it = held_.find(key);
  return it != held_.end() ? it->second.get() : nullptr;
}

std::vector<v1::AllocationStatus> AllocationManager::Statuses() const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::AllocationStatus> statuses;
  for (const auto& [key, held] : held_) statuses.push_back(held->status());
  return statuses;
}

absl::StatusOr<AllocationManager::Held> AllocationManager::FindHeld(const std::string& job,
                                                                    int64_t generation) const {
  absl::MutexLock lock(&mutex_);
  const auto it = held_.find({job, generation});
  if (it == held_.end() || it->second->ended()) {
    return absl::NotFoundError(absl::StrCat("generation ", generation, " of ", job,
                                            " does not run on node ", context_.node));
  }
  return Held{it->second->allocation(), node_address_};
}

absl::StatusOr<bool> AllocationManager::OnReport(const internal::TrainerReport& report) {
  absl::MutexLock lock(&mutex_);
  LocalAllocation* held = Find({report.job(), report.generation()});
  if (held == nullptr || !held->HasRank(report.rank())) {
    return absl::NotFoundError(absl::StrCat("rank ", report.rank(), " of ", report.job(),
                                            " generation ", report.generation(),
                                            " does not run on node ", context_.node));
  }
  if (report.has_step() && report.rank() == 0) held->OnProgress(report.step().progress());
  if (report.has_joined()) held->OnJoined(report.rank());
  if (report.has_failure()) held->OnTrainerFailure(report.rank(), report.failure().message());
  Publish();
  return held->stopping();
}

void AllocationManager::StopAll() {
  absl::MutexLock lock(&mutex_);
  closing_ = true;
  desired_.clear();
  Reconcile();
}

bool AllocationManager::Idle() const {
  return std::all_of(held_.begin(), held_.end(),
                     [](const auto& entry) { return entry.second->ended(); });
}

bool AllocationManager::WaitUntilIdle(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(this, &AllocationManager::Idle), timeout);
}

}  // namespace muster::worker
