#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "muster/v1/checkpoint.pb.h"
#include "worker/checkpoint/value.h"
#include "worker/train/sgd.h"
#include "worker/train/torch_tensors.h"

namespace muster::train {

// Where training stands, besides the tensors.
struct TrainingPosition {
  int64_t step = 0;  // steps done
  int epoch = 0;     // epochs completed
  // Chunks of the running epoch that are consumed (data::EpochPlan), and what they were cut by; 0
  // in a checkpoint from before it was kept.
  int64_t cursor = 0;
  int64_t images_per_rank = 0;
  // The warm-up goes on in images when a run is resumed with another batch: images of all steps,
  // counted as whole ones, and of one step of the run that started the job.
  int64_t images = 0;
  int64_t first_images_per_step = 0;
  int world_size = 1;
  int64_t generation = 0;
  // What this generation was resumed from; 0, 0 for a fresh start.
  int64_t parent_generation = 0;
  int64_t parent_step = 0;
};

// Everything that training needs to go on, copied at one step.
struct Snapshot {
  TrainingPosition position;
  uint64_t seed = 0;
  std::vector<std::string> classes;
  NamedTensors model;  // parameters and buffers, as Python's state_dict orders them
  Sgd::Options optimizer;
  double learning_rate = 0;
  std::vector<at::Tensor> momentum;  // in the parameters' order; undefined before the first step
  std::string digest;                // of model and momentum
};

// Parameters and buffers under the names, and in the order, of Python's Module.state_dict().
NamedTensors StateDict(const torch::nn::Module& module);

// Copies the module's and the optimizer's tensors (to the CPU) and computes the digest.
Snapshot TakeSnapshot(const torch::nn::Module& module, const Sgd& sgd,
                      const TrainingPosition& position);

// SHA-256, in hexadecimal, of names, shapes and bytes of all tensors.
std::string Digest(const NamedTensors& model, const std::vector<at::Tensor>& momentum);

// The checkpoint as mmdetection writes it: {'meta', 'state_dict', 'optimizer'}; what only Muster
// knows is in meta['muster'].
checkpoint::Value ToValue(const Snapshot& snapshot);
// InvalidArgument says what is missing; `name` stands for the file.
absl::StatusOr<Snapshot> FromValue(const checkpoint::Value& value, const std::string& name);

// Copies tensors into the module by name. Names and shapes must be the same: the error lists the
// first ten that are not. `name` stands for the file.
absl::Status LoadStateDict(const NamedTensors& tensors, const std::string& name,
                           torch::nn::Module& module);

// What other programs may know of a checkpoint.
v1::Checkpoint Describe(const Snapshot& snapshot, const std::string& job, const std::string& file);

}  // namespace muster::train
