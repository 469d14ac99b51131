#include "worker/model/blocks.h"

#include <torch/torch.h>

namespace muster::model {

void RegisterAt(torch::nn::Module& root, const std::string& dotted_name,
                const std::shared_ptr<torch::nn::Module>& child) {
  const size_t dot = dotted_name.find('.');
  if (dot == std::string::npos) {
    root.register_module(dotted_name, child);
    return;
  }
  const std::string head = dotted_name.substr(0, dot);
  const auto children = root.named_children();
  const std::shared_ptr<torch::nn::Module>* found = children.find(head);
  const std::shared_ptr<torch::nn::Module> next =
      found != nullptr ? *found
                       : root.register_module(head, std::make_shared<torch::nn::Module>(head));
  RegisterAt(*next, dotted_name.substr(dot + 1), child);
}

ConvNorm MakeConvNorm(torch::nn::Module& root, const std::string& conv_name,
                      const std::string& norm_name, const ConvNormOptions& options,
                      const config::v1::Norm& norm) {
  ConvNorm layer;
  layer.conv = torch::nn::Conv2d(
      torch::nn::Conv2dOptions(options.in_channels, options.out_channels, options.kernel_size)
          .stride(options.stride)
          .padding(options.kernel_size / 2)
          .bias(false));
  layer.norm = BatchNorm(options.out_channels, norm);
  RegisterAt(root, conv_name, layer.conv.ptr());
  RegisterAt(root, norm_name, layer.norm.ptr());
  return layer;
}

std::vector<at::Tensor> ForwardGroup(const std::vector<at::Tensor>& inputs,
                                     const std::vector<ConvNorm>& layers,
                                     const NormContext& context) {
  std::vector<at::Tensor> convolved;
  std::vector<BatchNorm> norms;
  for (size_t i = 0; i < layers.size(); ++i) {
    torch::nn::Conv2d conv = layers[i].conv;
    convolved.push_back(conv->forward(inputs[i]));
    norms.push_back(layers[i].norm);
  }
  return BatchNormGroup(convolved, norms, context);
}

std::vector<ConvNorm> Bottleneck::Layers() const {
  std::vector<ConvNorm> layers{reduce, spatial, expand};
  if (downsample) layers.push_back(*downsample);
  return layers;
}

Bottleneck MakeBottleneck(torch::nn::Module& root, const std::string& prefix,
                          const BottleneckOptions& options, const config::v1::Norm& norm) {
  const int64_t in = options.in_channels;
  const int64_t planes = options.planes;
  const int64_t out = planes * kBottleneckExpansion;
  Bottleneck block;
  block.reduce = MakeConvNorm(root, prefix + ".conv1", prefix + ".bn1", {in, planes, 1}, norm);
  block.spatial = MakeConvNorm(root, prefix + ".conv2", prefix + ".bn2",
                               {planes, planes, 3, options.stride}, norm);
  block.expand = MakeConvNorm(root, prefix + ".conv3", prefix + ".bn3", {planes, out, 1}, norm);
  if (in != out || options.stride != 1) {
    block.downsample = MakeConvNorm(root, prefix + ".downsample.0", prefix + ".downsample.1",
                                    {in, out, 1, options.stride}, norm);
  }
  return block;
}

at::Tensor RunBottleneck(const at::Tensor& x, const Bottleneck& block, const NormContext& context) {
  at::Tensor y = at::relu(ForwardGroup({x}, {block.reduce}, context)[0]);
  y = at::relu(ForwardGroup({y}, {block.spatial}, context)[0]);
  if (!block.downsample) {
    return at::relu(ForwardGroup({y}, {block.expand}, context)[0] + x);
  }
  const auto both = ForwardGroup({y, x}, {block.expand, *block.downsample}, context);
  return at::relu(both[0] + both[1]);
}

}  // namespace muster::model
