#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "worker/dist/communicator.h"
#include "worker/model/batch.h"

namespace muster::testing {

// Random images of 64 x 96 with `boxes` boxes of 3 classes in each; the same for the same
// arguments.
inline model::TrainBatch RandomBatch(int64_t images, int64_t boxes) {
  // A generator of its own: ranks that are threads call this at the same time.
  at::Generator generator = at::detail::createCPUGenerator(3);
  model::TrainBatch batch;
  batch.images = at::randn({images, 3, 64, 96}, generator);
  for (int64_t i = 0; i < images; ++i) {
    model::ImageTargets targets;
    const at::Tensor corner = at::rand({boxes, 2}, generator) * 30;
    targets.gt_bboxes = at::cat({corner, corner + 10 + at::rand({boxes, 2}, generator) * 20}, 1);
    targets.gt_labels = at::randint(0, 3, {boxes}, generator, at::kLong);
    targets.img_h = targets.pad_h = 64;
    targets.img_w = targets.pad_w = 96;
    targets.sample_id = i;
    batch.targets.push_back(targets);
  }
  return batch;
}

// Two ranks with the same images, played by one process.
class TwinCommunicator : public dist::Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  at::Tensor AllGather(const at::Tensor& local) override {
    ++collectives_;
    return at::stack({local, local});
  }
  void AllReduceSum(const at::Tensor& tensor) override { tensor.mul_(2); }
  void Broadcast(const at::Tensor&, int) override {}
  void Barrier() override {}
  std::vector<std::string> AllGatherBytes(const std::string& local) override {
    return {local, local};
  }
  std::string BroadcastBytes(const std::string& bytes, int) override { return bytes; }
  int64_t collectives() const override { return collectives_; }
  absl::Duration waited() const override { return absl::ZeroDuration(); }

 private:
  int64_t collectives_ = 0;
};

}  // namespace muster::testing
