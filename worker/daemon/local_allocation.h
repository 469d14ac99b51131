#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"

#include "common/base/clock.h"
#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/checkpoint_fetcher.h"
#include "worker/daemon/collective_environment.h"
#include "worker/daemon/data_access.h"
#include "worker/daemon/network_interfaces.h"
#include "worker/daemon/peer_dialler.h"
#include "worker/daemon/state_folder.h"
#include "worker/daemon/tcp_socket.h"
#include "worker/daemon/trainer_launcher.h"

namespace muster::worker {

// What all allocations of a node share. The pointers outlive them.
struct AllocationContext {
  // The worker's --name.
  std::string node;
  std::filesystem::path trainer;
  // CPU threads of one rank; 0: cores / slots, where the slots of other workers on this machine
  // count.
  int threads_per_rank = 0;
  int cores = 1;
  std::filesystem::path trainer_socket;
  const StateFolder* state = nullptr;
  const DataAccess* data = nullptr;
  TrainerLauncher* launcher = nullptr;
  PeerDialler* dialler = nullptr;
  CheckpointFetcher* fetcher = nullptr;
  const base::Clock* clock = nullptr;
  // NCCL_*, GLOO_* and TORCH_NCCL_* of the daemon's own environment, which trainers inherit.
  Environment inherited;
  // The daemon's LD_LIBRARY_PATH.
  std::string library_path;
};

// This node's share of one generation of a job, from its preparation until no process of it is
// left.
//
//   PREPARING -> PREPARED -> STARTING -> RUNNING -> SUCCEEDED
//       |            |           |          |
//       +------------+-----------+----------+----> FAILED (a rank failed: the others are killed)
//                    +-----------+----------+----> STOPPED (Stop was called)
//
// Not thread-safe: AllocationManager calls it under its lock.
class LocalAllocation {
 public:
  using ExitCallback = std::function<void(int rank, const RankExit& exit)>;
  // What goes on beside the lock while it prepares. Each is called from another thread, and the
  // method of the same name must follow under the lock.
  struct PrepareCallbacks {
    PeerDialler::Done on_dialled;
    std::function<void(int fetch, const std::string& detail)> on_fetching;
    std::function<void(int fetch, const CheckpointFetcher::Outcome& outcome)> on_fetched;
  };

  LocalAllocation(const AllocationContext& context, v1::Allocation allocation);

  // Checks data and disk, writes the config, lists checkpoints, chooses the network interface and,
  // on node_rank 0, binds the master socket on its address (or on the one that `allocation.master`
  // names already). Then dials the peers, if there are any, and fetches the checkpoint that
  // `allocation.fetch` names unless it is held. In the end PREPARED, or FAILED with the reason.
  // `node_address` is the IP address that the node is known by.
  void Prepare(const std::string& node_address, PrepareCallbacks callbacks);
  void OnDialled(const absl::Status& dialled);
  void OnFetching(int fetch, const std::string& detail);
  void OnFetched(int fetch, const CheckpointFetcher::Outcome& outcome);
  // The same allocation, still in goal PREPARE, as the coordinator wants it now: there may be
  // another checkpoint to fetch, or other sources (none yet: it waits for them), or nothing more.
  void UpdateFetch(const v1::Allocation& wanted);
  // Starts the ranks of a prepared allocation as `run` (goal RUN) says. `on_exit` is called from
  // another thread, and OnExit must follow under the lock.
  void Start(const v1::Allocation& run, const ExitCallback& on_exit);
  // Takes over the ranks that an earlier daemon started. When of some nobody saw the end (see
  // TrainerLauncher::Adopt) the allocation fails; when of all, as after a reboot of the machine,
  // there is nothing to take over and nobody to blame: false.
  bool Adopt(const ExitCallback& on_exit);

  // Asks the ranks to stop (SIGTERM). Kill ends those that do not.
  void Stop();
  void Kill();

  // Of rank 0; told with the status from the next change of phase on.
  void OnProgress(const v1::TrainProgress& progress);
  void OnJoined(int rank);
  // The trainer's own words for the failure that its exit will show.
  void OnTrainerFailure(int rank, const std::string& message);
  void OnExit(int rank, const RankExit& exit);

  const v1::Allocation& allocation() const { return allocation_; }
  const v1::AllocationStatus& status() const { return status_; }
  bool HasRank(int rank) const;
  bool stopping() const { return stopping_; }
  bool ended() const;
  // Whether the status has changed since the last call.
  bool TakeChanged();

 private:
  absl::Status TryPrepare(const std::string& node_address);
  // What is left to do before it is PREPARED.
  void GoOnPreparing();
  void StartFetch();
  void CancelFetch();
  bool Holds(const v1::Checkpoint& checkpoint) const;
  void ListHeldCheckpoints();
  void FailBeforeStart(int rank, const absl::Status& reason);
  absl::Status TryStart(const ExitCallback& on_exit);
  // What the trainers that an earlier daemon started were given.
  void ShowAdoptedEnvironment();
  LaunchSpec SpecOf(int rank, int local_rank) const;
  // The local file of the checkpoint to resume from.
  absl::StatusOr<std::filesystem::path> ResumeFile() const;
  void SetPhase(v1::AllocationStatus::Phase phase);
  void Fail(int rank, const RankExit& exit, const std::string& message);
  void EndIfAllExited();

  const AllocationContext& context_;
  v1::Allocation allocation_;
  v1::AllocationStatus status_;
  // Where its ranks meet the others.
  InterfaceAddress interface_;
  ListeningSocket master_;
  PrepareCallbacks callbacks_;
  bool dialled_ = false;
  // Under way, and its number: callbacks of an earlier one may still come.
  std::shared_ptr<CheckpointFetcher::Fetch> fetch_;
  int fetch_number_ = 0;
  std::filesystem::path resume_file_;
  std::map<int, std::unique_ptr<TrainerProcess>> running_;
  std::set<int> joined_;
  std::map<int, std::string> trainer_messages_;
  // A rank failed, and the others were killed for it.
  bool failed_ = false;
  absl::Time killed_time_;
  bool stopping_ = false;
  bool changed_ = false;
};

}  // namespace muster::worker
