#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/model/backbone.h"

namespace muster::model {

// ResNet (He et al. 2016) of bottleneck blocks, the stride in their 3x3 convolution. The stem and
// the first `frozen_stages` stages have parameters that need no gradient (the stem from 0 on, as in
// mmdetection).
class ResNetImpl : public Backbone {
 public:
  // The configs have been through ApplyDefaults.
  ResNetImpl(const config::v1::ResNet& config, const config::v1::Norm& norm,
             bool activation_checkpointing);

  std::vector<at::Tensor> forward(const at::Tensor& images) override;
  std::vector<int64_t> out_channels() const override;
  // Frozen stages that take their statistics from the batch have theirs forward alone.
  Collectives SyncBatchNormCollectives() const override;

 private:
  struct Stage {
    std::vector<Bottleneck> blocks;
    bool frozen = false;
  };

  ConvNorm stem_;
  bool stem_frozen_ = false;
  std::vector<Stage> stages_;
};

}  // namespace muster::model
