#include "tests/support/parity.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdio>
#include <set>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "common/config/defaults.h"
#include "worker/ops/roi_align.h"
#include <nlohmann/json.hpp>

namespace muster::testing {
namespace {

int quiet_comparisons = 0;

config::v1::Model WithDefaults(config::v1::Model model) {
  config::v1::TrainJob job;
  *job.mutable_model() = std::move(model);
  job.mutable_model()->mutable_norm()->set_type(config::v1::NORM_TYPE_BN);
  job.mutable_model()->mutable_norm()->set_norm_eval(false);
  config::ApplyDefaults(&job);
  return job.model();
}

void SetStage(config::v1::HRNetStage* stage, uint32_t modules, uint32_t blocks,
              const std::vector<uint32_t>& channels) {
  stage->set_num_modules(modules);
  stage->set_num_blocks(blocks);
  for (const uint32_t c : channels) stage->add_num_channels(c);
}

// mmdetection's preprocessor normalises in the model's dtype (mean and deviation are buffers that
// follow the model, but keep their float32 values), so float64's inputs are no float32 numbers.
at::Tensor NormalizeImages(const SafetensorsFile& file, at::ScalarType type) {
  const at::Tensor mean = at::tensor({123.675f, 116.28f, 103.53f}).to(type).view({3, 1, 1});
  const at::Tensor deviation = at::tensor({58.395f, 57.12f, 57.375f}).to(type).view({3, 1, 1});
  at::Tensor images = at::zeros(file.at("inputs").sizes(), type);
  for (int64_t i = 0; i < images.size(0); ++i) {
    const at::Tensor pixels = file.at("img" + std::to_string(i) + ".u8_bgr_chw");
    images[i]
        .slice(1, 0, pixels.size(1))
        .slice(2, 0, pixels.size(2))
        .copy_((pixels.flip(0).to(type) - mean) / deviation);
  }
  return images;
}

}  // namespace

QuietComparisons::QuietComparisons() { ++quiet_comparisons; }
QuietComparisons::~QuietComparisons() { --quiet_comparisons; }

std::vector<at::Tensor> LevelsOf(const SafetensorsFile& reference, const std::string& prefix) {
  std::vector<at::Tensor> levels;
  while (reference.has(prefix + std::to_string(levels.size()))) {
    levels.push_back(reference.at(prefix + std::to_string(levels.size())));
  }
  return levels;
}

void CheckLevels(const Comparison& compare, const SafetensorsFile& reference,
                 const std::string& prefix, const std::vector<at::Tensor>& actual) {
  for (size_t i = 0; i < actual.size(); ++i) {
    const std::string name = prefix + std::to_string(i);
    compare.Check(name, actual[i], reference.at(name));
  }
}

void CheckRoiForward(const Comparison& compare, const SafetensorsFile& reference,
                     model::RoIHead roi_head, const std::vector<at::Tensor>& maps) {
  constexpr int64_t kPooledLevels = 4;
  const at::Tensor& rois = reference.at("roi.rois");
  compare.CheckEqual("roi.levels", ops::RoiLevels(rois, kPooledLevels), reference.at("roi.levels"));
  const at::Tensor pooled = roi_head->Pool(maps, rois);
  const at::Tensor& first = reference.at("roi.feats_first");
  compare.Check("roi.feats_first", pooled.slice(0, 0, first.size(0)), first);
  compare.Check("roi.feats_mean", pooled.mean({1, 2, 3}), reference.at("roi.feats_mean"));
  const model::RoiOutput output = roi_head->forward(maps, rois);
  compare.Check("roi.cls_score", output.cls_score, reference.at("roi.cls_score"));
  compare.Check("roi.bbox_pred", output.bbox_pred, reference.at("roi.bbox_pred"));
}

void PrintComparison(const std::string& line) {
  if (quiet_comparisons == 0) std::puts(line.c_str());
}

void Comparison::Check(const std::string& name, const at::Tensor& actual,
                       const at::Tensor& expected) const {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << name;
  if (expected.numel() == 0) return;
  const at::Tensor a = actual.detach().to(at::kDouble);
  const at::Tensor e = expected.to(at::kDouble);
  const double difference = (a - e).abs().max().item<double>();
  const double scale = e.abs().max().item<double>();
  const double tolerance = relative_ * (scale > 0 ? scale : 1.0);
  PrintComparison(absl::StrFormat("%-44s max diff %9.2e of %9.2e, %6.2f %% of the tolerance", name,
                                  difference, scale, 100 * difference / tolerance));
  // Not EXPECT_GT: a NaN must fail.
  EXPECT_TRUE(difference <= tolerance) << name << ": " << difference << " > " << tolerance;
}

void Comparison::CheckEqual(const std::string& name, const at::Tensor& actual,
                            const at::Tensor& expected) const {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << name;
  EXPECT_EQ(actual.scalar_type(), expected.scalar_type()) << name;
  const int64_t differing = actual.ne(expected).sum().item<int64_t>();
  PrintComparison(absl::StrFormat("%-44s %s", name, differing == 0 ? "equal" : "DIFFERS"));
  EXPECT_EQ(differing, 0) << name;
}

void CheckRankedBoxes(const std::string& name, double relative, const RankedBoxes& actual,
                      const RankedBoxes& expected) {
  const Comparison compare(relative);
  compare.Check(name + ".scores", actual.scores, expected.scores);
  const at::Tensor scores = expected.scores.to(at::kDouble).contiguous();
  const double* s = scores.const_data_ptr<double>();
  const int64_t count = scores.size(0);
  ASSERT_EQ(actual.boxes.size(0), count) << name;
  std::vector<int64_t> untied;
  for (int64_t i = 0; i < count; ++i) {
    const bool tied = (i > 0 && s[i - 1] == s[i]) || (i + 1 < count && s[i + 1] == s[i]);
    if (!tied) untied.push_back(i);
  }
  EXPECT_GE(static_cast<int64_t>(untied.size()) * 10, count * 9) << name;
  const at::Tensor rows = at::tensor(untied, at::kLong);
  compare.Check(name + ".bboxes", actual.boxes.index_select(0, rows),
                expected.boxes.index_select(0, rows));
}

config::v1::Model TinyModel() {
  config::v1::Model model;
  model.set_num_classes(3);
  config::v1::HRNet* hrnet = model.mutable_hrnet();
  hrnet->set_width(4);
  SetStage(hrnet->mutable_stage1(), 1, 1, {8});
  SetStage(hrnet->mutable_stage2(), 1, 1, {4, 8});
  SetStage(hrnet->mutable_stage3(), 2, 1, {4, 8, 16});
  SetStage(hrnet->mutable_stage4(), 2, 1, {4, 8, 16, 32});
  model.mutable_hrfpn()->set_out_channels(16);
  model.mutable_rpn_head()->set_feat_channels(16);
  model.mutable_roi_head()->set_fc_out_channels(32);
  return WithDefaults(std::move(model));
}

config::v1::Model NamedModel(uint32_t width) {
  config::v1::Model model;
  model.set_num_classes(80);
  model.mutable_hrnet()->set_width(width);
  model.mutable_hrfpn();
  return WithDefaults(std::move(model));
}

config::v1::Model ModelOfArch(const std::string& arch) {
  if (arch == "tiny") return TinyModel();
  if (arch == "r50") {
    config::v1::Model model;
    model.set_num_classes(80);
    model.mutable_resnet()->set_depth(50);
    model.mutable_fpn();
    return WithDefaults(std::move(model));
  }
  for (const uint32_t width : {18u, 32u, 40u, 48u}) {
    if (arch == absl::StrCat("w", width)) return NamedModel(width);
  }
  throw std::runtime_error("no model is called " + arch);
}

void LoadState(torch::nn::Module& model, const SafetensorsFile& state) {
  torch::NoGradGuard no_grad;
  std::set<std::string> unused;
  for (const auto& [name, tensor] : state.tensors) unused.insert(name);
  const auto copy = [&](const std::string& name, at::Tensor& target) {
    ASSERT_TRUE(state.has(name)) << name;
    ASSERT_EQ(target.sizes(), state.at(name).sizes()) << name;
    target.copy_(state.at(name));
    unused.erase(name);
  };
  for (auto& item : model.named_parameters()) copy(item.key(), item.value());
  for (auto& item : model.named_buffers()) copy(item.key(), item.value());
  EXPECT_TRUE(unused.empty()) << "the model lacks " << *unused.begin();
}

model::TrainBatch ReadBatch(const SafetensorsFile& file, at::ScalarType type) {
  model::TrainBatch batch;
  const at::Tensor& inputs = file.at("inputs");
  batch.images = inputs.scalar_type() == type ? inputs : NormalizeImages(file, type);
  for (int64_t i = 0; i < batch.images.size(0); ++i) {
    const std::string prefix = "img" + std::to_string(i) + ".";
    model::ImageTargets targets;
    targets.gt_bboxes = file.at(prefix + "gt_bboxes");
    targets.gt_labels = file.at(prefix + "gt_labels");
    if (file.has(prefix + "gt_bboxes_ignore")) {
      targets.gt_bboxes_ignore = file.at(prefix + "gt_bboxes_ignore");
    }
    const auto side = [&](const char* key, int64_t axis) {
      return static_cast<int>(file.at(prefix + key)[axis].item<int64_t>());
    };
    targets.img_h = side("img_shape", 0);
    targets.img_w = side("img_shape", 1);
    targets.pad_h = side("pad_shape", 0);
    targets.pad_w = side("pad_shape", 1);
    targets.sample_id = i;
    batch.targets.push_back(targets);
  }
  return batch;
}

at::Tensor Fingerprint(const at::Tensor& tensor) {
  const at::Tensor x = tensor.detach().to(at::kDouble).reshape({-1});
  const at::Tensor i = at::arange(x.numel(), at::kDouble);
  return at::stack({x.norm(), x.sum(), x.abs().max(), (x * at::cos(i * 0.7 + 0.3)).sum()});
}

std::vector<std::string> ParseNames(const std::string& json) {
  return nlohmann::json::parse(json).get<std::vector<std::string>>();
}

}  // namespace muster::testing
