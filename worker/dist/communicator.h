#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace muster::dist {

// A collective failed: a peer has died, does not answer, or is of another program. The group is in
// an unknown state and stays unusable: the process ends with kExitCollectiveLost, and the cause is
// on another rank.
class CollectiveLost : public std::runtime_error {
 public:
  // `operation` is what was being done ("all-gather of 1024 bytes in group syncbn"); `detail` is
  // the backend's own text, which names the peer where it knows it.
  CollectiveLost(std::string operation, const std::string& detail);
  const std::string& operation() const { return operation_; }

 private:
  std::string operation_;
};

// The collectives of one group of ranks. Every rank calls the same functions in the same order,
// from one thread; a call returns when this rank's part is done (CPU) or is queued on the current
// stream (CUDA). Tensors are contiguous, on the group's device, and of equal shape and dtype on all
// ranks. All functions throw CollectiveLost when the group has failed.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // All ranks' `local` stacked in rank order: shape (size(), ...).
  virtual at::Tensor AllGather(const at::Tensor& local) = 0;
  // Replaces `tensor` by the sum over the ranks; the same bits on every rank. The order of the
  // additions is the backend's.
  virtual void AllReduceSum(const at::Tensor& tensor) = 0;
  // Replaces `tensor` by rank `root`'s.
  virtual void Broadcast(const at::Tensor& tensor, int root) = 0;
  // Returns when every rank has called it.
  virtual void Barrier() = 0;
  // All ranks' strings, of any sizes, in rank order.
  virtual std::vector<std::string> AllGatherBytes(const std::string& local) = 0;
  // Rank `root`'s string; the others' argument is ignored.
  virtual std::string BroadcastBytes(const std::string& bytes, int root) = 0;

  // Backend collectives issued so far (AllGatherBytes and BroadcastBytes are two each).
  virtual int64_t collectives() const = 0;
  // Time that calls have spent until this rank's part was done, by the wall: mostly waits for other
  // ranks. On CUDA a call only queues its part, and the device's waits are not in it.
  virtual absl::Duration waited() const = 0;
};

// The group of a process that trains alone: rank 0 of 1, no network, no collectives.
std::unique_ptr<Communicator> MakeSoleCommunicator();

// For a catch (...) block round a collective: throws CollectiveLost for what a backend throws when
// a peer or the network fails, and the exception itself otherwise (wrong arguments, out of memory).
[[noreturn]] void RethrowAsCollectiveLost(const std::string& operation);

}  // namespace muster::dist
