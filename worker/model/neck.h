#pragma once

#include <torch/nn/module.h>

#include <vector>

namespace muster::model {

// What makes one pyramid of equally wide maps out of a backbone's: HRFPN or FPN.
class Neck : public torch::nn::Module {
 public:
  // Maps of strides 4, 8, 16, 32 -> maps of strides 4 x 2^i.
  virtual std::vector<at::Tensor> forward(const std::vector<at::Tensor>& maps) = 0;
};

}  // namespace muster::model
