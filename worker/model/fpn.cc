#include "worker/model/fpn.h"

#include <torch/torch.h>

#include <string>

#include "worker/model/blocks.h"

namespace muster::model {

FPNImpl::FPNImpl(const config::v1::FPN& config, const std::vector<int64_t>& in_channels)
    : num_outs_(config.num_outs()) {
  const auto out = static_cast<int64_t>(config.out_channels());
  TORCH_CHECK(num_outs_ >= in_channels.size(), "model.fpn.num_outs must be at least ",
              in_channels.size(), ", the backbone's number of maps, not ", num_outs_);
  for (size_t i = 0; i < in_channels.size(); ++i) {
    laterals_.push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(in_channels[i], out, 1)));
    outputs_.push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(out, out, 3).padding(1)));
  }
  for (size_t i = 0; i < in_channels.size(); ++i) {
    RegisterAt(*this, "lateral_convs." + std::to_string(i) + ".conv", laterals_[i].ptr());
  }
  for (size_t i = 0; i < in_channels.size(); ++i) {
    RegisterAt(*this, "fpn_convs." + std::to_string(i) + ".conv", outputs_[i].ptr());
  }
}

std::vector<at::Tensor> FPNImpl::forward(const std::vector<at::Tensor>& maps) {
  std::vector<at::Tensor> levels;
  for (size_t i = 0; i < laterals_.size(); ++i) levels.push_back(laterals_[i]->forward(maps[i]));
  for (size_t i = levels.size() - 1; i > 0; --i) {
    at::Tensor& finer = levels[i - 1];
    finer = finer + at::upsample_nearest2d(levels[i], {finer.size(2), finer.size(3)}, std::nullopt,
                                           std::nullopt);
  }
  for (size_t i = 0; i < levels.size(); ++i) levels[i] = outputs_[i]->forward(levels[i]);
  while (levels.size() < num_outs_) {
    levels.push_back(at::max_pool2d(levels.back(), /*kernel_size=*/1, /*stride=*/2));
  }
  return levels;
}

}  // namespace muster::model
