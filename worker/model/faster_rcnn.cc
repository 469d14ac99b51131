#include "worker/model/faster_rcnn.h"

#include <torch/torch.h>

#include "worker/model/config_options.h"
#include "worker/model/fpn.h"
#include "worker/model/hrfpn.h"
#include "worker/model/hrnet.h"
#include "worker/model/initialization.h"
#include "worker/model/resnet.h"

namespace muster::model {
namespace {

at::Tensor Sum(const std::vector<at::Tensor>& terms) {
  at::Tensor total = terms[0];
  for (size_t i = 1; i < terms.size(); ++i) total = total + terms[i];
  return total;
}

std::shared_ptr<Backbone> MakeBackbone(const config::v1::Model& config) {
  const bool checkpointing = config.activation_checkpointing();
  if (config.has_hrnet()) {
    return std::make_shared<HRNetImpl>(config.hrnet(), config.norm(), checkpointing);
  }
  TORCH_CHECK(config.has_resnet(), "the model needs a backbone: hrnet or resnet");
  return std::make_shared<ResNetImpl>(config.resnet(), config.norm(), checkpointing);
}

std::shared_ptr<Neck> MakeNeck(const config::v1::Model& config,
                               const std::vector<int64_t>& in_channels) {
  if (config.has_hrfpn()) return std::make_shared<HRFPNImpl>(config.hrfpn(), in_channels);
  TORCH_CHECK(config.has_fpn(), "the model needs a neck: hrfpn or fpn");
  return std::make_shared<FPNImpl>(config.fpn(), in_channels);
}

}  // namespace

FasterRCNNImpl::FasterRCNNImpl(const config::v1::Model& config, uint64_t seed) {
  const ops::BoxConvention convention = ConventionOf(config.conventions());
  backbone = register_module("backbone", MakeBackbone(config));
  neck = register_module("neck", MakeNeck(config, backbone->out_channels()));
  const auto channels = static_cast<int64_t>(config.has_hrfpn() ? config.hrfpn().out_channels()
                                                                : config.fpn().out_channels());
  rpn_head = register_module("rpn_head", RPNHead(config.rpn_head(), convention, channels));
  roi_head = register_module(
      "roi_head",
      RoIHead(config.roi_head(), convention, channels, static_cast<int64_t>(config.num_classes()),
              std::vector<int64_t>(config.rpn_head().anchor_strides().begin(),
                                   config.rpn_head().anchor_strides().end())));
  InitializeWeights(*this, config, seed);
}

void FasterRCNNImpl::SetSyncBatchNormCommunicator(dist::Communicator* communicator) {
  backbone->SetSyncBatchNormCommunicator(communicator);
}

std::vector<at::Tensor> FasterRCNNImpl::TrainableParameters() const {
  std::vector<at::Tensor> trainable;
  for (const at::Tensor& parameter : parameters()) {
    if (parameter.requires_grad()) trainable.push_back(parameter);
  }
  return trainable;
}

std::vector<at::Tensor> FasterRCNNImpl::ExtractFeatures(const at::Tensor& images) {
  return neck->forward(backbone->forward(images));
}

LossResult FasterRCNNImpl::Loss(const TrainBatch& batch, ops::IndexSampler& sampler) {
  TORCH_CHECK(is_training(), "Loss needs the model in train() mode");
  TORCH_CHECK(batch.images.size(0) == static_cast<int64_t>(batch.targets.size()), "the batch has ",
              batch.images.size(0), " images and ", batch.targets.size(), " targets");
  const std::vector<at::Tensor> features = ExtractFeatures(batch.images);
  const RpnOutput rpn = rpn_head->forward(features);
  std::vector<RpnImageSamples> anchors;
  std::vector<RoiImageSamples> regions;
  std::vector<at::Tensor> boxes;
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    const ImageTargets& targets = batch.targets[i];
    anchors.push_back(rpn_head->SampleAnchors(rpn.cls, targets, sampler));
    const Proposals proposals = rpn_head->Propose(rpn, static_cast<int64_t>(i), targets.img_h,
                                                  targets.img_w, rpn_head->train_proposals());
    regions.push_back(roi_head->SampleRegions(proposals.boxes, targets, sampler));
    boxes.push_back(regions.back().boxes.to(batch.images.device()));
  }
  const at::Tensor rois =
      boxes.empty() ? at::empty({0, 5}, batch.images.options()) : RoIHeadImpl::ToRois(boxes);
  const auto rpn_losses = rpn_head->Loss(rpn, anchors);
  const auto roi_losses = roi_head->Loss(roi_head->forward(features, rois), regions);
  return {Sum(rpn_losses.cls), Sum(rpn_losses.reg), roi_losses.cls, roi_losses.bbox};
}

std::vector<Detections> FasterRCNNImpl::Predict(const PredictBatch& batch) {
  TORCH_CHECK(!is_training(), "Predict needs the model in eval() mode");
  TORCH_CHECK(batch.images.size(0) == static_cast<int64_t>(batch.meta.size()), "the batch has ",
              batch.images.size(0), " images and ", batch.meta.size(), " descriptions");
  torch::NoGradGuard no_grad;
  if (batch.meta.empty()) return {};
  const std::vector<at::Tensor> features = ExtractFeatures(batch.images);
  const RpnOutput rpn = rpn_head->forward(features);
  std::vector<at::Tensor> boxes;
  for (size_t i = 0; i < batch.meta.size(); ++i) {
    boxes.push_back(rpn_head
                        ->Propose(rpn, static_cast<int64_t>(i), batch.meta[i].img_h,
                                  batch.meta[i].img_w, rpn_head->test_proposals())
                        .boxes);
  }
  const at::Tensor rois = RoIHeadImpl::ToRois(boxes);
  const RoiOutput output = roi_head->forward(features, rois);
  std::vector<Detections> detections;
  int64_t begin = 0;
  for (size_t i = 0; i < boxes.size(); ++i) {
    const int64_t end = begin + boxes[i].size(0);
    detections.push_back(roi_head->Detect(
        rois.slice(0, begin, end),
        {output.cls_score.slice(0, begin, end), output.bbox_pred.slice(0, begin, end)},
        batch.meta[i]));
    begin = end;
  }
  return detections;
}

}  // namespace muster::model
