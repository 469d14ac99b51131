#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "worker/model/batch_norm.h"

namespace muster::model {

// Registers `child` below `root` under a dotted name ("fuse_layers.1.0.0"), making the modules
// between where they are missing: the names of nested containers without the containers.
void RegisterAt(torch::nn::Module& root, const std::string& dotted_name,
                const std::shared_ptr<torch::nn::Module>& child);

// A convolution without bias and the normalisation after it.
struct ConvNorm {
  torch::nn::Conv2d conv{nullptr};
  BatchNorm norm{nullptr};
};

struct ConvNormOptions {
  int64_t in_channels;
  int64_t out_channels;
  int64_t kernel_size;  // odd; padded to keep the size
  int64_t stride = 1;
};

// Registers both below `root` as `conv_name` and `norm_name`.
ConvNorm MakeConvNorm(torch::nn::Module& root, const std::string& conv_name,
                      const std::string& norm_name, const ConvNormOptions& options,
                      const config::v1::Norm& norm);

// Convolves each input with its layer, then normalises all in one group.
std::vector<at::Tensor> ForwardGroup(const std::vector<at::Tensor>& inputs,
                                     const std::vector<ConvNorm>& layers,
                                     const NormContext& context);

// The residual block of 1x1, 3x3 and 1x1 convolutions (He et al. 2016), whose result is
// kBottleneckExpansion times as wide as its middle.
struct Bottleneck {
  ConvNorm reduce, spatial, expand;
  std::optional<ConvNorm> downsample;  // of the input, where its shape is not the result's

  std::vector<ConvNorm> Layers() const;
};

constexpr int64_t kBottleneckExpansion = 4;
// BatchNorm groups of one pass: `expand` and `downsample` share one.
constexpr int64_t kBottleneckNormGroups = 3;

struct BottleneckOptions {
  int64_t in_channels;
  int64_t planes;      // channels of the middle
  int64_t stride = 1;  // of the 3x3 convolution
};

// Registers the layers below `root` under names that start with `prefix`.
Bottleneck MakeBottleneck(torch::nn::Module& root, const std::string& prefix,
                          const BottleneckOptions& options, const config::v1::Norm& norm);

at::Tensor RunBottleneck(const at::Tensor& x, const Bottleneck& block, const NormContext& context);

}  // namespace muster::model
