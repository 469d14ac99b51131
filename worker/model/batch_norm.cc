#include "worker/model/batch_norm.h"

#include <torch/torch.h>

#include "worker/model/sync_batch_norm.h"

namespace muster::model {
namespace {

at::Tensor WithBatchStatistics(const at::Tensor& x, const BatchNormImpl& layer, bool update) {
  return at::batch_norm(x, layer.weight, layer.bias, update ? layer.running_mean : at::Tensor(),
                        update ? layer.running_var : at::Tensor(), /*training=*/true,
                        layer.momentum(), layer.eps(), /*cudnn_enabled=*/true);
}

at::Tensor WithRunningStatistics(const at::Tensor& x, const BatchNormImpl& layer) {
  return at::batch_norm(x, layer.weight, layer.bias, layer.running_mean, layer.running_var,
                        /*training=*/false, layer.momentum(), layer.eps(), /*cudnn_enabled=*/true);
}

}  // namespace

BatchNormImpl::BatchNormImpl(int64_t channels, const config::v1::Norm& norm)
    : synchronised_(norm.type() == config::v1::NORM_TYPE_SYNC_BN),
      norm_eval_(norm.norm_eval()),
      momentum_(norm.momentum()),
      eps_(norm.eps()) {
  weight = register_parameter("weight", at::ones({channels}));
  bias = register_parameter("bias", at::zeros({channels}));
  running_mean = register_buffer("running_mean", at::zeros({channels}));
  running_var = register_buffer("running_var", at::ones({channels}));
  num_batches_tracked = register_buffer("num_batches_tracked", at::zeros({}, at::kLong));
}

std::vector<at::Tensor> BatchNormGroup(const std::vector<at::Tensor>& inputs,
                                       const std::vector<BatchNorm>& modules,
                                       const NormContext& context) {
  TORCH_CHECK(!modules.empty() && inputs.size() == modules.size(), "a group of ", modules.size(),
              " BatchNorm layers got ", inputs.size(), " inputs");
  const bool training = modules[0]->uses_batch_statistics();
  const bool replaying = context.tape != nullptr && context.tape->replaying();
  std::vector<at::Tensor> outputs;
  if (training && modules[0]->synchronised()) {
    std::vector<SyncBatchNormInput> layers;
    for (size_t i = 0; i < modules.size(); ++i) {
      const BatchNormImpl& m = *modules[i];
      layers.push_back(
          {inputs[i], m.weight, m.bias, m.running_mean, m.running_var, m.momentum(), m.eps()});
    }
    outputs = SyncBatchNorm(layers, context.communicator, context.tape);
  } else {
    for (size_t i = 0; i < modules.size(); ++i) {
      // Without an element there are no statistics to take; the running ones make the empty result.
      // A second pass takes them again, which costs no collective.
      outputs.push_back(training && inputs[i].numel() > 0
                            ? WithBatchStatistics(inputs[i], *modules[i], /*update=*/!replaying)
                            : WithRunningStatistics(inputs[i], *modules[i]));
    }
  }
  if (training && !replaying) {
    torch::NoGradGuard no_grad;
    for (const BatchNorm& m : modules) m->num_batches_tracked.add_(1);
  }
  return outputs;
}

}  // namespace muster::model
