#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/model/blocks.h"

namespace muster::model {

// HRNetV2 (Wang et al. 2019, "Deep High-Resolution Representation Learning for Visual
// Recognition"): branches of halving resolution and doubling width that run side by side and
// exchange features. The branches run in lockstep, so that BatchNorms of one depth form one group
// (BatchNormGroup).
class HRNetImpl : public torch::nn::Module {
 public:
  // `config` and `norm` have been through ApplyDefaults.
  HRNetImpl(const config::v1::HRNet& config, const config::v1::Norm& norm);

  void SetSyncBatchNormCommunicator(dist::Communicator* communicator) {
    communicator_ = communicator;
  }

  // images (N, 3, H, W), H and W multiples of 32 -> maps of strides 4, 8, 16, 32.
  std::vector<at::Tensor> forward(const at::Tensor& images);

  std::vector<int64_t> out_channels() const { return out_channels_; }
  // Groups of one forward pass, so collectives of SYNC_BN in each direction.
  int64_t num_norm_groups() const;

 private:
  struct Bottleneck {
    ConvNorm reduce, spatial, expand;
    std::optional<ConvNorm> downsample;
  };
  struct BasicBlock {
    ConvNorm first, second;
  };
  // Branch j's way into output i: one layer (j > i, then upsampled) or i - j strided ones.
  struct FuseChain {
    size_t from, to;
    std::vector<ConvNorm> layers;
  };
  struct HRModule {
    std::vector<std::vector<BasicBlock>> blocks;  // [depth][branch]
    std::vector<FuseChain> chains;
  };
  // What feeds one branch of a stage.
  struct Transition {
    size_t from;
    std::optional<ConvNorm> layer;
  };
  struct Stage {
    std::vector<Transition> transitions;
    std::vector<HRModule> modules;
  };

  void MakeLayer1(const config::v1::HRNetStage& config, const config::v1::Norm& norm,
                  int64_t in_channels);
  Stage MakeStage(int number, const config::v1::HRNetStage& config, const config::v1::Norm& norm,
                  const std::vector<int64_t>& in_channels);
  HRModule MakeModule(const std::string& prefix, const std::vector<int64_t>& channels,
                      int64_t num_blocks, const config::v1::Norm& norm);
  at::Tensor RunBottleneck(const at::Tensor& x, const Bottleneck& block) const;
  std::vector<at::Tensor> RunTransitions(const std::vector<at::Tensor>& x,
                                         const Stage& stage) const;
  std::vector<at::Tensor> RunModule(std::vector<at::Tensor> x, const HRModule& module) const;
  std::vector<at::Tensor> RunFuse(const std::vector<at::Tensor>& x, const HRModule& module) const;

  ConvNorm stem1_, stem2_;
  std::vector<Bottleneck> layer1_;
  std::vector<Stage> stages_;
  std::vector<int64_t> out_channels_;
  dist::Communicator* communicator_ = nullptr;
};
TORCH_MODULE(HRNet);

}  // namespace muster::model
