#pragma once

#include <torch/nn/modules/conv.h>

#include <cstdint>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/model/neck.h"

namespace muster::model {

// The feature pyramid (Lin et al. 2017): every map goes through a 1x1 convolution, the coarser
// result, repeated to its size, is added, and a 3x3 convolution follows. Levels beyond the
// backbone's take every second position of the last one. No normalisation.
class FPNImpl : public Neck {
 public:
  FPNImpl(const config::v1::FPN& config, const std::vector<int64_t>& in_channels);

  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& maps) override;

 private:
  size_t num_outs_;
  std::vector<torch::nn::Conv2d> laterals_;
  std::vector<torch::nn::Conv2d> outputs_;
};

}  // namespace muster::model
