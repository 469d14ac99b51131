// The part of LocalAllocation that prepares: what goes before the first process.
#include <sys/statvfs.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/checkpoint/checkpoint_list.h"
#include "worker/daemon/local_allocation.h"

namespace muster::worker {
namespace {

using Phase = v1::AllocationStatus;

constexpr uint64_t kLowDiskBytes = uint64_t{1} << 30;

void WarnOfLowDisk(const std::filesystem::path& folder) {
  struct statvfs disk {};
  if (statvfs(folder.c_str(), &disk) != 0) return;
  const uint64_t free_bytes = uint64_t{disk.f_bavail} * disk.f_frsize;
  if (free_bytes < kLowDiskBytes) {
    base::Log(base::LogSeverity::kWarning, "worker", "little disk space is left for checkpoints",
              {{"folder", folder.string()}, {"free_bytes", free_bytes}});
  }
}

absl::Status WriteConfig(const config::v1::TrainJob& config, const std::filesystem::path& file) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(config, &text);
  return base::WriteFileAtomically(file, text);
}

}  // namespace

void LocalAllocation::Prepare(const std::string& node_address, PrepareCallbacks callbacks) {
  callbacks_ = std::move(callbacks);
  if (absl::Status prepared = TryPrepare(node_address); !prepared.ok()) {
    FailBeforeStart(allocation_.ranks(0), prepared);
    return;
  }
  PeerDialler::Request request;
  request.job = allocation_.job();
  request.generation = allocation_.generation();
  request.interface = allocation_.config().distributed().interface();
  request.from = interface_;
  // An older worker has no probe to dial.
  std::copy_if(allocation_.peers().begin(), allocation_.peers().end(),
               std::back_inserter(request.peers),
               [](const v1::Peer& peer) { return !peer.probe_address().empty(); });
  if (request.peers.empty()) {
    OnDialled(absl::OkStatus());
  } else {
    context_.dialler->Dial(std::move(request), callbacks_.on_dialled);
  }
}

void LocalAllocation::OnDialled(const absl::Status& dialled) {
  if (status_.phase() != Phase::PHASE_PREPARING) return;
  if (dialled.ok()) {
    dialled_ = true;
    GoOnPreparing();
  } else {
    FailBeforeStart(allocation_.ranks(0), dialled);
  }
}

bool LocalAllocation::Holds(const v1::Checkpoint& checkpoint) const {
  return std::any_of(
      status_.checkpoints().begin(), status_.checkpoints().end(), [&](const v1::Checkpoint& held) {
        return held.step() == checkpoint.step() && held.generation() == checkpoint.generation() &&
               held.digest() == checkpoint.digest();
      });
}

void LocalAllocation::GoOnPreparing() {
  if (allocation_.has_fetch() && !Holds(allocation_.fetch().checkpoint())) {
    StartFetch();
    return;
  }
  status_.clear_detail();
  SetPhase(Phase::PHASE_PREPARED);
}

void LocalAllocation::StartFetch() {
  status_.clear_not_held_by();
  if (status_.phase() != Phase::PHASE_PREPARING) SetPhase(Phase::PHASE_PREPARING);
  CheckpointFetcher::Request request;
  request.checkpoint = allocation_.fetch().checkpoint();
  request.job_uid = allocation_.job_uid();
  request.sources.assign(allocation_.fetch().sources().begin(),
                         allocation_.fetch().sources().end());
  request.folder = context_.state->OutputFolder(allocation_);
  const int number = ++fetch_number_;
  fetch_ = context_.fetcher->Start(
      std::move(request),
      [number, on_fetching = callbacks_.on_fetching](const std::string& detail) {
        on_fetching(number, detail);
      },
      [number, on_fetched = callbacks_.on_fetched](const CheckpointFetcher::Outcome& outcome) {
        on_fetched(number, outcome);
      });
}

void LocalAllocation::CancelFetch() {
  if (fetch_ == nullptr) return;
  fetch_->Cancel();
  fetch_.reset();
}

void LocalAllocation::OnFetching(int fetch, const std::string& detail) {
  if (fetch_ == nullptr || fetch != fetch_number_ || detail == status_.detail()) return;
  status_.set_detail(detail);
  changed_ = true;
}

void LocalAllocation::OnFetched(int fetch, const CheckpointFetcher::Outcome& outcome) {
  if (fetch_ == nullptr || fetch != fetch_number_) return;
  fetch_.reset();
  status_.clear_detail();
  for (const std::string& node : outcome.not_held_by) status_.add_not_held_by(node);
  if (!outcome.status.ok()) {
    FailBeforeStart(allocation_.ranks(0), outcome.status);
    return;
  }
  ListHeldCheckpoints();
  if (!Holds(allocation_.fetch().checkpoint()) && outcome.not_held_by.empty()) {
    FailBeforeStart(allocation_.ranks(0),
                    absl::UnavailableError(absl::StrCat("nodes/", context_.node, " has fetched ",
                                                        allocation_.fetch().checkpoint().file(),
                                                        ", which is not whole")));
    return;
  }
  SetPhase(Phase::PHASE_PREPARED);
}

void LocalAllocation::UpdateFetch(const v1::Allocation& wanted) {
  if (ended() || stopping_ || wanted.goal() != v1::Allocation::GOAL_PREPARE ||
      status_.phase() > Phase::PHASE_PREPARED) {
    return;
  }
  if (allocation_.fetch().SerializeAsString() == wanted.fetch().SerializeAsString()) return;
  *allocation_.mutable_fetch() = wanted.fetch();
  if (!wanted.has_fetch()) allocation_.clear_fetch();
  const v1::Checkpoint& checkpoint = wanted.fetch().checkpoint();
  if (fetch_ != nullptr &&
      fetch_->checkpoint().SerializeAsString() == checkpoint.SerializeAsString()) {
    fetch_->SetSources({wanted.fetch().sources().begin(), wanted.fetch().sources().end()});
    return;
  }
  // Prepared already, without it.
  if (fetch_ == nullptr && !wanted.has_fetch()) return;
  CancelFetch();
  if (dialled_) GoOnPreparing();
}

absl::Status LocalAllocation::TryPrepare(const std::string& node_address) {
  MUSTER_ASSIGN_OR_RETURN(
      interface_,
      ChooseInterface(ListInterfaceAddresses(), allocation_.config().distributed().interface(),
                      node_address, allocation_.ranks_size() == allocation_.world_size(),
                      context_.node));
  MUSTER_RETURN_IF_ERROR(context_.data->CheckJob(allocation_.config()));
  const std::filesystem::path output = context_.state->OutputFolder(allocation_);
  MUSTER_RETURN_IF_ERROR(base::CreateFolders(output));
  MUSTER_RETURN_IF_ERROR(WriteConfig(allocation_.config(), output / "config.textproto"));
  WarnOfLowDisk(output);
  ListHeldCheckpoints();
  if (allocation_.node_rank() == 0) {
    std::pair<std::string, int> where(interface_.ip, 0);
    if (!allocation_.master().empty()) {
      MUSTER_ASSIGN_OR_RETURN(where, SplitAddress(allocation_.master()));
    }
    MUSTER_ASSIGN_OR_RETURN(master_, ListenOn(where.first, where.second));
    status_.set_master(master_.address);
  }
  return absl::OkStatus();
}

void LocalAllocation::ListHeldCheckpoints() {
  status_.clear_checkpoints();
  for (v1::Checkpoint& checkpoint :
       checkpoint::ListCheckpoints(context_.state->OutputFolder(allocation_), "worker")) {
    *status_.add_checkpoints() = std::move(checkpoint);
  }
}

}  // namespace muster::worker
