#pragma once

#include <torch/types.h>

#include <string>
#include <utility>
#include <vector>

#include "worker/checkpoint/value.h"

namespace muster::train {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// The tensor on the CPU; it shares the storage's memory and keeps it alive.
at::Tensor ToTorch(const checkpoint::Tensor& tensor);
NamedTensors ToTorch(const checkpoint::NamedTensors& tensors);

// A contiguous copy on the CPU, or the tensor's own memory when it is that already. Throws for an
// element type that checkpoints do not have.
checkpoint::Tensor FromTorch(const at::Tensor& tensor);

}  // namespace muster::train
