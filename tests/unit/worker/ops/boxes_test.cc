#include "worker/ops/boxes.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "worker/ops/anchors.h"
#include "worker/ops/assigner.h"
#include "worker/ops/candidate_sampler.h"
#include "worker/ops/losses.h"

namespace muster::ops {
namespace {

at::Tensor Boxes(std::vector<std::array<float, 4>> rows) {
  at::Tensor boxes = at::empty({static_cast<int64_t>(rows.size()), 4});
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t k = 0; k < 4; ++k) {
      boxes[static_cast<int64_t>(i)][static_cast<int64_t>(k)] = rows[i][k];
    }
  }
  return boxes;
}

TEST(BoxOverlaps, OfHandMadeBoxes) {
  const at::Tensor a = Boxes({{0, 0, 10, 10}});
  const at::Tensor b = Boxes({{0, 0, 10, 10}, {5, 0, 15, 10}, {20, 20, 30, 30}, {3, 3, 3, 8}});
  const at::Tensor iou = PairwiseIoU(a, b);
  EXPECT_FLOAT_EQ(iou[0][0].item<float>(), 1);
  EXPECT_FLOAT_EQ(iou[0][1].item<float>(), 50.0f / 150.0f);
  EXPECT_EQ(iou[0][2].item<float>(), 0);
  EXPECT_EQ(iou[0][3].item<float>(), 0);
  EXPECT_FLOAT_EQ(PairwiseIoF(b, a)[1][0].item<float>(), 0.5);
}

TEST(BoxCoding, DecodeInvertsEncode) {
  torch::manual_seed(1);
  const at::Tensor corner = at::rand({50, 2}, at::kDouble) * 50;
  const at::Tensor priors = at::cat({corner, corner + 5 + at::rand({50, 2}, at::kDouble) * 40}, 1);
  const at::Tensor other = at::rand({50, 2}, at::kDouble) * 50;
  const at::Tensor targets = at::cat({other, other + 5 + at::rand({50, 2}, at::kDouble) * 40}, 1);
  const std::array<double, 4> stds = {0.1, 0.1, 0.2, 0.2};
  const at::Tensor deltas = EncodeBoxes(priors, targets, stds);
  EXPECT_TRUE(DecodeBoxes(priors, deltas, stds, 200, 200, BoxConvention::kMmdet3)
                  .allclose(targets, 1e-12, 1e-10));
}

TEST(BoxCoding, ClipsByConvention) {
  const at::Tensor priors = Boxes({{-50, -50, 200, 200}, {95, 95, 105, 105}});
  const at::Tensor none = at::zeros({2, 4});
  const std::array<double, 4> stds = {1, 1, 1, 1};
  EXPECT_TRUE(DecodeBoxes(priors, none, stds, 90, 80, BoxConvention::kMmdet3)
                  .equal(Boxes({{0, 0, 80, 90}, {80, 90, 80, 90}})));
  // Inclusive boxes in [0, 79] x [0, 89], written half-open: never empty.
  EXPECT_TRUE(DecodeBoxes(priors, none, stds, 90, 80, BoxConvention::kSeed)
                  .equal(Boxes({{0, 0, 80, 90}, {79, 89, 80, 90}})));
}

TEST(Anchors, OfTheSeedAreRounded) {
  AnchorGenerator anchors({{4, 8}, {8}, {0.5, 1, 2}, BoxConvention::kSeed});
  // mmdetection 0.6: inclusive [-21,-9,24,12] [-14,-14,17,17] [-9,-21,12,24].
  EXPECT_TRUE(anchors.BaseAnchors(0).equal(
      Boxes({{-21, -9, 25, 13}, {-14, -14, 18, 18}, {-9, -21, 13, 25}})));
  const at::Tensor grid = anchors.GridAnchors(0, 2, 3);
  EXPECT_EQ(grid.size(0), 18);
  // Row y = 1, x = 2, second box.
  EXPECT_TRUE(grid.slice(0, 16, 17).equal(Boxes({{-6, -10, 26, 22}})));
  EXPECT_TRUE(anchors.GridAnchors(0, 2, 3).is_same(grid)) << "cached";
}

// Assignment as mmdetection's documentation tells it, over the whole matrix of IoUs.
std::vector<int64_t> AssignSlowly(const at::Tensor& priors, const at::Tensor& gt,
                                  const at::Tensor& ignore, const AssignerOptions& options) {
  at::Tensor iou = PairwiseIoU(gt, priors);
  if (options.ignore_iof_thr > 0) {
    const at::Tensor inside = PairwiseIoF(priors, ignore).amax(1) > options.ignore_iof_thr;
    iou = iou.masked_fill(inside, -1);
  }
  const auto [best, best_gt] = iou.max(0);
  std::vector<int64_t> assigned(static_cast<size_t>(priors.size(0)), -1);
  for (int64_t i = 0; i < priors.size(0); ++i) {
    const float value = best[i].item<float>();
    if (value >= 0 && value < static_cast<float>(options.neg_iou_thr)) assigned[i] = 0;
    if (value >= static_cast<float>(options.pos_iou_thr))
      assigned[i] = best_gt[i].item<int64_t>() + 1;
  }
  for (int64_t g = 0; options.match_low_quality && g < gt.size(0); ++g) {
    const float largest = iou[g].max().item<float>();
    if (largest < static_cast<float>(options.min_pos_iou)) continue;
    for (int64_t i = 0; i < priors.size(0); ++i) {
      if (iou[g][i].item<float>() == largest) assigned[i] = g + 1;
    }
  }
  return assigned;
}

TEST(Assigner, EqualsTheMatrixFormulation) {
  AnchorGenerator anchors({{8}, {4}, {0.5, 1, 2}, BoxConvention::kMmdet3});
  const at::Tensor priors = anchors.GridAnchors(0, 8, 8);
  // Symmetric boxes: many anchors tie for them.
  const at::Tensor gt = Boxes({{8, 8, 40, 40}, {9, 7, 41, 39}, {0, 0, 6, 6}, {20, 30, 60, 50}});
  const at::Tensor ignore = Boxes({{40, 40, 64, 64}});
  for (const bool low_quality : {false, true}) {
    for (const double iof : {-1.0, 0.5}) {
      const AssignerOptions options{0.7, 0.3, 0.3, low_quality, iof};
      const Assignment fast = AssignMaxIoU(priors, gt, ignore, options);
      EXPECT_EQ(fast.gt_index, AssignSlowly(priors, gt, ignore, options));
      if (iof > 0) {
        EXPECT_GT(std::count(fast.gt_index.begin(), fast.gt_index.end(), kAssignedIgnored), 0);
      }
    }
  }
}

TEST(Assigner, WithoutGroundTruthAllIsNegative) {
  const Assignment none = AssignMaxIoU(Boxes({{0, 0, 5, 5}}), at::empty({0, 4}), {}, {});
  EXPECT_EQ(none.gt_index, std::vector<int64_t>{kAssignedNegative});
}

TEST(CandidateSampler, FillsUpWithNegatives) {
  std::vector<int64_t> gt_index(100, 0);
  for (size_t i = 0; i < 40; i += 2) gt_index[i] = 1;
  gt_index[99] = kAssignedIgnored;
  RandomIndexSampler random(1, 2);
  const Sampled sampled = SampleCandidates(gt_index, {16, 0.25}, random, 7, "rpn");
  EXPECT_EQ(sampled.positive.size(), 4u);
  EXPECT_EQ(sampled.negative.size(), 12u);
  EXPECT_TRUE(std::is_sorted(sampled.negative.begin(), sampled.negative.end()));
  for (const int64_t i : sampled.positive) EXPECT_GT(gt_index[static_cast<size_t>(i)], 0);
  for (const int64_t i : sampled.negative) EXPECT_EQ(gt_index[static_cast<size_t>(i)], 0);
  // The same draw for the same keys, whatever was drawn before; another for another sample.
  const Sampled again = SampleCandidates(gt_index, {16, 0.25}, random, 7, "rpn");
  EXPECT_EQ(again.negative, sampled.negative);
  const Sampled other = SampleCandidates(gt_index, {16, 0.25}, random, 8, "rpn");
  EXPECT_NE(other.negative, sampled.negative);
}

TEST(RandomIndexSampler, IsUniform) {
  std::vector<int> hits(20, 0);
  for (int64_t sample = 0; sample < 4000; ++sample) {
    RandomIndexSampler random(1, 0);
    for (const int64_t i : random.Choose(20, 5, sample, "test")) ++hits[static_cast<size_t>(i)];
  }
  // Binomial: mean 1000, deviation 27.
  for (const int h : hits) EXPECT_NEAR(h, 1000, 140);
}

TEST(Losses, SmoothL1MeetsL1AtBeta) {
  const at::Tensor x = at::tensor({0.0, 0.05, 0.5, -2.0}, at::kDouble);
  const at::Tensor zero = at::zeros({4}, at::kDouble);
  const double beta = 0.1;
  EXPECT_NEAR(RegressionSum(x, zero, RegressionLoss::kSmoothL1, beta).item<double>(),
              0.05 * 0.05 / 0.2 + (0.5 - 0.05) + (2.0 - 0.05), 1e-12);
  EXPECT_NEAR(RegressionSum(x, zero, RegressionLoss::kL1, beta).item<double>(), 2.55, 1e-12);
  EXPECT_EQ(CrossEntropySum(at::empty({0, 4}), at::empty({0}, at::kLong)).item<float>(), 0);
}

}  // namespace
}  // namespace muster::ops
