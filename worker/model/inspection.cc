#include "worker/model/inspection.h"

#include <torch/torch.h>

namespace muster::model {

Inspection Inspect(FasterRCNN& model) {
  Inspection result;
  for (const auto& item : model->named_parameters()) {
    const int64_t count = item.value().numel();
    result.parameters += count;
    ++result.parameter_tensors;
    result.parameters_by_part[item.key().substr(0, item.key().find('.'))] += count;
    if (item.value().requires_grad()) {
      result.gradient_bytes += count * static_cast<int64_t>(sizeof(float));
    }
  }
  result.parameter_bytes = result.parameters * static_cast<int64_t>(sizeof(float));
  result.momentum_bytes = result.gradient_bytes;
  result.state_entries = result.parameter_tensors;
  for (const at::Tensor& buffer : model->buffers()) {
    ++result.state_entries;
    result.buffer_bytes += static_cast<int64_t>(buffer.nbytes());
  }
  for (const auto& module : model->modules()) {
    if (module->as<torch::nn::Conv2dImpl>() != nullptr) ++result.layers["Conv2d"];
    if (module->as<torch::nn::LinearImpl>() != nullptr) ++result.layers["Linear"];
    if (const auto* norm = module->as<BatchNormImpl>()) {
      ++result.layers["BatchNorm"];
      result.batch_norm_channels += norm->weight.numel();
    }
  }
  const Backbone::Collectives collectives = model->backbone->SyncBatchNormCollectives();
  result.sync_bn_collectives_per_step = collectives.forward + collectives.backward;
  return result;
}

}  // namespace muster::model
