// The parity tests can fail: a changed reference, weight or option is noticed.

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "tests/support/parity.h"
#include "tests/support/parity_cases.h"
#include "tests/support/training_checks.h"

namespace muster::testing {
namespace {

// How many assertions fail in `checks`; the running test does not fail with them.
int CountFailures(const std::function<void()>& checks) {
  const QuietComparisons quiet;
  ::testing::TestPartResultArray results;
  {
    const ::testing::ScopedFakeTestPartResultReporter reporter(
        ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    checks();
  }
  int failures = 0;
  for (int i = 0; i < results.size(); ++i)
    failures += results.GetTestPartResult(i).failed() ? 1 : 0;
  return failures;
}

// One element changed: a number by half the largest, an integer by one.
at::Tensor Changed(const at::Tensor& tensor) {
  at::Tensor changed = tensor.clone();
  if (changed.scalar_type() == at::kByte) {
    changed.view({-1})[0] = 1 - changed.view({-1})[0];  // a flag
    return changed;
  }
  if (!changed.is_floating_point()) {
    changed.view({-1})[0] += 1;
    return changed;
  }
  const double largest = changed.abs().max().item<double>();
  changed.view({-1})[0] += 0.5 * (largest > 0 ? largest : 1);
  return changed;
}

std::optional<ParityCase> FindTrainingCase(const std::string& stem) {
  for (const ParityCase& found : FindParityCases().training) {
    if (found.stem == stem) return found;
  }
  return std::nullopt;
}

TEST(Comparison, NoticesADifference) {
  const Comparison compare(1e-9);
  const at::Tensor reference = at::tensor({1.0, -2.0, 4.0}, at::kDouble);
  EXPECT_EQ(CountFailures([&] { compare.Check("x", reference * (1 + 1e-10), reference); }), 0);
  EXPECT_EQ(CountFailures([&] { compare.Check("x", reference * (1 + 1e-8), reference); }), 1);
  EXPECT_EQ(CountFailures([&] { compare.Check("x", reference.slice(0, 0, 2), reference); }), 1);
  at::Tensor broken = reference.clone();
  broken[1] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(CountFailures([&] { compare.Check("x", broken, reference); }), 1);
  EXPECT_EQ(CountFailures([&] {
              compare.Check("x", at::full({2}, 1e-8, at::kDouble), at::zeros({2}, at::kDouble));
            }),
            1);
}

TEST(Comparison, NoticesTheLastBit) {
  const Comparison compare(0);
  const at::Tensor reference = at::tensor({1.0f, 3.0f}, at::kFloat);
  at::Tensor next = reference.clone();
  next[1] = std::nextafter(3.0f, 4.0f);
  EXPECT_EQ(CountFailures([&] { compare.CheckEqual("x", reference.clone(), reference); }), 0);
  EXPECT_EQ(CountFailures([&] { compare.CheckEqual("x", next, reference); }), 1);
  EXPECT_EQ(CountFailures([&] { compare.CheckEqual("x", reference.to(at::kDouble), reference); }),
            1);
}

TEST(RankedBoxes, NoticesAMovedBox) {
  const at::Tensor scores = at::tensor({0.9, 0.8, 0.7}, at::kDouble);
  const at::Tensor boxes = at::arange(12, at::kDouble).view({3, 4});
  const RankedBoxes reference{boxes, scores};
  EXPECT_EQ(CountFailures([&] { CheckRankedBoxes("x", 1e-9, {boxes, scores}, reference); }), 0);
  EXPECT_EQ(CountFailures([&] {
              CheckRankedBoxes("x", 1e-9, {Changed(boxes), scores}, reference);
            }),
            1);
}

// The check that compares the tensor of that name.
void CheckWhatReads(const std::string& name, const ParityCase& parity_case,
                    TrainingChecks* checks) {
  const auto starts = [&](const char* prefix) { return name.rfind(prefix, 0) == 0; };
  if (starts("state_after")) {
    if (parity_case.is_float64) checks->CheckSteps();
  } else if (starts("grad.backbone.") || starts("grad.neck.") || starts("param_grad.")) {
    checks->CheckBackward();
  } else if (starts("loss") || starts("grad.")) {
    checks->CheckLosses();
  } else if (starts("anchors.") || starts("rpn_sample.") || starts("roi_sample.") ||
             starts("rpn_target.") || starts("roi_target.") || name == "roi.rois") {
    checks->CheckSamples();
  } else {
    checks->CheckForward();
  }
}

class Mutation : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    found_ = FindTrainingCase(GetParam());
    if (!found_) GTEST_SKIP() << "no case " << GetParam();
  }
  std::optional<ParityCase> found_;
};

// Every tensor that the reference wrote is compared with one of ours.
TEST_P(Mutation, ChangeOfAnyTensorIsNoticed) {
  TrainingChecks checks(*found_);
  ASSERT_EQ(CountFailures([&] { checks.CheckAll(); }), 0);
  for (auto& [name, tensor] : checks.expected().tensors) {
    if (tensor.numel() == 0) continue;
    const at::Tensor original = tensor;
    tensor = Changed(original);
    const int failures = CountFailures([&] { CheckWhatReads(name, *found_, &checks); });
    // float32 cases are not compared after the update.
    const bool compared = found_->is_float64 || name != "state_after.fingerprint";
    EXPECT_EQ(failures > 0, compared) << name;
    tensor = original;
  }
}

TEST_P(Mutation, ChangeOfTheModelIsNoticed) {
  const std::vector<std::pair<const char*, std::function<void(config::v1::Model*)>>> changes = {
      {"RoIAlign unaligned", [](auto* m) { m->mutable_roi_head()->set_aligned(false); }},
      {"two samples a cell", [](auto* m) { m->mutable_roi_head()->set_sampling_ratio(2); }},
      {"SmoothL1 in the RPN",
       [](auto* m) {
         m->mutable_rpn_head()->set_loss_bbox(config::v1::REGRESSION_LOSS_SMOOTH_L1);
       }},
      {"SmoothL1 in the RoI head",
       [](auto* m) {
         m->mutable_roi_head()->set_loss_bbox(config::v1::REGRESSION_LOSS_SMOOTH_L1);
       }},
      {"anchors inside the image only",
       [](auto* m) { m->mutable_rpn_head()->set_allowed_border(0); }},
      {"no low-quality match",
       [](auto* m) { m->mutable_rpn_head()->mutable_assigner()->set_match_low_quality(false); }},
      {"ground truth is no proposal",
       [](auto* m) { m->mutable_roi_head()->mutable_sampler()->set_add_gt_as_proposals(false); }},
      {"NMS threshold",
       [](auto* m) {
         m->mutable_rpn_head()->mutable_train_proposals()->set_nms_iou_threshold(0.69);
       }},
      {"epsilon of BatchNorm", [](auto* m) { m->mutable_norm()->set_eps(1e-4); }},
      {"conventions of 0.6", [](auto* m) { m->set_conventions(config::v1::CONVENTIONS_SEED); }}};
  for (const auto& [what, change] : changes) {
    config::v1::Model config = ModelOfCase(*found_);
    change(&config);
    TrainingChecks checks(*found_, config);
    EXPECT_GT(CountFailures([&] { checks.CheckAll(); }), 0) << what;
  }
}

TEST_P(Mutation, ChangedMomentumOfTheStatisticsIsNoticed) {
  if (!found_->is_float64) return;  // float32 cases are not compared after the update
  config::v1::Model config = ModelOfCase(*found_);
  config.mutable_norm()->set_momentum(0.2);
  TrainingChecks checks(*found_, config);
  EXPECT_GT(CountFailures([&] { checks.CheckSteps(); }), 0);
}

INSTANTIATE_TEST_SUITE_P(Oracle, Mutation,
                         ::testing::Values("tiny_small_train_strided_float64",
                                           "tiny_small_train_strided"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace muster::testing
