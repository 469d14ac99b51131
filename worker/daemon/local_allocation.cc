#include "worker/daemon/local_allocation.h"

#include <signal.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/util/time_util.h"

#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/checkpoint/checkpoint_list.h"

namespace muster::worker {
namespace {

constexpr int kStderrLines = 50;

using Phase = v1::AllocationStatus;

// How a preparation's error would show as an exit code: whether a retry can help hangs on it.
int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kInvalidArgument:
      return base::kExitBadConfig;
    case absl::StatusCode::kNotFound:
      return base::kExitDataError;
    case absl::StatusCode::kDataLoss:
      return base::kExitCheckpointError;
    case absl::StatusCode::kUnavailable:
      return base::kExitCollectiveLost;
    default:
      return base::kExitInternal;
  }
}

}  // namespace

LocalAllocation::LocalAllocation(const AllocationContext& context, v1::Allocation allocation)
    : context_(context), allocation_(std::move(allocation)) {
  status_.set_job(allocation_.job());
  status_.set_generation(allocation_.generation());
  status_.set_node_rank(allocation_.node_rank());
  *status_.mutable_ranks() = allocation_.ranks();
  SetPhase(Phase::PHASE_PREPARING);
}

void LocalAllocation::SetPhase(v1::AllocationStatus::Phase phase) {
  status_.set_phase(phase);
  changed_ = true;
}

bool LocalAllocation::TakeChanged() { return std::exchange(changed_, false); }

bool LocalAllocation::HasRank(int rank) const {
  return std::count(allocation_.ranks().begin(), allocation_.ranks().end(), rank) > 0;
}

bool LocalAllocation::ended() const {
  return status_.phase() == Phase::PHASE_SUCCEEDED || status_.phase() == Phase::PHASE_FAILED ||
         status_.phase() == Phase::PHASE_STOPPED;
}

void LocalAllocation::Start(const v1::Allocation& run, const ExitCallback& on_exit) {
  allocation_ = run;
  // They were for the coordinator's choice, which has been made.
  status_.clear_checkpoints();
  status_.clear_not_held_by();
  for (auto& [name, value] :
       CollectiveEnvironment(interface_, FindNetworkHardware(context_.library_path),
                             context_.inherited, allocation_.config().distributed())) {
    (*status_.mutable_environment())[name] = value;
  }
  SetPhase(Phase::PHASE_STARTING);
  const absl::Status started = TryStart(on_exit);
  // Rank 0 has its own descriptor now.
  master_.fd.Reset();
  if (!started.ok()) {
    FailBeforeStart(allocation_.ranks(static_cast<int>(running_.size()) % allocation_.ranks_size()),
                    started);
  }
}

absl::Status LocalAllocation::TryStart(const ExitCallback& on_exit) {
  MUSTER_ASSIGN_OR_RETURN(resume_file_, ResumeFile());
  // Before the first process: a daemon that dies in between leaves none that nobody knows of.
  MUSTER_RETURN_IF_ERROR(context_.state->WriteRecord(allocation_));
  for (int local_rank = 0; local_rank < allocation_.ranks_size(); ++local_rank) {
    const int rank = allocation_.ranks(local_rank);
    MUSTER_ASSIGN_OR_RETURN(
        running_[rank],
        context_.launcher->Launch(SpecOf(rank, local_rank),
                                  [on_exit, rank](const RankExit& exit) { on_exit(rank, exit); }));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::filesystem::path> LocalAllocation::ResumeFile() const {
  const bool holder =
      std::any_of(allocation_.ranks().begin(), allocation_.ranks().end(), [&](int rank) {
        const auto& holders = allocation_.resume_holders();
        return std::count(holders.begin(), holders.end(), rank) > 0;
      });
  if (!allocation_.has_resume_from() || !holder) return std::filesystem::path();
  const v1::Checkpoint& wanted = allocation_.resume_from();
  const std::filesystem::path output = context_.state->OutputFolder(allocation_);
  for (const v1::Checkpoint& held : checkpoint::ListCheckpoints(output, "worker")) {
    if (held.step() == wanted.step() && held.generation() == wanted.generation() &&
        held.digest() == wanted.digest()) {
      return output / held.file();
    }
  }
  return absl::DataLossError(absl::StrCat("the checkpoint of step ", wanted.step(), " (generation ",
                                          wanted.generation(), ") is no longer in ",
                                          output.string(), " on node ", context_.node));
}

LaunchSpec LocalAllocation::SpecOf(int rank, int local_rank) const {
  const std::filesystem::path output = context_.state->OutputFolder(allocation_);
  LaunchSpec spec;
  spec.folder = context_.state->RankFolder(allocation_, rank);
  spec.command = {context_.trainer.string(),
                  "train",
                  "--config",
                  (output / "config.textproto").string(),
                  "--output",
                  output.string()};
  for (const std::filesystem::path& root : context_.data->roots()) {
    spec.command.insert(spec.command.end(), {"--data-root", root.string()});
  }
  if (allocation_.has_resume_from()) {
    const auto& holders = allocation_.resume_holders();
    if (std::count(holders.begin(), holders.end(), rank) > 0) {
      spec.command.insert(spec.command.end(), {"--resume-from", resume_file_.string()});
    }
    spec.command.insert(spec.command.end(),
                        {"--resume-holders", absl::StrJoin(holders, ","), "--resume-step",
                         absl::StrCat(allocation_.resume_from().step()), "--resume-generation",
                         absl::StrCat(allocation_.resume_from().generation())});
  }
  const auto master = SplitAddress(allocation_.master());
  const int threads = context_.threads_per_rank > 0
                          ? context_.threads_per_rank
                          : std::max(1, context_.cores / std::max(1, allocation_.machine_slots()));
  spec.environment = {
      {"RANK", absl::StrCat(rank)},
      {"LOCAL_RANK", absl::StrCat(local_rank)},
      {"WORLD_SIZE", absl::StrCat(allocation_.world_size())},
      {"LOCAL_WORLD_SIZE", absl::StrCat(allocation_.ranks_size())},
      {"NODE_RANK", absl::StrCat(allocation_.node_rank())},
      {"MASTER_ADDR", master.ok() ? master->first : ""},
      {"MASTER_PORT", master.ok() ? absl::StrCat(master->second) : ""},
      {"OMP_NUM_THREADS", absl::StrCat(threads)},
      {"MUSTER_JOB", allocation_.job()},
      {"MUSTER_GENERATION", absl::StrCat(allocation_.generation())},
      {"MUSTER_WORKER_SOCKET", context_.trainer_socket.string()},
      {"MUSTER_NODE_ADDRESS", interface_.ip},
  };
  for (const auto& [name, value] : status_.environment()) {
    spec.environment.emplace_back(name, value);
  }
  if (rank == 0) {
    spec.inherited_fd = master_.fd.get();
    spec.environment.push_back({"MUSTER_MASTER_FD", absl::StrCat(kInheritedFd)});
  }
  return spec;
}

bool LocalAllocation::Adopt(const ExitCallback& on_exit) {
  SetPhase(Phase::PHASE_RUNNING);
  ShowAdoptedEnvironment();
  std::map<int, absl::Status> lost;
  for (int rank : allocation_.ranks()) {
    absl::StatusOr<std::unique_ptr<TrainerProcess>> process =
        context_.launcher->Adopt(context_.state->RankFolder(allocation_, rank),
                                 [on_exit, rank](const RankExit& exit) { on_exit(rank, exit); });
    if (process.ok()) {
      running_[rank] = *std::move(process);
    } else {
      lost[rank] = process.status();
    }
  }
  if (running_.empty()) return false;
  if (!lost.empty()) {
    RankExit exit;
    exit.signal = SIGKILL;
    exit.time = context_.clock->Now();
    Fail(lost.begin()->first, exit, std::string(lost.begin()->second.message()));
  }
  return true;
}

void LocalAllocation::ShowAdoptedEnvironment() {
  // The shim has what it gave to its trainer, and is there as long.
  const auto shim = ReadLaunchedShim(context_.state->RankFolder(allocation_, allocation_.ranks(0)));
  if (!shim.ok()) return;
  const auto variables = base::ReadFile(absl::StrCat("/proc/", shim->pid, "/environ"));
  if (!variables.ok() || !IsRunning(*shim)) return;
  for (auto& [name, value] : CollectiveVariables(absl::StrSplit(*variables, '\0'))) {
    (*status_.mutable_environment())[name] = value;
  }
}

void LocalAllocation::Stop() {
  if (ended() || stopping_) return;
  stopping_ = true;
  CancelFetch();
  // A failure found first stays the outcome.
  for (auto& [rank, process] : running_) process->Signal(failed_ ? SIGKILL : SIGTERM);
  EndIfAllExited();
}

void LocalAllocation::Kill() {
  for (auto& [rank, process] : running_) process->Signal(SIGKILL);
}

void LocalAllocation::OnProgress(const v1::TrainProgress& progress) {
  *status_.mutable_progress() = progress;
}

void LocalAllocation::OnJoined(int rank) {
  joined_.insert(rank);
  if (status_.phase() == Phase::PHASE_STARTING &&
      joined_.size() == static_cast<size_t>(allocation_.ranks_size())) {
    SetPhase(Phase::PHASE_RUNNING);
  }
}

void LocalAllocation::OnTrainerFailure(int rank, const std::string& message) {
  trainer_messages_[rank] = message;
}

void LocalAllocation::OnExit(int rank, const RankExit& exit) {
  if (running_.erase(rank) == 0) return;
  if (!exit.completed() && !stopping_) {
    const auto message = trainer_messages_.find(rank);
    Fail(rank, exit,
         message != trainer_messages_.end() && exit.signal == 0 ? message->second
                                                                : DescribeExit(exit));
  }
  EndIfAllExited();
}

void LocalAllocation::FailBeforeStart(int rank, const absl::Status& reason) {
  RankExit exit;
  exit.exit_code = ExitCodeOf(reason);
  exit.time = context_.clock->Now();
  Fail(rank, exit, std::string(reason.message()));
}

void LocalAllocation::Fail(int rank, const RankExit& exit, const std::string& message) {
  if (failed_) {
    // A rank that lost its peers may be seen before the one that took them down.
    const bool better = status_.failure().exit_code() == base::kExitCollectiveLost &&
                        exit.exit_code != base::kExitCollectiveLost &&
                        (exit.signal != SIGKILL || exit.time < killed_time_);
    if (!better) return;
  }
  failed_ = true;
  v1::RankFailure* failure = status_.mutable_failure();
  failure->Clear();
  failure->set_rank(rank);
  failure->set_node(absl::StrCat("nodes/", context_.node));
  failure->set_generation(allocation_.generation());
  failure->set_signal(exit.signal);
  failure->set_exit_code(exit.exit_code);
  failure->set_message(message);
  for (std::string& line :
       LastLines(StderrLog(context_.state->RankFolder(allocation_, rank)), kStderrLines)) {
    failure->add_stderr_tail(std::move(line));
  }
  *failure->mutable_time() =
      google::protobuf::util::TimeUtil::NanosecondsToTimestamp(absl::ToUnixNanos(exit.time));
  // Their collectives would hang until a timeout.
  killed_time_ = context_.clock->Now();
  Kill();
  EndIfAllExited();
}

void LocalAllocation::EndIfAllExited() {
  if (ended() || !running_.empty()) return;
  master_.fd.Reset();
  SetPhase(failed_     ? Phase::PHASE_FAILED
           : stopping_ ? Phase::PHASE_STOPPED
                       : Phase::PHASE_SUCCEEDED);
}

}  // namespace muster::worker
