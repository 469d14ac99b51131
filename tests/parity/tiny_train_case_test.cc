// Training steps of the oracle's "tiny" model against mmdetection 3.3: assignment, sampling,
// targets, losses, gradients, and the weights after three SGD steps.

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdio>

#include "tests/support/parity.h"
#include "tests/support/shared_data.h"

namespace muster::testing {
namespace {

std::string Name(const std::string& prefix, size_t index) { return prefix + std::to_string(index); }

at::Tensor ToTensor(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

// A copy that gradients stop at.
at::Tensor Leaf(const at::Tensor& reference) { return reference.clone().requires_grad_(true); }

class TinyTraining : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto shared = SharedData();
    if (!shared) GTEST_SKIP() << "no shared data";
    cases_ = *shared / "oracle/cases";
  }

  void Load(const std::string& batch, const std::string& step, at::ScalarType type,
            config::v1::NormType norm = config::v1::NORM_TYPE_BN) {
    expected_ = ReadSafetensors(cases_ / (step + ".safetensors"));
    batch_ = ReadBatch(ReadSafetensors(cases_ / (batch + ".safetensors")), type);
    config::v1::Model config = TinyModel();
    config.mutable_norm()->set_type(norm);
    model_ = model::FasterRCNN(config, 0);
    LoadState(*model_, ReadSafetensors(cases_ / "tiny_init.safetensors"));
    model_->to(type);
    model_->train();
  }

  const at::Tensor& OfImage(const std::string& kind, size_t image, const std::string& field) const {
    return expected_.at(kind + ".img" + std::to_string(image) + "." + field);
  }

  void CheckSamples(const std::string& kind, size_t image, const ops::Assignment& assignment,
                    const ops::Sampled& sampled) {
    Comparison compare(1e-9);
    compare.CheckEqual(kind + ".assigned_gt_inds", ToTensor(assignment.gt_index),
                       OfImage(kind, image, "assigned_gt_inds"));
    compare.CheckEqual(kind + ".pos_inds", ToTensor(sampled.positive),
                       OfImage(kind, image, "pos_inds"));
    compare.CheckEqual(kind + ".neg_inds", ToTensor(sampled.negative),
                       OfImage(kind, image, "neg_inds"));
  }

  // Assigns the anchors over the reference's maps and compares everything, to the bit.
  std::vector<model::RpnImageSamples> CheckAnchors(ops::IndexSampler& sampler) {
    std::vector<at::Tensor> maps;
    for (size_t level = 0; level < 5; ++level) maps.push_back(expected_.at(Name("rpn.cls", level)));
    std::vector<model::RpnImageSamples> all;
    for (size_t i = 0; i < batch_.targets.size(); ++i) {
      all.push_back(model_->rpn_head->SampleAnchors(maps, batch_.targets[i], sampler));
      const model::RpnImageSamples& samples = all.back();
      CheckSamples("rpn_sample", i, samples.assignment, samples.sampled);
      Comparison compare(1e-9);
      compare.CheckEqual("rpn_sample.max_overlaps", samples.assignment.max_overlaps,
                         OfImage("rpn_sample", i, "max_overlaps"));
      compare.CheckEqual("anchors.valid", ToTensor(samples.inside),
                         expected_.at(Name("anchors.valid.img", i)).nonzero().select(1, 0));
      std::vector<at::Tensor> targets;
      for (size_t level = 0; level < 5; ++level) {
        targets.push_back(
            expected_.at(Name("rpn_target.bbox_targets", level))[static_cast<int64_t>(i)]);
      }
      std::vector<int64_t> positive;
      for (const int64_t p : samples.sampled.positive) {
        positive.push_back(samples.inside[static_cast<size_t>(p)]);
      }
      // float32 numbers, whose logarithm differs in the last bit between CPUs.
      Comparison(1e-6).Check("rpn_target.bbox_targets", samples.positive_targets,
                             at::cat(targets).index_select(0, ToTensor(positive)));
    }
    return all;
  }

  // The same for the regions, among the reference's own proposals.
  std::vector<model::RoiImageSamples> CheckRegions(ops::IndexSampler& sampler) {
    std::vector<model::RoiImageSamples> all;
    std::vector<at::Tensor> boxes, labels, targets;
    const double tolerance = batch_.images.scalar_type() == at::kDouble ? 1e-12 : 1e-5;
    for (size_t i = 0; i < batch_.targets.size(); ++i) {
      all.push_back(model_->roi_head->SampleRegions(OfImage("proposals", i, "bboxes"),
                                                    batch_.targets[i], sampler));
      CheckSamples("roi_sample", i, all.back().assignment, all.back().sampled);
      Comparison(tolerance).Check("roi_sample.max_overlaps", all.back().assignment.max_overlaps,
                                  OfImage("roi_sample", i, "max_overlaps"));
      boxes.push_back(all.back().boxes);
      labels.push_back(all.back().labels);
      targets.push_back(all.back().positive_targets);
      targets.push_back(at::zeros({all.back().labels.size(0) - targets.back().size(0), 4},
                                  targets.back().options()));
    }
    Comparison compare(tolerance);
    compare.Check("roi.rois", model::RoIHeadImpl::ToRois(boxes), expected_.at("roi.rois"));
    compare.CheckEqual("roi_target.labels", at::cat(labels), expected_.at("roi_target.labels"));
    compare.Check("roi_target.bbox_targets", at::cat(targets),
                  expected_.at("roi_target.bbox_targets"));
    return all;
  }

  void CheckLosses(Comparison* compare, const model::RPNHeadImpl::Losses& rpn,
                   const model::RoIHeadImpl::Losses& roi) {
    for (size_t level = 0; level < rpn.cls.size(); ++level) {
      compare->Check(Name("loss_rpn_cls.level", level), rpn.cls[level],
                     expected_.at(Name("loss_rpn_cls.level", level)));
      // Of float32 targets, in float64 too.
      const bool wide = rpn.reg[level].scalar_type() == at::kDouble;
      Comparison(wide ? 1e-7 : 1e-5)
          .Check(Name("loss_rpn_bbox.level", level), rpn.reg[level],
                 expected_.at(Name("loss_rpn_bbox.level", level)));
    }
    compare->Check("loss.loss_cls", roi.cls, expected_.at("loss.loss_cls"));
    compare->Check("loss.loss_bbox", roi.bbox, expected_.at("loss.loss_bbox"));
  }

  // Losses and their gradients at the heads' outputs, from the reference's outputs.
  void CheckHeadLosses(ops::IndexSampler& sampler, double tolerance) {
    Comparison compare(tolerance);
    const auto anchors = CheckAnchors(sampler);
    const auto regions = CheckRegions(sampler);
    model::RpnOutput rpn;
    for (size_t level = 0; level < 5; ++level) {
      rpn.cls.push_back(Leaf(expected_.at(Name("rpn.cls", level))));
      rpn.reg.push_back(Leaf(expected_.at(Name("rpn.reg", level))));
    }
    const model::RoiOutput roi{Leaf(expected_.at("roi.cls_score")),
                               Leaf(expected_.at("roi.bbox_pred"))};
    const auto rpn_losses = model_->rpn_head->Loss(rpn, anchors);
    const auto roi_losses = model_->roi_head->Loss(roi, regions);
    CheckLosses(&compare, rpn_losses, roi_losses);
    if (!expected_.has("grad.rpn.cls0")) return;
    at::Tensor total = roi_losses.cls + roi_losses.bbox;
    for (size_t level = 0; level < 5; ++level) {
      total = total + rpn_losses.cls[level] + rpn_losses.reg[level];
    }
    total.backward();
    for (size_t level = 0; level < 5; ++level) {
      compare.Check(Name("grad.rpn.cls", level), rpn.cls[level].grad(),
                    expected_.at(Name("grad.rpn.cls", level)));
      compare.Check(Name("grad.rpn.reg", level), rpn.reg[level].grad(),
                    expected_.at(Name("grad.rpn.reg", level)));
    }
    compare.Check("grad.roi.cls_score", roi.cls_score.grad(), expected_.at("grad.roi.cls_score"));
    compare.Check("grad.roi.bbox_pred", roi.bbox_pred.grad(), expected_.at("grad.roi.bbox_pred"));
  }

  // The oracle's four numbers of each tensor; `lookup` finds ours by name.
  template <typename Lookup>
  void CheckFingerprints(const std::string& what, const std::string& names_key, double relative,
                         Lookup lookup) {
    const std::vector<std::string> names = ParseNames(expected_.metadata.at(names_key));
    const at::Tensor& expected = expected_.at(what + ".fingerprint");
    double worst = 0;
    std::string worst_name;
    for (size_t i = 0; i < names.size(); ++i) {
      const at::Tensor value = lookup(names[i]);
      ASSERT_TRUE(value.defined()) << names[i];
      const at::Tensor row = expected[static_cast<int64_t>(i)];
      // The sums cancel; their rounding goes with the norm and the number of terms.
      const double scale = row[0].item<double>() * std::sqrt(static_cast<double>(value.numel()));
      const double difference = (Fingerprint(value) - row).abs().max().item<double>();
      const double used = difference / (relative * scale + 1e-15);
      EXPECT_LE(used, 1.0) << what << " of " << names[i];
      if (used > worst) {
        worst = used;
        worst_name = names[i];
      }
    }
    std::printf("%-32s %zu tensors, worst %6.2f %% of the tolerance: %s\n", what.c_str(),
                names.size(), 100 * worst, worst_name.c_str());
  }

  at::Tensor Parameter(const std::string& name) { return model_->named_parameters()[name]; }
  at::Tensor State(const std::string& name) {
    const auto parameters = model_->named_parameters();
    if (const at::Tensor* found = parameters.find(name)) return *found;
    const auto buffers = model_->named_buffers();
    const at::Tensor* found = buffers.find(name);
    return found != nullptr ? *found : at::Tensor();
  }

  // One whole forward and backward, every activation and its gradient.
  void CheckWholeStep();
  // Three steps of SGD through Loss, then the whole state. Proposals are ranked by torch's unstable
  // sort, as the reference's were: a CPU that sorts equal scores in another order gives another
  // trajectory.
  void CheckThreeSteps();

  std::filesystem::path cases_;
  SafetensorsFile expected_;
  model::TrainBatch batch_;
  model::FasterRCNN model_{nullptr};
};

void TinyTraining::CheckWholeStep() {
  Comparison activations(1e-9);
  Comparison gradients(1e-7);
  ops::StridedIndexSampler sampler;
  std::vector<std::pair<std::string, at::Tensor>> kept;
  const auto check = [&](const std::string& name, const at::Tensor& value) {
    activations.Check(name, value, expected_.at(name));
    at::Tensor retained = value;
    retained.retain_grad();
    kept.emplace_back(name, retained);
  };
  const auto branches = model_->backbone->forward(batch_.images);
  for (size_t i = 0; i < branches.size(); ++i) check(Name("backbone.out", i), branches[i]);
  const auto levels = model_->neck->forward(branches);
  for (size_t i = 0; i < levels.size(); ++i) check(Name("neck.out", i), levels[i]);
  const model::RpnOutput rpn = model_->rpn_head->forward(levels);
  for (size_t i = 0; i < levels.size(); ++i) {
    check(Name("rpn.cls", i), rpn.cls[i]);
    check(Name("rpn.reg", i), rpn.reg[i]);
  }
  const auto anchors = CheckAnchors(sampler);
  const auto regions = CheckRegions(sampler);
  const at::Tensor rois = expected_.at("roi.rois");
  const model::RoiOutput roi = model_->roi_head->forward(levels, rois);
  check("roi.cls_score", roi.cls_score);
  check("roi.bbox_pred", roi.bbox_pred);
  const auto rpn_losses = model_->rpn_head->Loss(rpn, anchors);
  const auto roi_losses = model_->roi_head->Loss(roi, regions);
  CheckLosses(&activations, rpn_losses, roi_losses);
  at::Tensor total = roi_losses.cls + roi_losses.bbox;
  for (size_t i = 0; i < levels.size(); ++i) total = total + rpn_losses.cls[i] + rpn_losses.reg[i];
  activations.Check("loss.total", total, expected_.at("loss.total"));
  total.backward();
  for (const auto& [name, value] : kept) {
    gradients.Check("grad." + name, value.grad(), expected_.at("grad." + name));
  }
  for (const auto& [name, tensor] : expected_.tensors) {
    const std::string prefix = "param_grad.full.";
    if (name.rfind(prefix, 0) != 0) continue;
    gradients.Check(name, Parameter(name.substr(prefix.size())).grad(), tensor);
  }
  CheckFingerprints("param_grad", "param_names", 1e-7,
                    [&](const std::string& name) { return Parameter(name).grad(); });
}

void TinyTraining::CheckThreeSteps() {
  ops::StridedIndexSampler sampler;
  torch::optim::SGD optimizer(model_->parameters(),
                              torch::optim::SGDOptions(0.02).momentum(0.9).weight_decay(1e-4));
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const model::LossResult losses = model_->Loss(batch_, sampler);
    const at::Tensor total = losses.Total();
    if (step == 0) Comparison(1e-9).Check("loss.total", total, expected_.at("loss.total"));
    total.backward();
    optimizer.step();
    if (step == 0) {
      CheckFingerprints("state_after", "state_names", 1e-9,
                        [&](const std::string& name) { return State(name); });
    }
  }
  const SafetensorsFile after =
      ReadSafetensors(cases_ / "tiny_small_train_strided_float64_after3.safetensors");
  Comparison compare(1e-7);
  for (const auto& [name, tensor] : after.tensors) compare.Check(name, State(name), tensor);
}

TEST_F(TinyTraining, WholeStepInFloat64) {
  Load("tiny_small_batch", "tiny_small_train_strided_float64_step0", at::kDouble);
  CheckWholeStep();
}

TEST_F(TinyTraining, WholeStepInFloat64WithSyncBatchNormOfOneRank) {
  Load("tiny_small_batch", "tiny_small_train_strided_float64_step0", at::kDouble,
       config::v1::NORM_TYPE_SYNC_BN);
  CheckWholeStep();
}

TEST_F(TinyTraining, ThreeStepsInFloat64) {
  Load("tiny_small_batch", "tiny_small_train_strided_float64_step0", at::kDouble);
  CheckThreeSteps();
}

TEST_F(TinyTraining, ThreeStepsInFloat64WithSyncBatchNormOfOneRank) {
  Load("tiny_small_batch", "tiny_small_train_strided_float64_step0", at::kDouble,
       config::v1::NORM_TYPE_SYNC_BN);
  CheckThreeSteps();
}

TEST_F(TinyTraining, HeadsInFloat32) {
  Load("tiny_small_batch", "tiny_small_train_strided_step0", at::kFloat);
  ops::StridedIndexSampler sampler;
  CheckHeadLosses(sampler, 1e-5);
}

TEST_F(TinyTraining, BackboneInFloat32) {
  Load("tiny_small_batch", "tiny_small_train_strided_step0", at::kFloat);
  Comparison compare(1e-5);
  const auto branches = model_->backbone->forward(batch_.images);
  for (size_t i = 0; i < branches.size(); ++i) {
    compare.Check(Name("backbone.out", i), branches[i], expected_.at(Name("backbone.out", i)));
  }
}

TEST_F(TinyTraining, Anchors) {
  Load("tiny_small_batch", "tiny_small_train_strided_step0", at::kFloat);
  ops::AnchorGenerator anchors({{4, 8, 16, 32, 64}, {8}, {0.5, 1, 2}, ops::BoxConvention::kMmdet3});
  Comparison compare(1e-9);
  for (size_t level = 0; level < 5; ++level) {
    const at::Tensor& map = expected_.at(Name("rpn.cls", level));
    compare.CheckEqual(Name("anchors.level", level),
                       anchors.GridAnchors(static_cast<int>(level), map.size(2), map.size(3)),
                       expected_.at(Name("anchors.level", level)));
  }
}

// One image without ground truth; the sampler takes the first candidates.
TEST_F(TinyTraining, HeadsInFloat32WithAnImageWithoutGroundTruth) {
  Load("tiny_emptygt_batch", "tiny_emptygt_train_first_k_step0", at::kFloat);
  ops::FirstIndexSampler sampler;
  CheckHeadLosses(sampler, 1e-5);
}

}  // namespace
}  // namespace muster::testing
