#include "worker/model/roi_head.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "tests/support/parity.h"

namespace muster::model {
namespace {

// Three regions that overlap by 0.9 (the first two) and not at all; each is sure of another class.
Detections DetectWith(bool class_agnostic) {
  config::v1::RoIHead config = testing::TinyModel().roi_head();
  config.set_class_agnostic_nms(class_agnostic);
  const RoIHeadImpl head(config, ops::BoxConvention::kMmdet3, 4, 3, {4, 8, 16, 32});
  const at::Tensor rois = at::tensor({0.f, 0.f, 0.f, 20.f, 20.f, 0.f, 0.f, 0.f, 20.f, 18.f, 0.f,
                                      30.f, 30.f, 40.f, 40.f})
                              .view({3, 5});
  at::Tensor scores = at::full({3, 4}, -10.f);
  scores[0][0] = 3;
  scores[1][1] = 2;
  scores[2][2] = 1;
  scores.select(1, 3).fill_(0);
  return head.Detect(rois, {scores, at::zeros({3, 12})}, {64, 64, 1, 1});
}

TEST(RoIHeadDetect, SuppressesWithinAClass) {
  const Detections found = DetectWith(false);
  EXPECT_TRUE(found.labels.equal(at::tensor({0, 1, 2}, at::kLong))) << found.labels;
}

TEST(RoIHeadDetect, SuppressesOtherClassesWhenToldTo) {
  const Detections found = DetectWith(true);
  EXPECT_TRUE(found.labels.equal(at::tensor({0, 2}, at::kLong))) << found.labels;
  EXPECT_NEAR(found.scores[0].item<double>(), 1 / (1 + std::exp(-3.0)), 1e-3);
}

}  // namespace
}  // namespace muster::model
