// Samples, their targets and the losses: what the heads make of ground truth.

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>

#include "tests/support/training_checks.h"
#include "worker/ops/anchors.h"

namespace muster::testing {
namespace {

constexpr size_t kLevels = 5;

at::Tensor ToTensor(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

at::Tensor Leaf(const at::Tensor& reference) { return reference.clone().requires_grad_(true); }

}  // namespace

void TrainingChecks::CheckSampled(const std::string& kind, size_t image,
                                  const ops::Assignment& assignment, const ops::Sampled& sampled) {
  const Comparison compare(0);
  const std::string prefix = kind + ".img" + std::to_string(image) + ".";
  const auto check = [&](const char* field, const at::Tensor& actual) {
    compare.CheckEqual(prefix + field, actual, OfImage(kind, image, field));
  };
  check("assigned_gt_inds", ToTensor(assignment.gt_index));
  // An image without ground truth has none of the proposals' type in mmdetection: zeros.
  check("max_overlaps",
        assignment.max_overlaps.to(OfImage(kind, image, "max_overlaps").scalar_type()));
  check("pos_inds", ToTensor(sampled.positive));
  check("neg_inds", ToTensor(sampled.negative));
  check("avg_factor",
        at::scalar_tensor(static_cast<int64_t>(std::max<size_t>(sampled.positive.size(), 1) +
                                               std::max<size_t>(sampled.negative.size(), 1)),
                          at::kLong));
}

std::vector<model::RpnImageSamples> TrainingChecks::CheckAnchors() {
  const std::unique_ptr<ops::IndexSampler> sampler = MakeSampler();
  const Comparison compare(0);
  const Tensors maps = LevelsOf(expected_, "rpn.cls");
  const config::v1::RPNHead& rpn = config_.rpn_head();
  ops::AnchorGenerator generator({{rpn.anchor_strides().begin(), rpn.anchor_strides().end()},
                                  {rpn.anchor_scales().begin(), rpn.anchor_scales().end()},
                                  {rpn.anchor_ratios().begin(), rpn.anchor_ratios().end()},
                                  ops::BoxConvention::kMmdet3});
  for (size_t level = 0; level < maps.size(); ++level) {
    compare.CheckEqual(
        "anchors.level" + std::to_string(level),
        generator.GridAnchors(static_cast<int>(level), maps[level].size(2), maps[level].size(3)),
        Expected("anchors.level", level));
  }
  std::vector<model::RpnImageSamples> all;
  for (size_t i = 0; i < batch_.targets.size(); ++i) {
    all.push_back(model_->rpn_head->SampleAnchors(maps, batch_.targets[i], *sampler));
    CheckSampled("rpn_sample", i, all.back().assignment, all.back().sampled);
    compare.CheckEqual("anchors.valid.img" + std::to_string(i), ToTensor(all.back().inside),
                       Expected("anchors.valid.img", i).nonzero().select(1, 0));
  }
  CheckAnchorTargets(all);
  return all;
}

// What mmdetection makes of the samples: tensors over all anchors of a level.
void TrainingChecks::CheckAnchorTargets(const std::vector<model::RpnImageSamples>& samples) {
  const Comparison compare(0);
  const auto images = static_cast<int64_t>(samples.size());
  std::vector<int64_t> sizes;
  int64_t total = 0;
  for (size_t level = 0; level < kLevels; ++level) {
    sizes.push_back(Expected("anchors.level", level).size(0));
    total += sizes.back();
  }
  const at::Tensor labels = at::ones({images, total}, at::kLong);  // 0: object, 1: background
  const at::Tensor label_weights = at::zeros({images, total});
  const at::Tensor box_targets = at::zeros({images, total, 4});
  const at::Tensor box_weights = at::zeros({images, total, 4});
  double average_factor = 0;
  for (int64_t i = 0; i < images; ++i) {
    const model::RpnImageSamples& image = samples[static_cast<size_t>(i)];
    const at::Tensor inside = ToTensor(image.inside);
    const at::Tensor positive = inside.index_select(0, ToTensor(image.sampled.positive));
    const at::Tensor negative = inside.index_select(0, ToTensor(image.sampled.negative));
    labels[i].index_fill_(0, positive, 0);
    label_weights[i].index_fill_(0, positive, 1).index_fill_(0, negative, 1);
    box_targets[i].index_copy_(0, positive, image.positive_targets);
    box_weights[i].index_fill_(0, positive, 1);
    average_factor += static_cast<double>(std::max<int64_t>(positive.size(0), 1) +
                                          std::max<int64_t>(negative.size(0), 1));
  }
  int64_t begin = 0;
  for (size_t level = 0; level < kLevels; ++level) {
    const auto check = [&](const std::string& field, const at::Tensor& all) {
      compare.CheckEqual("rpn_target." + field + std::to_string(level),
                         all.slice(1, begin, begin + sizes[level]),
                         Expected("rpn_target." + field, level));
    };
    check("labels", labels);
    check("label_weights", label_weights);
    check("bbox_targets", box_targets);
    check("bbox_weights", box_weights);
    begin += sizes[level];
  }
  compare.CheckEqual("rpn_target.avg_factor", at::scalar_tensor(average_factor, at::kFloat),
                     expected_.at("rpn_target.avg_factor"));
}

// Among the reference's own proposals.
std::vector<model::RoiImageSamples> TrainingChecks::CheckRegions() {
  const std::unique_ptr<ops::IndexSampler> sampler = MakeSampler();
  const Comparison compare(0);
  std::vector<model::RoiImageSamples> all;
  Tensors boxes, labels, targets, weights;
  for (size_t i = 0; i < batch_.targets.size(); ++i) {
    all.push_back(model_->roi_head->SampleRegions(OfImage("proposals", i, "bboxes"),
                                                  batch_.targets[i], *sampler));
    const model::RoiImageSamples& image = all.back();
    CheckSampled("roi_sample", i, image.assignment, image.sampled);
    boxes.push_back(image.boxes);
    labels.push_back(image.labels);
    const int64_t positives = image.positive_targets.size(0);
    const int64_t negatives = image.labels.size(0) - positives;
    const at::TensorOptions options = at::TensorOptions().dtype(case_.type());
    targets.push_back(image.positive_targets.to(case_.type()));
    targets.push_back(at::zeros({negatives, 4}, options));
    weights.push_back(at::ones({positives, 4}, options));
    weights.push_back(at::zeros({negatives, 4}, options));
  }
  compare.CheckEqual("roi.rois", model::RoIHeadImpl::ToRois(boxes), expected_.at("roi.rois"));
  compare.CheckEqual("roi_target.labels", at::cat(labels), expected_.at("roi_target.labels"));
  compare.CheckEqual("roi_target.bbox_targets", at::cat(targets),
                     expected_.at("roi_target.bbox_targets"));
  compare.CheckEqual("roi_target.bbox_weights", at::cat(weights),
                     expected_.at("roi_target.bbox_weights"));
  compare.CheckEqual("roi_target.label_weights", at::cat(weights).select(1, 0).fill_(1),
                     expected_.at("roi_target.label_weights"));
  return all;
}

void TrainingChecks::CheckSamples() {
  CheckAnchors();
  CheckRegions();
}

at::Tensor TrainingChecks::CheckLossParts(const model::RPNHeadImpl::Losses& rpn,
                                          const model::RoIHeadImpl::Losses& roi,
                                          const at::Tensor& cls_score) {
  const Comparison compare(tolerance_);
  at::Tensor rpn_cls = rpn.cls[0];
  at::Tensor rpn_bbox = rpn.reg[0];
  for (size_t level = 0; level < kLevels; ++level) {
    compare.Check("loss_rpn_cls.level" + std::to_string(level), rpn.cls[level],
                  Expected("loss_rpn_cls.level", level));
    compare.Check("loss_rpn_bbox.level" + std::to_string(level), rpn.reg[level],
                  Expected("loss_rpn_bbox.level", level));
    if (level == 0) continue;
    rpn_cls = rpn_cls + rpn.cls[level];
    rpn_bbox = rpn_bbox + rpn.reg[level];
  }
  const at::Tensor total = rpn_cls + rpn_bbox + roi.cls + roi.bbox;
  compare.Check("loss.loss_rpn_cls", rpn_cls, expected_.at("loss.loss_rpn_cls"));
  compare.Check("loss.loss_rpn_bbox", rpn_bbox, expected_.at("loss.loss_rpn_bbox"));
  compare.Check("loss.loss_cls", roi.cls, expected_.at("loss.loss_cls"));
  compare.Check("loss.loss_bbox", roi.bbox, expected_.at("loss.loss_bbox"));
  compare.Check("loss.total", total, expected_.at("loss.total"));
  // Per cent of the regions whose likeliest class is right.
  const at::Tensor right = cls_score.argmax(1).eq(expected_.at("roi_target.labels"));
  compare.Check("loss.acc", right.to(at::kDouble).mean() * 100,
                expected_.at("loss.acc").reshape({}));
  return total;
}

void TrainingChecks::CheckLosses() {
  ResetModel();
  const auto anchors = CheckAnchors();
  const auto regions = CheckRegions();
  const model::RpnOutput rpn{LeafLevels("rpn.cls"), LeafLevels("rpn.reg")};
  const model::RoiOutput roi{Leaf(expected_.at("roi.cls_score")),
                             Leaf(expected_.at("roi.bbox_pred"))};
  const at::Tensor total = CheckLossParts(model_->rpn_head->Loss(rpn, anchors),
                                          model_->roi_head->Loss(roi, regions), roi.cls_score);
  if (!HasGradients()) return;
  total.backward();
  const Comparison compare(gradient_tolerance_);
  for (size_t level = 0; level < kLevels; ++level) {
    compare.Check("grad.rpn.cls" + std::to_string(level), rpn.cls[level].grad(),
                  Expected("grad.rpn.cls", level));
    compare.Check("grad.rpn.reg" + std::to_string(level), rpn.reg[level].grad(),
                  Expected("grad.rpn.reg", level));
  }
  compare.Check("grad.roi.cls_score", roi.cls_score.grad(), expected_.at("grad.roi.cls_score"));
  compare.Check("grad.roi.bbox_pred", roi.bbox_pred.grad(), expected_.at("grad.roi.bbox_pred"));
}

}  // namespace muster::testing
