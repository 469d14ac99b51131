#include "worker/model/sync_batch_norm.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <string>

#include "worker/model/autocast.h"
#include "worker/model/batch_norm_kernels.h"

namespace muster::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const BatchNormKernels& KernelsFor(const at::Tensor& x) {
  return x.is_cpu() ? CpuBatchNormKernels() : AtenBatchNormKernels();
}

// All ranks' `local`, stacked in rank order.
at::Tensor Gather(const at::Tensor& local, dist::Communicator* communicator) {
  if (communicator == nullptr || communicator->size() == 1) return local.unsqueeze(0);
  return communicator->AllGather(local);
}

void CheckLayers(const std::vector<SyncBatchNormInput>& layers) {
  TORCH_CHECK(!layers.empty(), "SyncBatchNorm: no layers");
  const at::TensorOptions options = layers.front().weight.options();
  for (const SyncBatchNormInput& layer : layers) {
    TORCH_CHECK(layer.x.dim() == 4, "SyncBatchNorm: x must be (N, C, H, W), got ", layer.x.sizes());
    for (const at::Tensor& tensor :
         {layer.x, layer.weight, layer.bias, layer.running_mean, layer.running_var}) {
      if (!tensor.defined()) continue;
      const bool narrow_input = tensor.is_same(layer.x) && tensor.scalar_type() == at::kBFloat16 &&
                                options.dtype() == at::kFloat;
      TORCH_CHECK((tensor.dtype() == options.dtype() || narrow_input) &&
                      tensor.device() == options.device(),
                  "SyncBatchNorm: all tensors of a call must have one dtype and device, got ",
                  options, " and ", tensor.options());
      TORCH_CHECK(
          tensor.is_same(layer.x) || (tensor.dim() == 1 && tensor.size(0) == layer.x.size(1)),
          "SyncBatchNorm: x has ", layer.x.size(1), " channels, a parameter or statistic ",
          tensor.sizes());
    }
  }
}

void UpdateRunningStatistics(const SyncBatchNormInput& layer, const at::Tensor& mean,
                             const at::Tensor& m2, const at::Tensor& count) {
  // Where no rank has elements there is nothing to learn from: the factor is 0.
  const at::Tensor factor = (count > 0).to(at::kDouble) * layer.momentum;
  const auto update = [&](const at::Tensor& running, const at::Tensor& batch) {
    const at::Tensor old = running.to(at::kDouble);
    running.copy_(old + (batch - old) * factor);
  };
  if (layer.running_mean.defined()) update(layer.running_mean, mean);
  if (layer.running_var.defined()) update(layer.running_var, m2 / (count - 1).clamp_min(1));
}

// (3, channels of all layers): mean, M2 and count of this rank's elements.
at::Tensor LocalStatistics(const variable_list& inputs) {
  int64_t channels = 0;
  for (const at::Tensor& x : inputs) channels += x.size(1);
  at::Tensor local = at::empty({3, channels}, inputs.front().options().dtype(at::kDouble));
  int64_t begin = 0;
  for (const at::Tensor& x : inputs) {
    KernelsFor(x).statistics(x, local.narrow(1, begin, x.size(1)));
    begin += x.size(1);
  }
  return local;
}

// Inputs x, weight, bias of every layer in turn; then the layers, the communicator and the tape,
// which are no tensors.
class SyncBatchNormFunction : public torch::autograd::Function<SyncBatchNormFunction> {
 public:
  static variable_list forward(AutogradContext* context, at::TensorList tensors,
                               const std::vector<SyncBatchNormInput>& layers,
                               dist::Communicator* communicator, StatisticsTape* tape) {
    const BatchNormKernels& kernels = KernelsFor(tensors.front());
    variable_list inputs, wide;
    for (const SyncBatchNormInput& layer : layers) {
      inputs.push_back(layer.x.contiguous());
      wide.push_back(AtLeastFloat32(inputs.back()));
    }
    const bool replaying = tape != nullptr && tape->replaying();
    const at::Tensor merged =
        replaying ? tape->Next() : kernels.merge(Gather(LocalStatistics(wide), communicator));
    if (tape != nullptr && !replaying) tape->Record(merged);

    variable_list outputs, saved;
    int64_t begin = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      const SyncBatchNormInput& layer = layers[i];
      const at::Tensor statistics = merged.narrow(1, begin, layer.x.size(1));
      begin += layer.x.size(1);
      const at::Tensor mean = statistics[0];
      const at::Tensor& m2 = statistics[1];
      const at::Tensor& count = statistics[2];
      if (!replaying) UpdateRunningStatistics(layer, mean, m2, count);
      const at::Tensor inverse_std = (m2 / count.clamp_min(1) + layer.eps).rsqrt();
      outputs.push_back(kernels
                            .normalize(wide[i], mean, inverse_std * layer.weight.to(at::kDouble),
                                       layer.bias.to(at::kDouble))
                            .to(layer.x.scalar_type()));
      saved.insert(saved.end(), {inputs[i], layer.weight, at::stack({mean, inverse_std, count})});
    }
    context->save_for_backward(saved);
    // An IValue holds no plain pointer.
    context->saved_data["communicator"] = reinterpret_cast<int64_t>(communicator);
    return outputs;
  }

  static variable_list backward(AutogradContext* context, const variable_list& output_gradients) {
    const variable_list saved = context->get_saved_variables();
    auto* communicator =
        reinterpret_cast<dist::Communicator*>(context->saved_data["communicator"].toInt());
    const size_t layers = output_gradients.size();
    const BatchNormKernels& kernels = KernelsFor(saved.front());
    int64_t channels = 0;
    for (size_t i = 0; i < layers; ++i) channels += saved[3 * i].size(1);

    at::Tensor local = at::empty({2, channels}, saved[2].options());
    variable_list gradients, inputs;
    int64_t begin = 0;
    for (size_t i = 0; i < layers; ++i) {
      inputs.push_back(AtLeastFloat32(saved[3 * i]));
      const at::Tensor& x = inputs.back();
      const at::Tensor& statistics = saved[3 * i + 2];
      gradients.push_back(AtLeastFloat32(output_gradients[i].contiguous()));
      kernels.backward_sums(gradients.back(), x, statistics[0], statistics[1],
                            local.narrow(1, begin, x.size(1)));
      begin += x.size(1);
    }
    const at::Tensor total = kernels.add(Gather(local, communicator));

    variable_list results;
    begin = 0;
    for (size_t i = 0; i < layers; ++i) {
      const at::Tensor& x = inputs[i];
      const at::Tensor& weight = saved[3 * i + 1];
      const at::Tensor& statistics = saved[3 * i + 2];
      const at::Tensor inverse_std = statistics[1];
      const at::Tensor count = statistics[2].clamp_min(1);
      const at::Tensor sums = total.narrow(1, begin, x.size(1));
      const at::Tensor own = local.narrow(1, begin, x.size(1));
      begin += x.size(1);
      results.push_back(kernels
                            .backward_input(gradients[i], x, statistics[0],
                                            inverse_std * weight.to(at::kDouble), sums[0] / count,
                                            inverse_std * sums[1] / count)
                            .to(saved[3 * i].scalar_type()));
      results.push_back(own[1].to(weight.scalar_type()));
      results.push_back(own[0].to(weight.scalar_type()));
    }
    results.resize(3 * layers + 3);
    return results;
  }
};

}  // namespace

std::vector<at::Tensor> SyncBatchNorm(const std::vector<SyncBatchNormInput>& layers,
                                      dist::Communicator* communicator, StatisticsTape* tape) {
  CheckLayers(layers);
  variable_list tensors;
  for (const SyncBatchNormInput& layer : layers) {
    tensors.insert(tensors.end(), {layer.x, layer.weight, layer.bias});
  }
  return SyncBatchNormFunction::apply(at::TensorList(tensors), layers, communicator, tape);
}

}  // namespace muster::model
