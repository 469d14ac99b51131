#include "worker/model/initialization.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/torch.h>

#include <cmath>
#include <string>

namespace muster::model {
namespace {

bool StartsWith(const std::string& text, const std::string& prefix) {
  return text.rfind(prefix, 0) == 0;
}

bool EndsWith(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

void FillWeight(const std::string& name, const config::v1::Model& config, at::Tensor& weight,
                at::Generator& generator) {
  const double area =
      weight.dim() == 4 ? static_cast<double>(weight.size(2) * weight.size(3)) : 1.0;
  const double fan_in = static_cast<double>(weight.size(1)) * area;
  const double fan_out = static_cast<double>(weight.size(0)) * area;
  const double glorot_bound = std::sqrt(6.0 / (fan_in + fan_out));
  const bool seed = config.conventions() == config::v1::CONVENTIONS_SEED;
  if (StartsWith(name, "backbone.") || (!seed && StartsWith(name, "neck.reduction_conv."))) {
    weight.normal_(0, std::sqrt(2.0 / fan_out), generator);
  } else if (StartsWith(name, "neck.")) {
    const double bound = config.has_fpn() ? glorot_bound : std::sqrt(3.0 / fan_in);
    weight.uniform_(-bound, bound, generator);
  } else if (StartsWith(name, "roi_head.bbox_head.shared_fcs.")) {
    weight.uniform_(-glorot_bound, glorot_bound, generator);
  } else if (StartsWith(name, "roi_head.bbox_head.fc_reg.")) {
    weight.normal_(0, 0.001, generator);
  } else {
    weight.normal_(0, 0.01, generator);
  }
}

}  // namespace

void InitializeWeights(torch::nn::Module& detector, const config::v1::Model& config,
                       uint64_t seed) {
  torch::NoGradGuard no_grad;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  for (auto& item : detector.named_parameters()) {
    at::Tensor& parameter = item.value();
    if (parameter.dim() > 1) {
      FillWeight(item.key(), config, parameter, generator);
    } else if (EndsWith(item.key(), ".bias")) {
      parameter.zero_();
    }
  }
}

}  // namespace muster::model
