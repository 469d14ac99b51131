#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/dist/communicator.h"
#include "worker/model/statistics_tape.h"

namespace muster::model {

// Batch normalisation over (N, H, W) of each channel. In training with NORM_TYPE_BN the statistics
// are the rank's own, with NORM_TYPE_SYNC_BN those of all ranks; with norm_eval, and in evaluation,
// the running ones. Parameters and buffers are named as torch.nn.BatchNorm2d's.
class BatchNormImpl : public torch::nn::Module {
 public:
  BatchNormImpl(int64_t channels, const config::v1::Norm& norm);

  // Whether the next forward takes its statistics from the batch.
  bool uses_batch_statistics() const { return is_training() && !norm_eval_; }
  bool synchronised() const { return synchronised_; }
  bool norm_eval() const { return norm_eval_; }
  double momentum() const { return momentum_; }
  double eps() const { return eps_; }

  at::Tensor weight;               // (C)
  at::Tensor bias;                 // (C)
  at::Tensor running_mean;         // (C)
  at::Tensor running_var;          // (C)
  at::Tensor num_batches_tracked;  // int64 scalar

 private:
  bool synchronised_;
  bool norm_eval_;
  double momentum_;
  double eps_;
};
TORCH_MODULE(BatchNorm);

// Where statistics of the batch come from.
struct NormContext {
  // The group of SYNC_BN; null: this process only.
  dist::Communicator* communicator = nullptr;
  // Null: statistics are taken and not kept.
  StatisticsTape* tape = nullptr;
};

// Normalises inputs[i] (N, C, H, W) with modules[i]: the layers at one depth of parallel branches,
// which share one collective forward and one backward. The modules are of one network, so of one
// type and mode. Inputs may be bfloat16 while the modules are float32: statistics and arithmetic
// are float32 or wider, and an output has its input's type.
std::vector<at::Tensor> BatchNormGroup(const std::vector<at::Tensor>& inputs,
                                       const std::vector<BatchNorm>& modules,
                                       const NormContext& context);

}  // namespace muster::model
