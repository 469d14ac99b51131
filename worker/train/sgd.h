#pragma once

#include <torch/types.h>

#include <vector>

namespace muster::train {

// Stochastic gradient descent with momentum and weight decay, to the bit as torch.optim.SGD without
// dampening and Nesterov: d = grad + weight_decay * p; buffer = d in the first step, then
// momentum * buffer + d; p -= rate * buffer.
class Sgd {
 public:
  struct Options {
    double momentum = 0.9;
    double weight_decay = 1e-4;
  };

  // The parameters (leaves) are updated in place.
  Sgd(std::vector<at::Tensor> parameters, const Options& options);

  // Every parameter must have a gradient.
  void Step(double rate);

  // Drops the gradients.
  void ZeroGradients();

  const std::vector<at::Tensor>& parameters() const { return parameters_; }
  const Options& options() const { return options_; }
  // One for each parameter; undefined before the first step.
  const std::vector<at::Tensor>& momentum_buffers() const { return buffers_; }
  // Takes saved buffers, of the parameters' shapes, over by copy.
  void Restore(const std::vector<at::Tensor>& buffers);

 private:
  const std::vector<at::Tensor> parameters_;
  const Options options_;
  std::vector<at::Tensor> buffers_;
};

// Scales all gradients down so that their L2 norm taken together is at most max_norm (0: never), as
// torch.nn.utils.clip_grad_norm_ does. Returns the norm before.
double ClipGradients(const std::vector<at::Tensor>& parameters, double max_norm);

}  // namespace muster::train
