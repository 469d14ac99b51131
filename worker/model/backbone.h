#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <vector>

#include "worker/model/activation_checkpoint.h"
#include "worker/model/blocks.h"

namespace muster::model {

// The convolutional network that an image enters: HRNet or ResNet.
class Backbone : public torch::nn::Module {
 public:
  // Collectives of synchronised BatchNorm in one training step.
  struct Collectives {
    int64_t forward = 0;
    int64_t backward = 0;
  };

  // activation_checkpointing: in training, blocks keep only their inputs and are computed again in
  // the backward pass.
  explicit Backbone(bool activation_checkpointing)
      : activation_checkpointing_(activation_checkpointing) {}

  // images (N, 3, H, W) -> maps of strides 4, 8, 16, 32.
  virtual std::vector<at::Tensor> forward(const at::Tensor& images) = 0;

  // Of the maps.
  virtual std::vector<int64_t> out_channels() const = 0;
  virtual Collectives SyncBatchNormCollectives() const = 0;

  // The group that SYNC_BN layers normalise over; null: this process only.
  void SetSyncBatchNormCommunicator(dist::Communicator* communicator) {
    communicator_ = communicator;
  }

 protected:
  // For layers outside of blocks.
  NormContext norms() const { return {communicator_, nullptr}; }

  // Runs a block that is made of `layers` and nothing else that learns; `block` is called again in
  // the backward pass when checkpointing is on, and must hold nothing that dies before the model.
  std::vector<at::Tensor> RunBlock(const NetworkPart& block, const std::vector<at::Tensor>& inputs,
                                   const std::vector<ConvNorm>& layers) const;

 private:
  bool activation_checkpointing_;
  dist::Communicator* communicator_ = nullptr;
};

}  // namespace muster::model
