#include "common/config/defaults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "google/protobuf/util/message_differencer.h"

namespace muster::config {
namespace {

using ::testing::ElementsAre;

v1::TrainJob WithDefaults(v1::Conventions conventions) {
  v1::TrainJob job;
  job.mutable_model()->set_conventions(conventions);
  job.mutable_model()->mutable_hrnet()->set_width(18);
  ApplyDefaults(&job);
  return job;
}

TEST(DefaultsTest, ConventionsPickTheArithmetic) {
  const v1::TrainJob mmdet = WithDefaults(v1::CONVENTIONS_UNSPECIFIED);
  const v1::TrainJob seed = WithDefaults(v1::CONVENTIONS_SEED);
  EXPECT_EQ(mmdet.model().conventions(), v1::CONVENTIONS_MMDET3);
  EXPECT_EQ(mmdet.model().rpn_head().loss_bbox(), v1::REGRESSION_LOSS_L1);
  EXPECT_EQ(seed.model().rpn_head().loss_bbox(), v1::REGRESSION_LOSS_SMOOTH_L1);
  EXPECT_DOUBLE_EQ(seed.model().rpn_head().smooth_l1_beta(), 1.0 / 9);
  EXPECT_EQ(mmdet.model().rpn_head().allowed_border(), -1);
  EXPECT_EQ(seed.model().rpn_head().allowed_border(), 0);
  EXPECT_EQ(mmdet.model().rpn_head().train_proposals().nms_pre(), 2000u);
  EXPECT_EQ(mmdet.model().rpn_head().train_proposals().max_per_img(), 1000u);
  EXPECT_EQ(mmdet.model().rpn_head().test_proposals().nms_pre(), 1000u);
  EXPECT_EQ(seed.model().rpn_head().test_proposals().max_per_img(), 2000u);
  EXPECT_DOUBLE_EQ(mmdet.model().rpn_head().train_proposals().min_bbox_size(), 0);
  EXPECT_DOUBLE_EQ(seed.model().rpn_head().train_proposals().min_bbox_size(), -1);
  EXPECT_EQ(mmdet.model().roi_head().sampling_ratio(), 0u);
  EXPECT_EQ(seed.model().roi_head().sampling_ratio(), 2u);
  EXPECT_TRUE(mmdet.model().roi_head().aligned());
  EXPECT_FALSE(seed.model().roi_head().aligned());
  EXPECT_FALSE(mmdet.model().roi_head().assigner().match_low_quality());
  EXPECT_TRUE(seed.model().roi_head().assigner().match_low_quality());
  EXPECT_DOUBLE_EQ(mmdet.schedule().grad_clip_norm(), 0);
  EXPECT_DOUBLE_EQ(seed.schedule().grad_clip_norm(), 35);
  EXPECT_DOUBLE_EQ(mmdet.schedule().warmup_ratio(), 0.001);
  EXPECT_DOUBLE_EQ(seed.schedule().warmup_ratio(), 1.0 / 3);
}

TEST(DefaultsTest, WhatIsSetStays) {
  v1::TrainJob job;
  job.mutable_schedule()->set_warmup_steps(0);
  job.mutable_data()->set_flip_ratio(0);
  job.mutable_model()->mutable_rpn_head()->add_anchor_scales(4);
  job.mutable_model()->mutable_rpn_head()->mutable_assigner()->set_pos_iou_thr(0.6);
  ApplyDefaults(&job);
  EXPECT_EQ(job.schedule().warmup_steps(), 0u);
  EXPECT_DOUBLE_EQ(job.data().flip_ratio(), 0);
  EXPECT_THAT(job.model().rpn_head().anchor_scales(), ElementsAre(4));
  EXPECT_DOUBLE_EQ(job.model().rpn_head().assigner().pos_iou_thr(), 0.6);
  EXPECT_DOUBLE_EQ(job.model().rpn_head().assigner().neg_iou_thr(), 0.3);
}

TEST(DefaultsTest, StagesFollowTheWidth) {
  const v1::TrainJob job = WithDefaults(v1::CONVENTIONS_MMDET3);
  EXPECT_THAT(job.model().hrnet().stage1().num_channels(), ElementsAre(64));
  EXPECT_THAT(job.model().hrnet().stage3().num_channels(), ElementsAre(18, 36, 72));
  EXPECT_THAT(job.model().hrnet().stage4().num_channels(), ElementsAre(18, 36, 72, 144));
  EXPECT_EQ(job.model().hrnet().stage3().num_modules(), 4u);
  EXPECT_EQ(job.model().hrnet().stage4().num_modules(), 3u);
}

TEST(DefaultsTest, NormEvalFollowsTheNorm) {
  EXPECT_FALSE(WithDefaults(v1::CONVENTIONS_SEED).model().norm().norm_eval());
  v1::TrainJob job;
  job.mutable_model()->mutable_norm()->set_type(v1::NORM_TYPE_BN);
  ApplyDefaults(&job);
  EXPECT_TRUE(job.model().norm().norm_eval());
}

TEST(DefaultsTest, TestScaleIsTheLargest) {
  v1::TrainJob job;
  for (const auto& [long_side, short_side] : {std::pair(280, 210), {320, 240}, {240, 180}}) {
    v1::Scale* scale = job.mutable_data()->mutable_multi_scale()->add_scales();
    scale->set_long_side(static_cast<uint32_t>(long_side));
    scale->set_short_side(static_cast<uint32_t>(short_side));
  }
  ApplyDefaults(&job);
  EXPECT_EQ(job.data().test_scale().long_side(), 320u);
  EXPECT_EQ(job.data().test_scale().short_side(), 240u);
}

TEST(DefaultsTest, TwiceIsOnce) {
  const v1::TrainJob once = WithDefaults(v1::CONVENTIONS_SEED);
  v1::TrainJob twice = once;
  ApplyDefaults(&twice);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(once, twice));
}

}  // namespace
}  // namespace muster::config
