#pragma once

#include <torch/nn/modules/conv.h>

#include <cstdint>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/model/neck.h"

namespace muster::model {

// HRFPN: all branches resized to the highest resolution, concatenated, mixed by a 1x1 convolution,
// then averaged down to each level and convolved 3x3. No normalisation.
class HRFPNImpl : public Neck {
 public:
  HRFPNImpl(const config::v1::HRFPN& config, const std::vector<int64_t>& in_channels);

  // Maps of strides 4, 8, ... -> num_outs maps of out_channels, strides 4 x 2^i.
  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& branches) override;

 private:
  torch::nn::Conv2d reduction_{nullptr};
  std::vector<torch::nn::Conv2d> outputs_;
};

}  // namespace muster::model
