#pragma once

#include <torch/types.h>

#include <functional>
#include <vector>

#include "worker/dist/communicator.h"
#include "worker/model/batch_norm.h"

namespace muster::model {

// A part of a network: a function of its inputs that draws no random numbers and hands `norms` to
// its normalisations.
using NetworkPart = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs,
                                                          const NormContext& norms)>;

// Runs `part` and keeps its inputs alone; backward runs it a second time, with the batch statistics
// of the first (StatisticsTape), and then backpropagates. Outputs and gradients are those of a
// plain run, and so are the collectives: one for each group of SYNC_BN forward and one backward, in
// the same order on every rank. `parameters`: everything that `part` uses and that learns; their
// gradients arrive through autograd's ordinary way, where the gradient reducer waits for them.
// Autocast is in the second pass as it was in the first. `part` is called again during backward, so
// what it refers to must live until then.
std::vector<at::Tensor> RunCheckpointed(const NetworkPart& part,
                                        const std::vector<at::Tensor>& inputs,
                                        const std::vector<at::Tensor>& parameters,
                                        dist::Communicator* communicator);

}  // namespace muster::model
