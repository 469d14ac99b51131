#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/model/batch.h"
#include "worker/ops/assigner.h"
#include "worker/ops/boxes.h"
#include "worker/ops/candidate_sampler.h"
#include "worker/ops/roi_align.h"

namespace muster::model {

// R regions; C foreground classes. Float32 or wider.
struct RoiOutput {
  at::Tensor cls_score;  // (R, C + 1) before softmax; the background is last
  at::Tensor bbox_pred;  // (R, 4 C): deltas of each class
};

// The regions of one image that are trained: positives, then negatives.
struct RoiImageSamples {
  at::Tensor boxes;             // (S, 4), of the proposals' dtype, on the CPU
  at::Tensor labels;            // (S) int64; num_classes for negatives
  at::Tensor positive_targets;  // (positives, 4): encoded ground truth
  // Over [ground truth boxes, then proposals].
  ops::Assignment assignment;
  ops::Sampled sampled;
};

// The branch of two fully connected layers; named bbox_head.* under the RoI head.
class RoIHeadImpl : public torch::nn::Module {
 public:
  // feature_strides: of all levels of the neck; regions are pooled from the first four.
  RoIHeadImpl(const config::v1::RoIHead& config, ops::BoxConvention convention, int64_t in_channels,
              int64_t num_classes, const std::vector<int64_t>& feature_strides);

  // rois (R, 5): image index and box, of the features' device and dtype (float32 for bfloat16).
  RoiOutput forward(const std::vector<at::Tensor>& features, const at::Tensor& rois);

  // The pooled features (R, channels, side, side).
  at::Tensor Pool(const std::vector<at::Tensor>& features, const at::Tensor& rois) const;

  // proposals (P, 4) of one image, on any device.
  RoiImageSamples SampleRegions(const at::Tensor& proposals, const ImageTargets& targets,
                                ops::IndexSampler& sampler) const;

  struct Losses {
    at::Tensor cls;   // scalar: cross entropy / regions
    at::Tensor bbox;  // scalar: regression of the positives' own class / regions
  };
  Losses Loss(const RoiOutput& output, const std::vector<RoiImageSamples>& samples) const;

  // Detections among one image's regions (R, 5); records no gradient.
  Detections Detect(const at::Tensor& rois, const RoiOutput& output,
                    const PredictImage& image) const;

  // Stacks one image's boxes after another as (R, 5).
  static at::Tensor ToRois(const std::vector<at::Tensor>& boxes_of_images);

 private:
  config::v1::RoIHead config_;
  ops::BoxConvention convention_;
  int64_t num_classes_;
  std::vector<double> spatial_scales_;
  ops::RoiAlignParameters pooling_;
  torch::nn::Linear fc_cls_{nullptr};
  torch::nn::Linear fc_reg_{nullptr};
  torch::nn::Linear shared1_{nullptr};
  torch::nn::Linear shared2_{nullptr};
};
TORCH_MODULE(RoIHead);

}  // namespace muster::model
