#include "worker/model/hrfpn.h"

#include <torch/torch.h>

#include <numeric>
#include <string>

#include "worker/model/blocks.h"

namespace muster::model {

HRFPNImpl::HRFPNImpl(const config::v1::HRFPN& config, const std::vector<int64_t>& in_channels) {
  const int64_t in = std::accumulate(in_channels.begin(), in_channels.end(), int64_t{0});
  const int64_t out = config.out_channels();
  reduction_ = torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 1));
  RegisterAt(*this, "reduction_conv.conv", reduction_.ptr());
  for (uint32_t i = 0; i < config.num_outs(); ++i) {
    outputs_.push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(out, out, 3).padding(1)));
    RegisterAt(*this, "fpn_convs." + std::to_string(i) + ".conv", outputs_.back().ptr());
  }
}

std::vector<at::Tensor> HRFPNImpl::forward(const std::vector<at::Tensor>& branches) {
  const at::Tensor& finest = branches[0];
  std::vector<at::Tensor> resized{finest};
  for (size_t i = 1; i < branches.size(); ++i) {
    resized.push_back(at::upsample_bilinear2d(branches[i], {finest.size(2), finest.size(3)},
                                              /*align_corners=*/false, std::nullopt, std::nullopt));
  }
  const at::Tensor mixed = reduction_->forward(at::cat(resized, 1));
  std::vector<at::Tensor> levels;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const int64_t side = int64_t{1} << i;
    const at::Tensor pooled = i == 0 ? mixed : at::avg_pool2d(mixed, {side, side}, {side, side});
    levels.push_back(outputs_[i]->forward(pooled));
  }
  return levels;
}

}  // namespace muster::model
