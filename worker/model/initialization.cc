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

void FillWeight(const std::string& name, at::Tensor& weight, at::Generator& generator) {
  const double area =
      weight.dim() == 4 ? static_cast<double>(weight.size(2) * weight.size(3)) : 1.0;
  const double fan_in = static_cast<double>(weight.size(1)) * area;
  const double fan_out = static_cast<double>(weight.size(0)) * area;
  if (StartsWith(name, "backbone.")) {
    weight.normal_(0, std::sqrt(2.0 / fan_out), generator);
  } else if (StartsWith(name, "neck.")) {
    const double bound = std::sqrt(3.0 / fan_in);
    weight.uniform_(-bound, bound, generator);
  } else if (StartsWith(name, "roi_head.bbox_head.shared_fcs.")) {
    const double bound = std::sqrt(6.0 / (fan_in + fan_out));
    weight.uniform_(-bound, bound, generator);
  } else if (StartsWith(name, "roi_head.bbox_head.fc_reg.")) {
    weight.normal_(0, 0.001, generator);
  } else {
    weight.normal_(0, 0.01, generator);
  }
}

}  // namespace

void InitializeWeights(torch::nn::Module& detector, uint64_t seed) {
  torch::NoGradGuard no_grad;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  for (auto& item : detector.named_parameters()) {
    at::Tensor& parameter = item.value();
    const bool is_weight = parameter.dim() > 1;
    if (is_weight) {
      FillWeight(item.key(), parameter, generator);
    } else {
      const std::string suffix = ".weight";
      const std::string& name = item.key();
      const bool norm_weight =
          name.size() > suffix.size() &&
          name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
      parameter.fill_(norm_weight ? 1.0 : 0.0);
    }
  }
}

}  // namespace muster::model
