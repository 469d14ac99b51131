#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "worker/dist/communicator.h"

namespace c10d {
class Backend;
class ProcessGroup;
class Store;
}  // namespace c10d

namespace muster::dist {

// A rank's place in its job, as the worker (or train --ranks) hands it to the trainer.
struct RankEnvironment {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;
  int local_world_size = 1;
  int node_rank = 0;
  // Where rank 0's store listens; empty and 0 in a world of one.
  std::string master_address;
  uint16_t master_port = 0;
  // Rank 0 only: an inherited socket that is bound to master_port and listens already.
  std::optional<int> master_fd;
  // The IP by which peers reach this node. Empty: the one that the route to master_address leaves
  // by.
  std::string node_address;
};

// Reads RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, NODE_RANK, MASTER_ADDR, MASTER_PORT,
// MUSTER_MASTER_FD and MUSTER_NODE_ADDRESS through `get`, which returns null for a variable that is
// not set. Without WORLD_SIZE: a world of one. InvalidArgument names the variable that is missing
// or wrong.
absl::StatusOr<RankEnvironment> ReadRankEnvironment(
    const std::function<const char*(const char*)>& get);
// The same from the process environment.
absl::StatusOr<RankEnvironment> ReadRankEnvironment();

struct ProcessGroupOptions {
  // Joining, and every collective, must end within this.
  absl::Duration timeout = absl::Seconds(600);
  // CPU: Gloo. CUDA: NCCL for batch normalisation and gradients, from the plugin (cuda_plugin.h),
  // on this device's index; control stays on Gloo.
  at::Device device = at::kCPU;
};

// The groups that one rank takes part in. Each has its own connections, so that small collectives
// do not queue behind gradient buckets; each is used by one thread, in the same order on all ranks.
class ProcessGroups {
 public:
  ProcessGroups(std::unique_ptr<Communicator> control,
                std::unique_ptr<Communicator> sync_batch_norm,
                c10::intrusive_ptr<c10d::ProcessGroup> gradients);
  ~ProcessGroups();
  ProcessGroups(const ProcessGroups&) = delete;
  ProcessGroups& operator=(const ProcessGroups&) = delete;

  int rank() const { return control_->rank(); }
  int size() const { return control_->size(); }
  // CPU tensors: stop flags, losses, evaluation results, checkpoints.
  Communicator* control() const { return control_.get(); }
  // Tensors on the training device.
  Communicator* sync_batch_norm() const { return sync_batch_norm_.get(); }
  // For GradientReducer; null in a world of one.
  const c10::intrusive_ptr<c10d::ProcessGroup>& gradients() const { return gradients_; }

 private:
  std::unique_ptr<Communicator> control_;
  std::unique_ptr<Communicator> sync_batch_norm_;
  c10::intrusive_ptr<c10d::ProcessGroup> gradients_;
};

// Joins the job's other ranks: makes the store (on rank 0) or connects to it, then the groups. A
// world of one touches no network. A status tells what is wrong on this node (its address, no CUDA
// device); throws CollectiveLost when the others do not come within the timeout.
absl::StatusOr<std::unique_ptr<ProcessGroups>> JoinProcessGroups(
    const RankEnvironment& environment, const ProcessGroupOptions& options);

// The same over a store that the ranks share already, with the node's own IP: for ranks that are
// threads of one process.
absl::StatusOr<std::unique_ptr<ProcessGroups>> JoinProcessGroupsThrough(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size,
    const std::string& node_address, const ProcessGroupOptions& options);

// The IP of the interface that packets to `peer_address` (a numeric IP) leave by.
absl::StatusOr<std::string> AddressTowards(const std::string& peer_address);

}  // namespace muster::dist
