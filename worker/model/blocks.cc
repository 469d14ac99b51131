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
                                     dist::Communicator* communicator) {
  std::vector<at::Tensor> convolved;
  std::vector<BatchNorm> norms;
  for (size_t i = 0; i < layers.size(); ++i) {
    torch::nn::Conv2d conv = layers[i].conv;
    convolved.push_back(conv->forward(inputs[i]));
    norms.push_back(layers[i].norm);
  }
  return BatchNormGroup(convolved, norms, communicator);
}

}  // namespace muster::model
