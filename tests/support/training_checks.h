#pragma once

#include <torch/types.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/parity.h"
#include "tests/support/parity_cases.h"
#include "tests/support/safetensors_file.h"
#include "worker/model/faster_rcnn.h"

namespace muster::testing {

// Compares our training with a case of the oracle. Each Check fails the running test for every
// tensor that differs; together they read every tensor of the case's first step.
//
// Tolerances, relative to a tensor's largest value. float64: 1e-9 for activations and losses, 1e-7
// for gradients and states. float32: 1e-5, and 1e-3 for gradients that come through a ReLU.
// Anchors, assignments, samples and their targets are equal to the bit in both.
class TrainingChecks {
 public:
  explicit TrainingChecks(const ParityCase& parity_case);
  // With another model than the case's.
  TrainingChecks(ParityCase parity_case, config::v1::Model config);

  // The reference's first step, which a test may change to see the checks fail.
  SafetensorsFile& expected() { return expected_; }

  // Each stage from the reference's own input: backbone, neck, RPN, proposals, pooling, RoI head.
  void CheckForward();
  // The stages backward, each from the reference's gradient of its outputs.
  void CheckBackward();
  // Anchors, which of them take part, assignment, sampling and targets of both heads.
  void CheckSamples();
  // Losses, and their gradients at the heads' outputs.
  void CheckLosses();
  // One whole step: every activation, loss and gradient. For float64: in float32 the smallest
  // difference grows on the way.
  void CheckWholeStep();
  // SGD through Loss, as many steps as the reference made: the losses of each, the state after the
  // first, and after the last. For float64.
  void CheckSteps();
  // All of these that fit the case's type.
  void CheckAll();

 private:
  using Tensors = std::vector<at::Tensor>;

  void ResetModel();
  std::unique_ptr<ops::IndexSampler> MakeSampler() const;
  const at::Tensor& Expected(const std::string& prefix, size_t index) const;
  const at::Tensor& OfImage(const std::string& kind, size_t image, const std::string& field) const;
  // The reference's maps as leaves that gather gradients.
  Tensors LeafLevels(const std::string& prefix) const;
  // A ResNet's maps come one out of the other, and FPN's coarsest out of the one before.
  bool MapsFeedEachOther() const { return config_.has_resnet(); }
  Tensors CheckHeadsBackward();
  Tensors CheckNeckBackward(const Tensors& direct);
  void CheckMapGradients(const std::string& prefix, const Tensors& direct, const Tensors& maps);
  bool HasGradients() const { return expected_.has("grad.neck.out0"); }

  void CheckSampled(const std::string& kind, size_t image, const ops::Assignment& assignment,
                    const ops::Sampled& sampled);
  std::vector<model::RpnImageSamples> CheckAnchors();
  void CheckAnchorTargets(const std::vector<model::RpnImageSamples>& samples);
  std::vector<model::RoiImageSamples> CheckRegions();
  void CheckProposals();
  // Returns their sum.
  at::Tensor CheckLossParts(const model::RPNHeadImpl::Losses& rpn,
                            const model::RoIHeadImpl::Losses& roi, const at::Tensor& cls_score);
  // Gradients of the parameters below `prefix` that the reference keeps whole.
  void CheckWholeGradients(double relative, const std::string& prefix);
  // The oracle's four numbers of each tensor whose name starts with `prefix`.
  void CheckFingerprints(const std::string& what, const std::string& names_key, double relative,
                         const std::string& prefix, bool gradients);
  at::Tensor State(const std::string& name) const;

  ParityCase case_;
  config::v1::Model config_;
  double tolerance_;           // of activations and losses
  double relu_tolerance_;      // of gradients that come through a ReLU
  double gradient_tolerance_;  // of others
  SafetensorsFile initial_;
  SafetensorsFile expected_;
  model::TrainBatch batch_;
  model::FasterRCNN model_{nullptr};
  std::map<std::string, at::Tensor> states_;  // parameters and buffers
};

}  // namespace muster::testing
