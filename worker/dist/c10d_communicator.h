#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "worker/dist/communicator.h"

namespace muster::dist {

// A Communicator over a c10d backend (Gloo on CPU tensors, NCCL on CUDA tensors).
class C10dCommunicator : public Communicator {
 public:
  // `name` names the group in errors. `device` is where the backend's tensors live.
  C10dCommunicator(std::string name, c10::intrusive_ptr<c10d::Backend> backend, at::Device device);

  int rank() const override { return backend_->getRank(); }
  int size() const override { return backend_->getSize(); }
  at::Tensor AllGather(const at::Tensor& local) override;
  void AllReduceSum(const at::Tensor& tensor) override;
  void Broadcast(const at::Tensor& tensor, int root) override;
  void Barrier() override;
  std::vector<std::string> AllGatherBytes(const std::string& local) override;
  std::string BroadcastBytes(const std::string& bytes, int root) override;
  int64_t collectives() const override { return collectives_; }
  absl::Duration waited() const override { return waited_; }

 private:
  // Counts the collective and its time, runs `start`, waits; failures become CollectiveLost.
  template <typename Start>
  void Run(const char* what, const at::Tensor& tensor, Start start);
  void CheckTensor(const char* what, const at::Tensor& tensor) const;

  const std::string name_;
  const c10::intrusive_ptr<c10d::Backend> backend_;
  const at::Device device_;
  int64_t collectives_ = 0;
  absl::Duration waited_;
};

}  // namespace muster::dist
