#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/model/backbone.h"

namespace muster::model {

// HRNetV2 (Wang et al. 2019, "Deep High-Resolution Representation Learning for Visual
// Recognition"): branches of halving resolution and doubling width that run side by side and
// exchange features. The branches run in lockstep, so that BatchNorms of one depth form one group
// (BatchNormGroup).
class HRNetImpl : public Backbone {
 public:
  // `config` and `norm` have been through ApplyDefaults.
  HRNetImpl(const config::v1::HRNet& config, const config::v1::Norm& norm,
            bool activation_checkpointing);

  // The images' sides must be multiples of 32.
  std::vector<at::Tensor> forward(const at::Tensor& images) override;
  std::vector<int64_t> out_channels() const override { return out_channels_; }
  Collectives SyncBatchNormCollectives() const override;

 private:
  // A residual block of two 3x3 convolutions on every branch, run in lockstep.
  struct BasicBlocks {
    std::vector<ConvNorm> first, second;  // one a branch
  };
  // Branch j's way into output i: one layer (j > i, then upsampled) or i - j strided ones.
  struct FuseChain {
    size_t from, to;
    std::vector<ConvNorm> layers;
  };
  struct HRModule {
    std::vector<BasicBlocks> blocks;
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
  at::Tensor RunStem(const at::Tensor& images) const;
  std::vector<at::Tensor> RunTransitions(const std::vector<at::Tensor>& x,
                                         const Stage& stage) const;
  std::vector<at::Tensor> RunModule(std::vector<at::Tensor> x, const HRModule& module) const;
  static std::vector<at::Tensor> RunBasicBlocks(const std::vector<at::Tensor>& x,
                                                const BasicBlocks& blocks,
                                                const NormContext& context);
  static std::vector<at::Tensor> RunFuse(const std::vector<at::Tensor>& x, const HRModule& module,
                                         const NormContext& context);

  ConvNorm stem1_, stem2_;
  std::vector<Bottleneck> layer1_;
  std::vector<Stage> stages_;
  std::vector<int64_t> out_channels_;
};

}  // namespace muster::model
