#include "worker/train/sgd.h"

#include <utility>

namespace muster::train {

Sgd::Sgd(std::vector<at::Tensor> parameters, const Options& options)
    : parameters_(std::move(parameters)), options_(options), buffers_(parameters_.size()) {}

void Sgd::Step(double rate) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& parameter = parameters_[i];
    at::Tensor gradient = parameter.grad();
    TORCH_CHECK(gradient.defined(), "parameter ", i, " has no gradient");
    if (options_.weight_decay != 0) gradient = gradient.add(parameter, options_.weight_decay);
    if (options_.momentum != 0) {
      at::Tensor& buffer = buffers_[i];
      if (buffer.defined()) {
        buffer.mul_(options_.momentum).add_(gradient);
      } else {
        buffer = gradient.clone();
      }
      gradient = buffer;
    }
    parameter.add_(gradient, -rate);
  }
}

void Sgd::ZeroGradients() {
  for (const at::Tensor& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
}

void Sgd::Restore(const std::vector<at::Tensor>& buffers) {
  TORCH_CHECK(buffers.size() == parameters_.size(), "momentum of ", buffers.size(),
              " parameters for a model of ", parameters_.size());
  for (size_t i = 0; i < buffers.size(); ++i) {
    if (!buffers[i].defined()) {
      buffers_[i] = at::Tensor();
      continue;
    }
    TORCH_CHECK(buffers[i].sizes() == parameters_[i].sizes(), "momentum of parameter ", i,
                " has another shape");
    buffers_[i] = at::empty_like(parameters_[i]).copy_(buffers[i]).detach();
  }
}

double ClipGradients(const std::vector<at::Tensor>& parameters, double max_norm) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> norms;
  norms.reserve(parameters.size());
  for (const at::Tensor& parameter : parameters) norms.push_back(parameter.grad().norm());
  const double norm = at::stack(norms).norm().item<double>();
  if (max_norm > 0) {
    const double scale = max_norm / (norm + 1e-6);
    if (scale < 1) {
      for (const at::Tensor& parameter : parameters) parameter.mutable_grad().mul_(scale);
    }
  }
  return norm;
}

}  // namespace muster::train
