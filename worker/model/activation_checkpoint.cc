#include "worker/model/activation_checkpoint.h"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include "worker/model/autocast.h"

namespace muster::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What the second pass needs besides the inputs.
struct Recomputation : torch::CustomClassHolder {
  NetworkPart part;
  std::vector<bool> input_learns;
  std::vector<at::Tensor> parameters;
  dist::Communicator* communicator = nullptr;
  StatisticsTape tape;
  bool autocast = false;
};

// Autocast remembers its copy of a parameter for the next use. A copy that was made in the first
// pass, which records no gradient, would cut the second one off from the parameter.
class NoAutocastCache {
 public:
  NoAutocastCache() : was_enabled_(at::autocast::is_autocast_cache_enabled()) {
    at::autocast::set_autocast_cache_enabled(false);
  }
  ~NoAutocastCache() { at::autocast::set_autocast_cache_enabled(was_enabled_); }
  NoAutocastCache(const NoAutocastCache&) = delete;
  NoAutocastCache& operator=(const NoAutocastCache&) = delete;

 private:
  const bool was_enabled_;
};

// Inputs: the part's, then its parameters; then the recomputation, which is no tensor.
class CheckpointFunction : public torch::autograd::Function<CheckpointFunction> {
 public:
  // Gradients are not recorded in here.
  static variable_list forward(AutogradContext* context, at::TensorList tensors,
                               const c10::intrusive_ptr<Recomputation>& again) {
    const NoAutocastCache no_cache;
    const variable_list inputs = tensors.slice(0, tensors.size() - again->parameters.size()).vec();
    context->save_for_backward(inputs);
    context->saved_data["again"] = at::IValue::make_capsule(again);
    return again->part(inputs, {again->communicator, &again->tape});
  }

  static variable_list backward(AutogradContext* context, const variable_list& output_gradients) {
    const auto again =
        c10::static_intrusive_pointer_cast<Recomputation>(context->saved_data["again"].toCapsule());
    variable_list inputs;
    for (const at::Tensor& saved : context->get_saved_variables()) {
      inputs.push_back(saved.detach().requires_grad_(again->input_learns[inputs.size()]));
    }
    variable_list outputs;
    {
      const at::AutoGradMode record(true);
      const AutocastGuard autocast(inputs.front().device().type(), again->autocast);
      const NoAutocastCache no_cache;
      again->tape.Rewind();
      outputs = again->part(inputs, {again->communicator, &again->tape});
    }
    variable_list sources = inputs;
    sources.insert(sources.end(), again->parameters.begin(), again->parameters.end());
    variable_list wanted;
    for (const at::Tensor& source : sources) {
      if (source.requires_grad()) wanted.push_back(source);
    }
    const variable_list found = torch::autograd::grad(outputs, wanted, output_gradients);
    variable_list results;
    size_t next = 0;
    for (const at::Tensor& source : sources) {
      results.push_back(source.requires_grad() ? found[next++] : at::Tensor());
    }
    results.emplace_back();
    return results;
  }
};

}  // namespace

std::vector<at::Tensor> RunCheckpointed(const NetworkPart& part,
                                        const std::vector<at::Tensor>& inputs,
                                        const std::vector<at::Tensor>& parameters,
                                        dist::Communicator* communicator) {
  TORCH_CHECK(!inputs.empty(), "a checkpointed part needs an input");
  const auto again = c10::make_intrusive<Recomputation>();
  again->part = part;
  for (const at::Tensor& input : inputs) again->input_learns.push_back(input.requires_grad());
  again->parameters = parameters;
  again->communicator = communicator;
  again->autocast = at::autocast::is_autocast_enabled(inputs.front().device().type());
  variable_list tensors = inputs;
  tensors.insert(tensors.end(), parameters.begin(), parameters.end());
  return CheckpointFunction::apply(at::TensorList(tensors), again);
}

}  // namespace muster::model
