#include "worker/model/backbone.h"

#include <torch/torch.h>

namespace muster::model {

std::vector<at::Tensor> Backbone::RunBlock(const NetworkPart& block,
                                           const std::vector<at::Tensor>& inputs,
                                           const std::vector<ConvNorm>& layers) const {
  if (!activation_checkpointing_ || !is_training() || !at::GradMode::is_enabled()) {
    return block(inputs, norms());
  }
  std::vector<at::Tensor> parameters;
  for (const ConvNorm& layer : layers) {
    parameters.insert(parameters.end(), {layer.conv->weight, layer.norm->weight, layer.norm->bias});
  }
  return RunCheckpointed(block, inputs, parameters, communicator_);
}

}  // namespace muster::model
