#include "worker/data/transforms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace muster::data {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

PipelineOptions OneScale(int long_side, int short_side) {
  PipelineOptions options;
  options.scales = {{long_side, short_side}};
  return options;
}

TEST(PlanImageTest, KeepsTheAspectAsMmcvDoes) {
  const PipelineOptions options = OneScale(1333, 800);
  const ImagePlan landscape = PlanImage(options, {640, 480}, 0, 0, 0);
  EXPECT_EQ(landscape.resized, (Size{1067, 800}));  // 640 * 5/3 = 1066.67
  EXPECT_EQ(landscape.padded, (Size{1088, 800}));
  EXPECT_DOUBLE_EQ(landscape.scale_w, 1067.0 / 640);
  EXPECT_DOUBLE_EQ(landscape.scale_h, 800.0 / 480);
  EXPECT_FALSE(landscape.flip);
  const ImagePlan wide = PlanImage(options, {1000, 200}, 0, 0, 0);
  EXPECT_EQ(wide.resized, (Size{1333, 267}));  // the long side binds
  EXPECT_EQ(PlanImage(options, {480, 640}, 0, 0, 0).resized, (Size{800, 1067}));
  EXPECT_EQ(PlanImage(options, {100'000, 1}, 0, 0, 0).resized, (Size{1333, 1}));
}

TEST(PlanImageTest, DrawsDependOnTheKeysOnly) {
  PipelineOptions options;
  options.scales = {{1600, 1000}, {1333, 800}, {1000, 600}};
  options.flip_ratio = 0.5;
  std::map<int, int> sides;
  int flips = 0;
  for (int sample = 0; sample < 3000; ++sample) {
    const ImagePlan plan = PlanImage(options, {640, 480}, 7, 3, sample);
    const ImagePlan again = PlanImage(options, {640, 480}, 7, 3, sample);
    EXPECT_EQ(plan.resized, again.resized);
    EXPECT_EQ(plan.flip, again.flip);
    ++sides[plan.resized.height];
    flips += plan.flip ? 1 : 0;
  }
  ASSERT_EQ(sides.size(), 3U);
  for (const auto& [side, count] : sides) EXPECT_NEAR(count, 1000, 120) << side;
  EXPECT_NEAR(flips, 1500, 120);
  options.flip_ratio = 1;
  EXPECT_TRUE(PlanImage(options, {640, 480}, 7, 3, 0).flip);
}

TEST(PlanImageTest, RangeDrawsBothSidesWithTheirBounds) {
  PipelineOptions options;
  options.scales = {{640, 300}, {600, 310}};
  options.scale_mode = ScaleMode::kRange;
  std::set<int> long_sides;
  std::set<int> short_sides;
  for (int sample = 0; sample < 3000; ++sample) {
    long_sides.insert(PlanImage(options, {2000, 200}, 0, 0, sample).resized.width);
    short_sides.insert(PlanImage(options, {1000, 1000}, 0, 0, sample).resized.width);
  }
  EXPECT_EQ(*long_sides.begin(), 600);
  EXPECT_EQ(*long_sides.rbegin(), 640);
  EXPECT_EQ(long_sides.size(), 41U);
  EXPECT_EQ(*short_sides.begin(), 300);
  EXPECT_EQ(*short_sides.rbegin(), 310);
}

TEST(BatchSizeTest, LargestImageOrCanvasOfItsOrientation) {
  PipelineOptions options = OneScale(1333, 800);
  const ImagePlan landscape = PlanImage(options, {640, 480}, 0, 0, 0);
  const ImagePlan wide = PlanImage(options, {1000, 300}, 0, 0, 0);
  const ImagePlan portrait = PlanImage(options, {480, 640}, 0, 0, 0);
  const ImagePlan square = PlanImage(options, {500, 500}, 0, 0, 0);
  EXPECT_EQ(BatchSize(options, {landscape, wide}), (Size{1344, 800}));
  options.canvas = Scale{1600, 1024};
  EXPECT_EQ(BatchSize(options, {landscape, wide}), (Size{1600, 1024}));
  EXPECT_EQ(BatchSize(options, {portrait}), (Size{1024, 1600}));
  EXPECT_EQ(BatchSize(options, {square}), (Size{1024, 1600}));
}

TEST(CheckPipelineTest, CanvasMustHoldEveryScale) {
  PipelineOptions options = OneScale(1333, 800);
  EXPECT_TRUE(CheckPipeline(options).ok());
  options.canvas = Scale{1344, 800};
  EXPECT_TRUE(CheckPipeline(options).ok());
  options.scales.push_back({1600, 1000});
  EXPECT_THAT(std::string(CheckPipeline(options).message()),
              AllOf(HasSubstr("1344x800"), HasSubstr("1600x1000"), HasSubstr("1600x1024")));
  options.canvas = Scale{1600, 1000};
  EXPECT_THAT(std::string(CheckPipeline(options).message()),
              AllOf(HasSubstr("multiple"), HasSubstr("1600x1024")));
  options.scales.clear();
  EXPECT_FALSE(CheckPipeline(options).ok());
}

TEST(TransformBoxTest, ScalesClipsAndFlips) {
  PipelineOptions options = OneScale(1333, 800);
  ImagePlan plan = PlanImage(options, {640, 480}, 0, 0, 0);
  const float sx = static_cast<float>(1067.0 / 640);
  const float sy = static_cast<float>(800.0 / 480);
  EXPECT_EQ(TransformBox(options, plan, {10, 20, 100, 480}),
            (Box{10 * sx, 20 * sy, 100 * sx, 800}));
  plan.flip = true;
  EXPECT_EQ(TransformBox(options, plan, {0, 0, 64, 48}), (Box{1067 - 64 * sx, 0, 1067, 48 * sy}));
}

TEST(TransformBoxTest, SeedScalesInclusiveCorners) {
  PipelineOptions options = OneScale(1333, 800);
  options.box_scaling = BoxScaling::kScalar;
  ImagePlan plan = PlanImage(options, {640, 480}, 0, 0, 0);
  const float factor = static_cast<float>(800.0 / 480);
  EXPECT_DOUBLE_EQ(plan.scale_w, 800.0 / 480);
  // x, y, w, h = 10, 20, 90, 60 is [10, 20, 99, 79] there.
  EXPECT_EQ(TransformBox(options, plan, {10, 20, 100, 80}),
            (Box{10 * factor, 20 * factor, 99 * factor + 1, 79 * factor + 1}));
  plan.flip = true;
  const Box flipped = TransformBox(options, plan, {10, 20, 100, 80});
  // Inclusive: x1' = W - x2 - 1.
  EXPECT_FLOAT_EQ(flipped.x1, 1067 - 99 * factor - 1);
  EXPECT_FLOAT_EQ(flipped.x2 - 1, 1067 - 10 * factor - 1);
}

TEST(NormalizerTest, WritesPlanesFlippedAndPadded) {
  PipelineOptions options;
  options.mean = {1, 2, 3};
  options.std = {2, 4, 8};
  const std::vector<uint8_t> rgb = {1, 2,  3,  3, 6,  11, 5,  10, 19,  //
                                    7, 14, 27, 9, 18, 35, 11, 22, 43};
  std::vector<float> out(3 * 4 * 3, std::nanf(""));
  const Normalizer normalizer(options);
  normalizer.Write(rgb, {3, 2}, false, {4, 3}, out.data());
  EXPECT_EQ(out, (std::vector<float>{0, 1, 2, 0, 3, 4, 5, 0, 0, 0, 0, 0,  //
                                     0, 1, 2, 0, 3, 4, 5, 0, 0, 0, 0, 0,  //
                                     0, 1, 2, 0, 3, 4, 5, 0, 0, 0, 0, 0}));
  normalizer.Write(rgb, {3, 2}, true, {4, 3}, out.data());
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 8),
            (std::vector<float>{2, 1, 0, 0, 5, 4, 3, 0}));
}

TEST(PipelineFromConfigTest, FieldsArriveAndMisfitsAreNamed) {
  config::v1::TrainJob job;
  config::v1::Data& data = *job.mutable_data();
  config::v1::Scale& scale = *data.mutable_multi_scale()->add_scales();
  scale.set_long_side(1333);
  scale.set_short_side(800);
  data.mutable_test_scale()->set_long_side(800);
  data.mutable_test_scale()->set_short_side(1333);
  data.set_size_divisor(32);
  data.set_flip_ratio(0.5);
  data.mutable_pad_size()->set_long_side(1600);
  data.mutable_pad_size()->set_short_side(1024);
  for (const double value : {1.0, 2.0, 3.0}) data.add_mean(value);
  for (const double value : {4.0, 5.0, 6.0}) data.add_std(value);
  job.mutable_model()->set_conventions(config::v1::CONVENTIONS_SEED);
  const auto training = TrainingPipeline(job);
  ASSERT_TRUE(training.ok()) << training.status();
  EXPECT_EQ(training->scales, (std::vector<Scale>{{1333, 800}}));
  EXPECT_EQ(training->canvas, (Scale{1600, 1024}));
  EXPECT_EQ(training->mean[2], 3);
  EXPECT_EQ(training->std[0], 4);
  EXPECT_EQ(training->flip_ratio, 0.5);
  EXPECT_EQ(training->box_scaling, BoxScaling::kScalar);
  const auto evaluation = EvaluationPipeline(job);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  EXPECT_EQ(evaluation->scales, (std::vector<Scale>{{1333, 800}}));
  EXPECT_EQ(evaluation->flip_ratio, 0);
  EXPECT_FALSE(evaluation->canvas.has_value());
  data.mutable_pad_size()->set_long_side(1024);
  EXPECT_THAT(std::string(TrainingPipeline(job).status().message()), HasSubstr("data.pad_size"));
}

}  // namespace
}  // namespace muster::data
