#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/dist/communicator.h"
#include "worker/model/backbone.h"
#include "worker/model/batch.h"
#include "worker/model/neck.h"
#include "worker/model/roi_head.h"
#include "worker/model/rpn_head.h"
#include "worker/ops/index_sampler.h"

namespace muster::model {

// Faster R-CNN (Ren et al. 2015) on HRNet with HRFPN or on ResNet with FPN. Names and shapes of
// parameters and buffers are mmdetection 3's: backbone.*, neck.*, rpn_head.*, roi_head.bbox_head.*.
// Runs in float32, float64 (`to(torch::kFloat64)`) and, below an AutocastGuard, in bfloat16 with
// float32 parameters, normalisation, losses and boxes; anchors and ground truth stay float32. One
// thread uses a model at a time.
class FasterRCNNImpl : public torch::nn::Module {
 public:
  // `config` has been through ApplyDefaults. The weights are drawn from `seed` alone, so that every
  // rank builds the same ones. Throws c10::Error where the config makes no model.
  FasterRCNNImpl(const config::v1::Model& config, uint64_t seed);

  // The group that SYNC_BN layers normalise over; null (the start value): this process only. It
  // must outlive the model's last training step and is used from the thread that calls Loss and
  // backward.
  void SetSyncBatchNormCommunicator(dist::Communicator* communicator);

  // The parameters that need a gradient: all but those of frozen stages, in the order of
  // parameters().
  std::vector<at::Tensor> TrainableParameters() const;

  // Losses of the rank's batch, as mmdetection 3.3 (MMDET3) or 0.6 (SEED) defines them; no
  // reduction over ranks. Every trainable parameter receives a gradient from Total().backward(),
  // whatever the batch holds: no image, no ground truth, no positive sample. Needs train().
  LossResult Loss(const TrainBatch& batch, ops::IndexSampler& sampler);

  // Detections of each image, in original pixels. Needs eval(); records no gradient.
  std::vector<Detections> Predict(const PredictBatch& batch);

  // The five maps (strides 4 .. 64) that both heads read.
  std::vector<at::Tensor> ExtractFeatures(const at::Tensor& images);

  std::shared_ptr<Backbone> backbone;
  std::shared_ptr<Neck> neck;
  RPNHead rpn_head{nullptr};
  RoIHead roi_head{nullptr};
};
TORCH_MODULE(FasterRCNN);

}  // namespace muster::model
