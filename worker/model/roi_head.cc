#include "worker/model/roi_head.h"

#include <torch/torch.h>

#include <algorithm>

#include "worker/model/autocast.h"
#include "worker/model/blocks.h"
#include "worker/model/config_options.h"
#include "worker/ops/losses.h"
#include "worker/ops/nms.h"

namespace muster::model {
namespace {

constexpr std::array<double, 4> kDeltaStds = {0.1, 0.1, 0.2, 0.2};
constexpr size_t kPooledLevels = 4;

ops::RoiAlignParameters PoolingOf(const config::v1::RoIHead& config,
                                  ops::BoxConvention convention) {
  ops::RoiAlignParameters parameters;
  parameters.pooled_size = static_cast<int>(config.roi_feat_size());
  parameters.sampling_ratio = static_cast<int>(config.sampling_ratio());
  parameters.offset = config.aligned() ? 0.5 : 0.0;
  // Unaligned regions are at least one cell in mmdetection 3, and were not in 0.6.
  parameters.minimum_size =
      !config.aligned() && convention == ops::BoxConvention::kMmdet3 ? 1.0 : 0.0;
  return parameters;
}

at::Tensor IndexTensor(const std::vector<int64_t>& indices) {
  return at::tensor(indices, at::kLong);
}

}  // namespace

RoIHeadImpl::RoIHeadImpl(const config::v1::RoIHead& config, ops::BoxConvention convention,
                         int64_t in_channels, int64_t num_classes,
                         const std::vector<int64_t>& feature_strides)
    : config_(config),
      convention_(convention),
      num_classes_(num_classes),
      pooling_(PoolingOf(config, convention)) {
  for (size_t i = 0; i < std::min(kPooledLevels, feature_strides.size()); ++i) {
    spatial_scales_.push_back(1.0 / static_cast<double>(feature_strides[i]));
  }
  const int64_t side = config.roi_feat_size();
  const int64_t hidden = config.fc_out_channels();
  fc_cls_ = torch::nn::Linear(hidden, num_classes + 1);
  fc_reg_ = torch::nn::Linear(hidden, 4 * num_classes);
  shared1_ = torch::nn::Linear(in_channels * side * side, hidden);
  shared2_ = torch::nn::Linear(hidden, hidden);
  RegisterAt(*this, "bbox_head.fc_cls", fc_cls_.ptr());
  RegisterAt(*this, "bbox_head.fc_reg", fc_reg_.ptr());
  RegisterAt(*this, "bbox_head.shared_fcs.0", shared1_.ptr());
  RegisterAt(*this, "bbox_head.shared_fcs.1", shared2_.ptr());
}

at::Tensor RoIHeadImpl::ToRois(const std::vector<at::Tensor>& boxes_of_images) {
  std::vector<at::Tensor> rois;
  for (size_t i = 0; i < boxes_of_images.size(); ++i) {
    const at::Tensor& boxes = boxes_of_images[i];
    rois.push_back(
        at::cat({at::full({boxes.size(0), 1}, static_cast<double>(i), boxes.options()), boxes}, 1));
  }
  return at::cat(rois);
}

at::Tensor RoIHeadImpl::Pool(const std::vector<at::Tensor>& features,
                             const at::Tensor& rois) const {
  std::vector<at::Tensor> pooled;
  for (size_t i = 0; i < spatial_scales_.size(); ++i) {
    pooled.push_back(AtLeastFloat32(features[i]));
  }
  return ops::RoiAlign(pooled, rois, ops::RoiLevels(rois, static_cast<int64_t>(pooled.size())),
                       spatial_scales_, pooling_);
}

RoiOutput RoIHeadImpl::forward(const std::vector<at::Tensor>& features, const at::Tensor& rois) {
  at::Tensor x = Pool(features, rois).flatten(1);
  x = at::relu(shared1_->forward(x));
  x = at::relu(shared2_->forward(x));
  return {AtLeastFloat32(fc_cls_->forward(x)), AtLeastFloat32(fc_reg_->forward(x))};
}

RoiImageSamples RoIHeadImpl::SampleRegions(const at::Tensor& proposals, const ImageTargets& targets,
                                           ops::IndexSampler& sampler) const {
  torch::NoGradGuard no_grad;
  const at::Tensor candidates = proposals.cpu();
  RoiImageSamples result;
  result.assignment = ops::AssignMaxIoU(candidates, targets.gt_bboxes, targets.gt_bboxes_ignore,
                                        OptionsOf(config_.assigner()));
  at::Tensor boxes = candidates;
  const int64_t num_gt = targets.gt_bboxes.size(0);
  if (config_.sampler().add_gt_as_proposals() && num_gt > 0) {
    boxes = at::cat({targets.gt_bboxes.to(candidates.scalar_type()), candidates});
    std::vector<int64_t>& gt_index = result.assignment.gt_index;
    gt_index.insert(gt_index.begin(), static_cast<size_t>(num_gt), 0);
    for (int64_t g = 0; g < num_gt; ++g) gt_index[static_cast<size_t>(g)] = g + 1;
    at::Tensor& overlaps = result.assignment.max_overlaps;
    overlaps = at::cat({at::ones({num_gt}, overlaps.options()), overlaps});
  }
  result.sampled = ops::SampleCandidates(result.assignment.gt_index, OptionsOf(config_.sampler()),
                                         sampler, targets.sample_id, "rcnn");
  std::vector<int64_t> truth;
  for (const int64_t i : result.sampled.positive) {
    truth.push_back(result.assignment.gt_index[static_cast<size_t>(i)] - 1);
  }
  const at::Tensor positive = boxes.index_select(0, IndexTensor(result.sampled.positive));
  const at::Tensor negative = boxes.index_select(0, IndexTensor(result.sampled.negative));
  const at::Tensor truth_index = IndexTensor(truth);
  result.boxes = at::cat({positive, negative});
  result.labels = at::cat({targets.gt_labels.index_select(0, truth_index),
                           at::full({negative.size(0)}, num_classes_, at::kLong)});
  result.positive_targets =
      ops::EncodeBoxes(positive, targets.gt_bboxes.index_select(0, truth_index), kDeltaStds);
  return result;
}

RoIHeadImpl::Losses RoIHeadImpl::Loss(const RoiOutput& output,
                                      const std::vector<RoiImageSamples>& samples) const {
  const at::Device device = output.cls_score.device();
  std::vector<at::Tensor> labels{at::empty({0}, at::kLong)};
  std::vector<at::Tensor> targets;
  // Rows of bbox_pred seen as (R C, 4): each positive's own class.
  std::vector<int64_t> rows;
  int64_t region = 0;
  for (const RoiImageSamples& image : samples) {
    labels.push_back(image.labels);
    targets.push_back(image.positive_targets);
    const int64_t* label = image.labels.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < image.positive_targets.size(0); ++i) {
      rows.push_back((region + i) * num_classes_ + label[i]);
    }
    region += image.labels.size(0);
  }
  const at::Tensor predicted =
      output.bbox_pred.reshape({-1, 4}).index_select(0, IndexTensor(rows).to(device));
  const at::Tensor target =
      targets.empty() ? at::empty({0, 4}, predicted.options()) : at::cat(targets).to(device);
  const auto count = static_cast<double>(region);
  return {
      ops::CrossEntropySum(output.cls_score, at::cat(labels).to(device)) /
          ops::AverageFactor(std::max(count, 1.0)),
      ops::RegressionSum(predicted, target, LossOf(config_.loss_bbox()), config_.smooth_l1_beta()) /
          ops::AverageFactor(count)};
}

Detections RoIHeadImpl::Detect(const at::Tensor& rois, const RoiOutput& output,
                               const PredictImage& image) const {
  torch::NoGradGuard no_grad;
  const at::Tensor probabilities =
      at::softmax(output.cls_score, 1).slice(1, 0, num_classes_).reshape({-1});
  const at::Tensor chosen = (probabilities > config_.score_thr()).nonzero().select(1, 0);
  const at::Tensor labels = chosen.remainder(num_classes_);
  const at::Tensor region = chosen.div(num_classes_, "floor");
  const at::Tensor scores = probabilities.index_select(0, chosen);
  at::Tensor boxes = ops::DecodeBoxes(rois.slice(1, 1, 5).index_select(0, region),
                                      output.bbox_pred.reshape({-1, 4}).index_select(0, chosen),
                                      kDeltaStds, image.img_h, image.img_w, convention_);
  // Before NMS, as mmdetection does; a product with the reciprocal rather than a quotient,
  // likewise.
  const double to_original[] = {1.0 / image.scale_w, 1.0 / image.scale_h, 1.0 / image.scale_w,
                                1.0 / image.scale_h};
  boxes = boxes * at::tensor(at::ArrayRef<double>(to_original), boxes.options());
  const double threshold = config_.nms_iou_threshold();
  const at::Tensor kept =
      (config_.class_agnostic_nms() ? ops::Nms(boxes, scores, threshold)
                                    : ops::BatchedNms(boxes, scores, labels, threshold))
          .slice(0, 0, static_cast<int64_t>(config_.max_per_img()));
  return {boxes.index_select(0, kept), scores.index_select(0, kept), labels.index_select(0, kept)};
}

}  // namespace muster::model
