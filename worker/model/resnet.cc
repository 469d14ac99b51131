#include "worker/model/resnet.h"

#include <torch/torch.h>

#include <array>

namespace muster::model {
namespace {

constexpr int64_t kStemChannels = 64;
constexpr int64_t kStages = 4;

std::array<int64_t, kStages> BlocksOf(uint32_t depth) {
  switch (depth) {
    case 50:
      return {3, 4, 6, 3};
    case 101:
      return {3, 4, 23, 3};
    case 152:
      return {3, 8, 36, 3};
    default:
      TORCH_CHECK(false, "model.resnet.depth must be 50, 101 or 152, not ", depth);
  }
}

int64_t PlanesOf(int64_t stage) { return kStemChannels << stage; }

void Freeze(const ConvNorm& layer) {
  for (const at::Tensor& parameter : {layer.conv->weight, layer.norm->weight, layer.norm->bias}) {
    parameter.set_requires_grad(false);
  }
}

}  // namespace

ResNetImpl::ResNetImpl(const config::v1::ResNet& config, const config::v1::Norm& norm,
                       bool activation_checkpointing)
    : Backbone(activation_checkpointing), stem_frozen_(config.frozen_stages() >= 0) {
  config::v1::Norm frozen_norm = norm;
  frozen_norm.set_norm_eval(norm.norm_eval() || config.frozen_norm_eval());
  stem_ = MakeConvNorm(*this, "conv1", "bn1", {3, kStemChannels, 7, 2},
                       stem_frozen_ ? frozen_norm : norm);
  if (stem_frozen_) Freeze(stem_);
  const std::array<int64_t, kStages> blocks = BlocksOf(config.depth());
  int64_t in = kStemChannels;
  for (int64_t s = 0; s < kStages; ++s) {
    Stage stage;
    stage.frozen = s < config.frozen_stages();
    for (int64_t b = 0; b < blocks[static_cast<size_t>(s)]; ++b) {
      const std::string prefix = "layer" + std::to_string(s + 1) + "." + std::to_string(b);
      stage.blocks.push_back(MakeBottleneck(*this, prefix,
                                            {in, PlanesOf(s), b == 0 && s > 0 ? 2 : 1},
                                            stage.frozen ? frozen_norm : norm));
      // A block starts as the identity (Goyal et al. 2017), where no checkpoint says otherwise.
      const torch::NoGradGuard no_grad;
      stage.blocks.back().expand.norm->weight.zero_();
      if (stage.frozen) {
        for (const ConvNorm& layer : stage.blocks.back().Layers()) Freeze(layer);
      }
      in = PlanesOf(s) * kBottleneckExpansion;
    }
    stages_.push_back(std::move(stage));
  }
}

std::vector<at::Tensor> ResNetImpl::forward(const at::Tensor& images) {
  TORCH_CHECK(images.dim() == 4 && images.size(1) == 3, "images must be (N, 3, H, W), not ",
              images.sizes());
  at::Tensor x = at::relu(ForwardGroup({images}, {stem_}, norms())[0]);
  x = at::max_pool2d(x, /*kernel_size=*/3, /*stride=*/2, /*padding=*/1);
  std::vector<at::Tensor> maps;
  for (const Stage& stage : stages_) {
    for (const Bottleneck& block : stage.blocks) {
      const auto run = [&block](const std::vector<at::Tensor>& in, const NormContext& context) {
        return std::vector<at::Tensor>{RunBottleneck(in[0], block, context)};
      };
      x = RunBlock(run, {x}, block.Layers())[0];
    }
    maps.push_back(x);
  }
  return maps;
}

std::vector<int64_t> ResNetImpl::out_channels() const {
  std::vector<int64_t> channels;
  for (int64_t s = 0; s < kStages; ++s) channels.push_back(PlanesOf(s) * kBottleneckExpansion);
  return channels;
}

Backbone::Collectives ResNetImpl::SyncBatchNormCollectives() const {
  Collectives total;
  const auto add = [&total](const ConvNorm& any, int64_t groups, bool frozen) {
    if (!any.norm->synchronised() || any.norm->norm_eval()) return;
    total.forward += groups;
    if (!frozen) total.backward += groups;
  };
  add(stem_, 1, stem_frozen_);
  for (const Stage& stage : stages_) {
    for (const Bottleneck& block : stage.blocks) {
      add(block.reduce, kBottleneckNormGroups, stage.frozen);
    }
  }
  return total;
}

}  // namespace muster::model
