#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/model/batch.h"
#include "worker/ops/anchors.h"
#include "worker/ops/assigner.h"
#include "worker/ops/candidate_sampler.h"
#include "worker/ops/losses.h"

namespace muster::model {

// One entry a level; A = anchors per cell. Float32 or wider.
struct RpnOutput {
  std::vector<at::Tensor> cls;  // (N, A, h, w): logit of "object"
  std::vector<at::Tensor> reg;  // (N, 4 A, h, w): deltas, four consecutive channels an anchor
};

// Which anchors of one image are trained. Indices count the anchors of all levels, concatenated.
struct RpnImageSamples {
  std::vector<int64_t> inside;  // anchors that take part; the two below index into it
  ops::Assignment assignment;
  ops::Sampled sampled;
  at::Tensor positive_targets;  // (positives, 4) float32: encoded ground truth
};

// Best score first.
struct Proposals {
  at::Tensor boxes;   // (P, 4)
  at::Tensor scores;  // (P)
};

class RPNHeadImpl : public torch::nn::Module {
 public:
  RPNHeadImpl(const config::v1::RPNHead& config, ops::BoxConvention convention,
              int64_t in_channels);

  RpnOutput forward(const std::vector<at::Tensor>& features);

  // Assigns and samples one image's anchors; on the CPU, in float32.
  RpnImageSamples SampleAnchors(const std::vector<at::Tensor>& features,
                                const ImageTargets& targets, ops::IndexSampler& sampler);

  // Scalars: the sums over sampled anchors, level by level, over one divisor for the batch: the sum
  // over images of max(positives, 1) + max(negatives, 1).
  struct Losses {
    std::vector<at::Tensor> cls;  // one a level
    std::vector<at::Tensor> reg;
  };
  Losses Loss(const RpnOutput& output, const std::vector<RpnImageSamples>& samples) const;

  // Proposals of image `image`, clipped to image_h x image_w; records no gradient.
  Proposals Propose(const RpnOutput& output, int64_t image, int image_h, int image_w,
                    const config::v1::Proposals& config);

  const config::v1::Proposals& train_proposals() const { return config_.train_proposals(); }
  const config::v1::Proposals& test_proposals() const { return config_.test_proposals(); }

 private:
  std::vector<int64_t> InsideAnchors(const std::vector<at::Tensor>& features,
                                     const at::Tensor& anchors, const ImageTargets& targets) const;

  config::v1::RPNHead config_;
  ops::BoxConvention convention_;
  ops::AnchorGenerator anchors_;
  torch::nn::Conv2d conv_{nullptr};
  torch::nn::Conv2d cls_{nullptr};
  torch::nn::Conv2d reg_{nullptr};
};
TORCH_MODULE(RPNHead);

}  // namespace muster::model
