#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "worker/checkpoint/value.h"

// Checkpoint files made byte by byte, right ones and wrong ones, without LibTorch.
namespace muster::testing {

// A tensor with memory of its own: elements 0, 1, 2, ... of type float32, int64 or uint8.
checkpoint::Tensor CountingTensor(std::vector<int64_t> shape,
                                  checkpoint::ElementType type = checkpoint::ElementType::kFloat32);

// Name and bytes.
using Record = std::pair<std::string, std::string>;

// PyTorch's zip container, records stored.
std::string PthOfRecords(const std::vector<Record>& records);

// What torch.save(value) makes since PyTorch 1.6.
std::string PthOf(const checkpoint::Value& value);

// What it made before.
std::string OldPthOf(const checkpoint::Value& value);

// An empty dict: a whole checkpoint to whoever does not look at its tensors.
std::string SmallestPth();

}  // namespace muster::testing
