#include "worker/model/hrnet.h"

#include <torch/torch.h>

#include <algorithm>
#include <string>
#include <utility>

#include "worker/model/autocast.h"

namespace muster::model {
namespace {

// The lowest resolution's stride: its maps, doubled thrice, must meet the highest's.
constexpr int64_t kLowestStride = 32;

std::vector<int64_t> ChannelsOf(const config::v1::HRNetStage& stage) {
  return {stage.num_channels().begin(), stage.num_channels().end()};
}

std::string Join(const std::string& prefix, size_t number) {
  return prefix + "." + std::to_string(number);
}

size_t Depth(const std::vector<std::vector<ConvNorm>>& chains) {
  size_t depth = 0;
  for (const auto& chain : chains) depth = std::max(depth, chain.size());
  return depth;
}

}  // namespace

HRNetImpl::HRNetImpl(const config::v1::HRNet& config, const config::v1::Norm& norm,
                     bool activation_checkpointing)
    : Backbone(activation_checkpointing) {
  const int64_t stem = config.stem_channels();
  stem1_ = MakeConvNorm(*this, "conv1", "bn1", {3, stem, 3, 2}, norm);
  stem2_ = MakeConvNorm(*this, "conv2", "bn2", {stem, stem, 3, 2}, norm);
  TORCH_CHECK(config.stage1().num_channels_size() == 1 && config.stage1().num_modules() == 1,
              "model.hrnet.stage1 must have one module and one num_channels");
  MakeLayer1(config.stage1(), norm, stem);
  out_channels_ = {static_cast<int64_t>(config.stage1().num_channels(0)) * kBottleneckExpansion};
  const config::v1::HRNetStage* const stages[] = {&config.stage2(), &config.stage3(),
                                                  &config.stage4()};
  for (int i = 0; i < 3; ++i) {
    TORCH_CHECK(stages[i]->num_channels_size() == i + 2 && stages[i]->num_blocks() > 0 &&
                    stages[i]->num_modules() > 0,
                "model.hrnet.stage", i + 2, " must have ", i + 2,
                " num_channels, and at least one module and block");
    stages_.push_back(MakeStage(i + 2, *stages[i], norm, out_channels_));
    out_channels_ = ChannelsOf(*stages[i]);
  }
}

void HRNetImpl::MakeLayer1(const config::v1::HRNetStage& config, const config::v1::Norm& norm,
                           int64_t in_channels) {
  const auto planes = static_cast<int64_t>(config.num_channels(0));
  const int64_t out = planes * kBottleneckExpansion;
  for (size_t i = 0; i < config.num_blocks(); ++i) {
    layer1_.push_back(
        MakeBottleneck(*this, Join("layer1", i), {i == 0 ? in_channels : out, planes}, norm));
  }
}

HRNetImpl::Stage HRNetImpl::MakeStage(int number, const config::v1::HRNetStage& config,
                                      const config::v1::Norm& norm,
                                      const std::vector<int64_t>& in_channels) {
  const std::vector<int64_t> channels = ChannelsOf(config);
  Stage stage;
  for (size_t i = 0; i < channels.size(); ++i) {
    const std::string prefix = Join("transition" + std::to_string(number - 1), i);
    Transition transition{std::min(i, in_channels.size() - 1), std::nullopt};
    const int64_t in = in_channels[transition.from];
    if (i >= in_channels.size()) {
      transition.layer =
          MakeConvNorm(*this, prefix + ".0.0", prefix + ".0.1", {in, channels[i], 3, 2}, norm);
    } else if (in != channels[i]) {
      transition.layer =
          MakeConvNorm(*this, prefix + ".0", prefix + ".1", {in, channels[i], 3}, norm);
    }
    stage.transitions.push_back(std::move(transition));
  }
  for (size_t m = 0; m < config.num_modules(); ++m) {
    stage.modules.push_back(
        MakeModule(Join("stage" + std::to_string(number), m), channels, config.num_blocks(), norm));
  }
  return stage;
}

HRNetImpl::HRModule HRNetImpl::MakeModule(const std::string& prefix,
                                          const std::vector<int64_t>& channels, int64_t num_blocks,
                                          const config::v1::Norm& norm) {
  HRModule module;
  module.blocks.resize(static_cast<size_t>(num_blocks));
  for (size_t b = 0; b < channels.size(); ++b) {
    for (size_t k = 0; k < module.blocks.size(); ++k) {
      const std::string name = Join(Join(prefix + ".branches", b), k);
      const ConvNormOptions options{channels[b], channels[b], 3};
      module.blocks[k].first.push_back(
          MakeConvNorm(*this, name + ".conv1", name + ".bn1", options, norm));
      module.blocks[k].second.push_back(
          MakeConvNorm(*this, name + ".conv2", name + ".bn2", options, norm));
    }
  }
  for (size_t i = 0; i < channels.size(); ++i) {
    for (size_t j = 0; j < channels.size(); ++j) {
      if (i == j) continue;
      const std::string name = Join(Join(prefix + ".fuse_layers", i), j);
      FuseChain chain{j, i, {}};
      if (j > i) {
        chain.layers.push_back(
            MakeConvNorm(*this, name + ".0", name + ".1", {channels[j], channels[i], 1}, norm));
      }
      for (size_t k = j; k < i; ++k) {
        const int64_t out = k + 1 == i ? channels[i] : channels[j];
        const std::string step = Join(name, k - j);
        chain.layers.push_back(
            MakeConvNorm(*this, step + ".0", step + ".1", {channels[j], out, 3, 2}, norm));
      }
      module.chains.push_back(std::move(chain));
    }
  }
  return module;
}

std::vector<at::Tensor> HRNetImpl::forward(const at::Tensor& images) {
  TORCH_CHECK(images.dim() == 4 && images.size(1) == 3, "images must be (N, 3, H, W), not ",
              images.sizes());
  TORCH_CHECK(images.size(2) % kLowestStride == 0 && images.size(3) % kLowestStride == 0,
              "image sides must be multiples of ", kLowestStride, ", not ", images.size(2), " x ",
              images.size(3), ": set data.size_divisor or data.pad_size");
  std::vector<at::Tensor> branches{RunStem(images)};
  for (const Stage& stage : stages_) {
    branches = RunTransitions(branches, stage);
    for (const HRModule& module : stage.modules) branches = RunModule(std::move(branches), module);
  }
  return branches;
}

at::Tensor HRNetImpl::RunStem(const at::Tensor& images) const {
  // In float32 also where the rest is bfloat16: what is rounded here all later layers see. These
  // are a tenth of W18's arithmetic and half of bfloat16's error in the gradients
  // (docs/benchmarks.md).
  const AutocastGuard wide(images.device().type(), /*enabled=*/false);
  at::Tensor x = at::relu(ForwardGroup({images}, {stem1_}, norms())[0]);
  x = at::relu(ForwardGroup({x}, {stem2_}, norms())[0]);
  for (const Bottleneck& block : layer1_) {
    const auto run = [&block](const std::vector<at::Tensor>& in, const NormContext& context) {
      return std::vector<at::Tensor>{RunBottleneck(in[0], block, context)};
    };
    x = RunBlock(run, {x}, block.Layers())[0];
  }
  return x;
}

std::vector<at::Tensor> HRNetImpl::RunTransitions(const std::vector<at::Tensor>& x,
                                                  const Stage& stage) const {
  std::vector<at::Tensor> inputs;
  std::vector<ConvNorm> layers;
  for (const Transition& transition : stage.transitions) {
    if (!transition.layer) continue;
    inputs.push_back(x[transition.from]);
    layers.push_back(*transition.layer);
  }
  const auto outputs = ForwardGroup(inputs, layers, norms());
  std::vector<at::Tensor> branches;
  size_t next = 0;
  for (const Transition& transition : stage.transitions) {
    branches.push_back(transition.layer ? at::relu(outputs[next++]) : x[transition.from]);
  }
  return branches;
}

std::vector<at::Tensor> HRNetImpl::RunModule(std::vector<at::Tensor> x,
                                             const HRModule& module) const {
  for (const BasicBlocks& blocks : module.blocks) {
    std::vector<ConvNorm> layers = blocks.first;
    layers.insert(layers.end(), blocks.second.begin(), blocks.second.end());
    const auto run = [&blocks](const std::vector<at::Tensor>& in, const NormContext& context) {
      return RunBasicBlocks(in, blocks, context);
    };
    x = RunBlock(run, x, layers);
  }
  std::vector<ConvNorm> layers;
  for (const FuseChain& chain : module.chains) {
    layers.insert(layers.end(), chain.layers.begin(), chain.layers.end());
  }
  const auto run = [&module](const std::vector<at::Tensor>& in, const NormContext& context) {
    return RunFuse(in, module, context);
  };
  return RunBlock(run, x, layers);
}

std::vector<at::Tensor> HRNetImpl::RunBasicBlocks(const std::vector<at::Tensor>& x,
                                                  const BasicBlocks& blocks,
                                                  const NormContext& context) {
  std::vector<at::Tensor> y = ForwardGroup(x, blocks.first, context);
  for (at::Tensor& branch : y) branch = at::relu(branch);
  y = ForwardGroup(y, blocks.second, context);
  for (size_t b = 0; b < x.size(); ++b) y[b] = at::relu(y[b] + x[b]);
  return y;
}

std::vector<at::Tensor> HRNetImpl::RunFuse(const std::vector<at::Tensor>& x, const HRModule& module,
                                           const NormContext& context) {
  std::vector<std::vector<ConvNorm>> chains;
  std::vector<at::Tensor> values;
  for (const FuseChain& chain : module.chains) {
    chains.push_back(chain.layers);
    values.push_back(x[chain.from]);
  }
  for (size_t depth = 0; depth < Depth(chains); ++depth) {
    std::vector<size_t> active;
    std::vector<at::Tensor> inputs;
    std::vector<ConvNorm> layers;
    for (size_t c = 0; c < chains.size(); ++c) {
      if (depth >= chains[c].size()) continue;
      active.push_back(c);
      inputs.push_back(values[c]);
      layers.push_back(chains[c][depth]);
    }
    const auto outputs = ForwardGroup(inputs, layers, context);
    for (size_t k = 0; k < active.size(); ++k) {
      const bool last = depth + 1 == chains[active[k]].size();
      values[active[k]] = last ? outputs[k] : at::relu(outputs[k]);
    }
  }
  // j ascending, as mmdetection adds: float sums depend on the order.
  std::vector<at::Tensor> fused(x.size());
  size_t next = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) {
      at::Tensor term = i == j ? x[j] : values[next++];
      if (j > i) {
        term =
            at::upsample_nearest2d(term, {x[i].size(2), x[i].size(3)}, std::nullopt, std::nullopt);
      }
      fused[i] = fused[i].defined() ? fused[i] + term : term;
    }
    fused[i] = at::relu(fused[i]);
  }
  return fused;
}

Backbone::Collectives HRNetImpl::SyncBatchNormCollectives() const {
  if (!stem1_.norm->synchronised() || stem1_.norm->norm_eval()) return {};
  size_t groups = 2 + kBottleneckNormGroups * layer1_.size();
  for (const Stage& stage : stages_) {
    const bool any = std::any_of(stage.transitions.begin(), stage.transitions.end(),
                                 [](const Transition& t) { return t.layer.has_value(); });
    groups += any ? 1 : 0;
    for (const HRModule& module : stage.modules) {
      size_t depth = 0;
      for (const FuseChain& chain : module.chains) depth = std::max(depth, chain.layers.size());
      groups += 2 * module.blocks.size() + depth;
    }
  }
  return {static_cast<int64_t>(groups), static_cast<int64_t>(groups)};
}

}  // namespace muster::model
