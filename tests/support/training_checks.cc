#include "tests/support/training_checks.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>

#include "absl/strings/str_format.h"

#include <nlohmann/json.hpp>

namespace muster::testing {
namespace {

bool StartsWith(const std::string& text, const std::string& prefix) {
  return text.rfind(prefix, 0) == 0;
}

}  // namespace

TrainingChecks::TrainingChecks(const ParityCase& parity_case)
    : TrainingChecks(parity_case, ModelOfCase(parity_case)) {}

TrainingChecks::TrainingChecks(ParityCase parity_case, config::v1::Model config)
    : case_(std::move(parity_case)),
      config_(std::move(config)),
      tolerance_(case_.is_float64 ? 1e-9 : 1e-5),
      relu_tolerance_(case_.is_float64 ? 1e-7 : 1e-3),
      gradient_tolerance_(case_.is_float64 ? 1e-7 : 1e-5),
      initial_(ReadSafetensors(case_.initial_weights())),
      expected_(ReadSafetensors(case_.file("_step0.safetensors"))),
      batch_(ReadBatch(ReadSafetensors(case_.batch()), case_.type())) {
  ResetModel();
}

std::unique_ptr<ops::IndexSampler> TrainingChecks::MakeSampler() const {
  if (case_.first_k) return std::make_unique<ops::FirstIndexSampler>();
  return std::make_unique<ops::StridedIndexSampler>();
}

void TrainingChecks::ResetModel() {
  if (model_.is_empty()) model_ = model::FasterRCNN(config_, 0);
  model_->to(case_.type());
  LoadState(*model_, initial_);
  model_->zero_grad();
  model_->train();
  states_.clear();
  for (const auto& item : model_->named_parameters()) states_[item.key()] = item.value();
  for (const auto& item : model_->named_buffers()) states_[item.key()] = item.value();
}

const at::Tensor& TrainingChecks::Expected(const std::string& prefix, size_t index) const {
  return expected_.at(prefix + std::to_string(index));
}

const at::Tensor& TrainingChecks::OfImage(const std::string& kind, size_t image,
                                          const std::string& field) const {
  return expected_.at(kind + ".img" + std::to_string(image) + "." + field);
}

TrainingChecks::Tensors TrainingChecks::LeafLevels(const std::string& prefix) const {
  Tensors levels = LevelsOf(expected_, prefix);
  for (at::Tensor& level : levels) level = level.clone().requires_grad_(true);
  return levels;
}

at::Tensor TrainingChecks::State(const std::string& name) const {
  const auto found = states_.find(name);
  return found != states_.end() ? found->second : at::Tensor();
}

void TrainingChecks::CheckForward() {
  ResetModel();
  torch::NoGradGuard no_grad;
  const Comparison compare(tolerance_);
  // The oracle's lean files leave the backbone's maps out: there the neck's have ours behind them.
  const Tensors maps = model_->backbone->forward(batch_.images);
  const bool lean = !expected_.has("backbone.out0");
  if (!lean) CheckLevels(compare, expected_, "backbone.out", maps);
  CheckLevels(compare, expected_, "neck.out",
              model_->neck->forward(lean ? maps : LevelsOf(expected_, "backbone.out")));
  const Tensors levels = LevelsOf(expected_, "neck.out");
  const model::RpnOutput rpn = model_->rpn_head->forward(levels);
  CheckLevels(compare, expected_, "rpn.cls", rpn.cls);
  CheckLevels(compare, expected_, "rpn.reg", rpn.reg);
  CheckProposals();

  CheckRoiForward(compare, expected_, model_->roi_head, levels);
}

void TrainingChecks::CheckProposals() {
  const model::RpnOutput rpn{LevelsOf(expected_, "rpn.cls"), LevelsOf(expected_, "rpn.reg")};
  for (size_t i = 0; i < batch_.targets.size(); ++i) {
    const model::Proposals found =
        model_->rpn_head->Propose(rpn, static_cast<int64_t>(i), batch_.targets[i].img_h,
                                  batch_.targets[i].img_w, model_->rpn_head->train_proposals());
    CheckRankedBoxes("proposals.img" + std::to_string(i), tolerance_, {found.boxes, found.scores},
                     {OfImage("proposals", i, "bboxes"), OfImage("proposals", i, "scores")});
  }
}

void TrainingChecks::CheckBackward() {
  if (!HasGradients()) return;
  ResetModel();
  const Tensors direct = CheckNeckBackward(CheckHeadsBackward());
  CheckMapGradients("backbone.out", direct, model_->backbone->forward(batch_.images));
  CheckWholeGradients(relu_tolerance_, "backbone.");
  CheckFingerprints("param_grad", "param_names", relu_tolerance_, "backbone.", true);
}

// Both heads, from the reference's gradients at their outputs; returns those of the neck's maps.
TrainingChecks::Tensors TrainingChecks::CheckHeadsBackward() {
  const Tensors inputs = LeafLevels("neck.out");
  const model::RpnOutput rpn = model_->rpn_head->forward(inputs);
  const model::RoiOutput roi = model_->roi_head->forward(inputs, expected_.at("roi.rois"));
  Tensors outputs = rpn.cls;
  outputs.insert(outputs.end(), rpn.reg.begin(), rpn.reg.end());
  outputs.insert(outputs.end(), {roi.cls_score, roi.bbox_pred});
  Tensors gradients = LevelsOf(expected_, "grad.rpn.cls");
  const Tensors regression = LevelsOf(expected_, "grad.rpn.reg");
  gradients.insert(gradients.end(), regression.begin(), regression.end());
  gradients.insert(gradients.end(),
                   {expected_.at("grad.roi.cls_score"), expected_.at("grad.roi.bbox_pred")});
  torch::autograd::backward(outputs, gradients);
  Tensors direct;
  for (const at::Tensor& input : inputs) direct.push_back(input.grad());
  if (!MapsFeedEachOther()) {
    CheckLevels(Comparison(relu_tolerance_), expected_, "grad.neck.out", direct);
  }
  for (const char* head : {"rpn_head.", "roi_head."}) {
    CheckWholeGradients(relu_tolerance_, head);
    CheckFingerprints("param_grad", "param_names", relu_tolerance_, head, true);
  }
  return direct;
}

TrainingChecks::Tensors TrainingChecks::CheckNeckBackward(const Tensors& direct) {
  const Tensors inputs = LeafLevels("backbone.out");
  CheckMapGradients("neck.out", direct, model_->neck->forward(inputs));
  const double relative = MapsFeedEachOther() ? relu_tolerance_ : gradient_tolerance_;
  CheckWholeGradients(relative, "neck.");
  CheckFingerprints("param_grad", "param_names", relative, "neck.", true);
  Tensors gradients;
  for (const at::Tensor& input : inputs) gradients.push_back(input.grad());
  if (!MapsFeedEachOther())
    CheckLevels(Comparison(relative), expected_, "grad.backbone.out", gradients);
  return gradients;
}

// Differentiates the maps, whose gradients are the reference's. Where the maps feed each other, the
// reference's include what comes through the next map: there the direct ones go in, and each map's
// whole gradient is compared.
void TrainingChecks::CheckMapGradients(const std::string& prefix, const Tensors& direct,
                                       const Tensors& maps) {
  Tensors outputs, gradients;
  for (size_t i = 0; i < maps.size(); ++i) {
    const std::string name = "grad." + prefix + std::to_string(i);
    // A frozen stage's map has no gradient.
    EXPECT_EQ(maps[i].requires_grad(), expected_.has(name)) << name;
    if (!maps[i].requires_grad() || !expected_.has(name)) continue;
    maps[i].retain_grad();
    outputs.push_back(maps[i]);
    gradients.push_back(MapsFeedEachOther() ? direct[i] : expected_.at(name));
  }
  torch::autograd::backward(outputs, gradients);
  if (!MapsFeedEachOther()) return;
  for (size_t i = 0; i < maps.size(); ++i) {
    const std::string name = "grad." + prefix + std::to_string(i);
    if (maps[i].requires_grad()) {
      Comparison(relu_tolerance_).Check(name, maps[i].grad(), expected_.at(name));
    }
  }
}

void TrainingChecks::CheckWholeGradients(double relative, const std::string& prefix) {
  const Comparison compare(relative);
  const std::string whole = "param_grad.full.";
  for (const auto& [name, tensor] : expected_.tensors) {
    if (!StartsWith(name, whole + prefix)) continue;
    compare.Check(name, State(name.substr(whole.size())).grad(), tensor);
  }
}

void TrainingChecks::CheckFingerprints(const std::string& what, const std::string& names_key,
                                       double relative, const std::string& prefix, bool gradients) {
  const std::vector<std::string> names = ParseNames(expected_.metadata.at(names_key));
  const at::Tensor& expected = expected_.at(what + ".fingerprint");
  double worst = 0;
  size_t compared = 0;
  std::string worst_name = "none";
  for (size_t i = 0; i < names.size(); ++i) {
    if (!StartsWith(names[i], prefix)) continue;
    at::Tensor value = State(names[i]);
    ASSERT_TRUE(value.defined()) << "the model has no " << names[i];
    if (gradients) value = value.grad();
    ASSERT_TRUE(value.defined()) << names[i] << " got no gradient";
    ++compared;
    const at::Tensor row = expected[static_cast<int64_t>(i)];
    // The sums cancel; their rounding goes with the norm and the number of terms.
    const double scale = row[0].item<double>() * std::sqrt(static_cast<double>(value.numel()));
    const double difference = (Fingerprint(value) - row).abs().max().item<double>();
    const double used = difference / (relative * scale + 1e-15);
    EXPECT_TRUE(used <= 1.0) << what << " of " << names[i] << ": " << used << " tolerances";
    if (!(used <= worst)) {
      worst = used;
      worst_name = names[i];
    }
  }
  PrintComparison(absl::StrFormat("%-44s %d tensors, worst %6.2f %% of the tolerance: %s",
                                  what + " " + prefix + "*", compared, 100 * worst, worst_name));
}

void TrainingChecks::CheckWholeStep() {
  ResetModel();
  const Comparison activations(tolerance_);
  const Comparison gradients(gradient_tolerance_);
  std::vector<std::pair<std::string, at::Tensor>> kept;
  const auto keep = [&](const std::string& prefix, const Tensors& values) {
    CheckLevels(activations, expected_, prefix, values);
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i].requires_grad()) values[i].retain_grad();
      kept.emplace_back(prefix + std::to_string(i), values[i]);
    }
  };
  const Tensors maps = model_->backbone->forward(batch_.images);
  keep("backbone.out", maps);
  const Tensors levels = model_->neck->forward(maps);
  keep("neck.out", levels);
  const model::RpnOutput rpn = model_->rpn_head->forward(levels);
  keep("rpn.cls", rpn.cls);
  keep("rpn.reg", rpn.reg);
  const auto anchors = CheckAnchors();
  const auto regions = CheckRegions();
  const model::RoiOutput roi = model_->roi_head->forward(levels, expected_.at("roi.rois"));
  for (const auto& [name, value] :
       {std::pair("roi.cls_score", roi.cls_score), std::pair("roi.bbox_pred", roi.bbox_pred)}) {
    activations.Check(name, value, expected_.at(name));
    value.retain_grad();
    kept.emplace_back(name, value);
  }
  const at::Tensor total = CheckLossParts(model_->rpn_head->Loss(rpn, anchors),
                                          model_->roi_head->Loss(roi, regions), roi.cls_score);
  total.backward();
  if (HasGradients()) {
    for (const auto& [name, value] : kept) {
      if (!value.requires_grad()) continue;  // a frozen stage's map
      gradients.Check("grad." + name, value.grad(), expected_.at("grad." + name));
    }
  }
  CheckWholeGradients(gradient_tolerance_, "");
  CheckFingerprints("param_grad", "param_names", gradient_tolerance_, "", true);
}

void TrainingChecks::CheckSteps() {
  ResetModel();
  std::ifstream in(case_.file(".json"));
  const nlohmann::json steps = nlohmann::json::parse(in).at("steps");
  const std::unique_ptr<ops::IndexSampler> sampler = MakeSampler();
  const double rate = std::stod(expected_.metadata.at("lr"));
  torch::optim::SGD optimizer(model_->TrainableParameters(),
                              torch::optim::SGDOptions(rate).momentum(0.9).weight_decay(1e-4));
  for (size_t step = 0; step < steps.size(); ++step) {
    optimizer.zero_grad();
    const model::LossResult losses = model_->Loss(batch_, *sampler);
    const at::Tensor total = losses.Total();
    const at::Tensor expected =
        at::scalar_tensor(steps[step].at("total").get<double>(), at::kDouble);
    // The first step's is an activation; the others come after an update.
    Comparison(step == 0 ? tolerance_ : gradient_tolerance_)
        .Check("loss of step " + std::to_string(step + 1), total, expected);
    total.backward();
    optimizer.step();
    if (step == 0) {
      CheckFingerprints("state_after", "state_names", gradient_tolerance_, "", false);
    }
  }
  const std::filesystem::path after =
      case_.file("_after" + std::to_string(steps.size()) + ".safetensors");
  if (!std::filesystem::exists(after)) return;
  const Comparison compare(gradient_tolerance_);
  const SafetensorsFile state = ReadSafetensors(after);
  EXPECT_EQ(state.tensors.size(), states_.size());
  for (const auto& [name, tensor] : state.tensors) compare.Check(name, State(name), tensor);
}

void TrainingChecks::CheckAll() {
  CheckForward();
  CheckBackward();
  CheckLosses();
  if (!case_.is_float64) return;
  CheckWholeStep();
  CheckSteps();
}

}  // namespace muster::testing
