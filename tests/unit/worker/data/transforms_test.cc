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

ImagePlan Plan(const PipelineOptions& options, Size original, uint64_t seed, uint64_t epoch,
               uint64_t sample) {
  DatasetImage image;
  image.size = original;
  return *PlanImage(options, image, {.seed = seed, .epoch = epoch, .sample = sample});
}

TEST(PlanImageTest, KeepsTheAspectAsMmcvDoes) {
  const PipelineOptions options = OneScale(1333, 800);
  const ImagePlan landscape = Plan(options, {640, 480}, 0, 0, 0);
  EXPECT_EQ(landscape.resized, (Size{1067, 800}));  // 640 * 5/3 = 1066.67
  EXPECT_EQ(landscape.padded, (Size{1088, 800}));
  EXPECT_DOUBLE_EQ(landscape.scale_w, 1067.0 / 640);
  EXPECT_DOUBLE_EQ(landscape.scale_h, 800.0 / 480);
  EXPECT_FALSE(landscape.flip);
  const ImagePlan wide = Plan(options, {1000, 200}, 0, 0, 0);
  EXPECT_EQ(wide.resized, (Size{1333, 267}));  // the long side binds
  EXPECT_EQ(Plan(options, {480, 640}, 0, 0, 0).resized, (Size{800, 1067}));
  EXPECT_EQ(Plan(options, {100'000, 1}, 0, 0, 0).resized, (Size{1333, 1}));
}

TEST(PlanImageTest, DrawsDependOnTheKeysOnly) {
  PipelineOptions options;
  options.scales = {{1600, 1000}, {1333, 800}, {1000, 600}};
  options.flip_ratio = 0.5;
  std::map<int, int> sides;
  int flips = 0;
  for (uint64_t sample = 0; sample < 3000; ++sample) {
    const ImagePlan plan = Plan(options, {640, 480}, 7, 3, sample);
    const ImagePlan again = Plan(options, {640, 480}, 7, 3, sample);
    EXPECT_EQ(plan.resized, again.resized);
    EXPECT_EQ(plan.flip, again.flip);
    ++sides[plan.resized.height];
    flips += plan.flip ? 1 : 0;
  }
  ASSERT_EQ(sides.size(), 3U);
  for (const auto& [side, count] : sides) EXPECT_NEAR(count, 1000, 120) << side;
  EXPECT_NEAR(flips, 1500, 120);
  options.flip_ratio = 1;
  EXPECT_TRUE(Plan(options, {640, 480}, 7, 3, 0).flip);
}

TEST(PlanImageTest, RangeDrawsBothSidesWithTheirBounds) {
  PipelineOptions options;
  options.scales = {{640, 300}, {600, 310}};
  options.scale_mode = ScaleMode::kRange;
  std::set<int> long_sides;
  std::set<int> short_sides;
  for (uint64_t sample = 0; sample < 3000; ++sample) {
    long_sides.insert(Plan(options, {2000, 200}, 0, 0, sample).resized.width);
    short_sides.insert(Plan(options, {1000, 1000}, 0, 0, sample).resized.width);
  }
  EXPECT_EQ(*long_sides.begin(), 600);
  EXPECT_EQ(*long_sides.rbegin(), 640);
  EXPECT_EQ(long_sides.size(), 41U);
  EXPECT_EQ(*short_sides.begin(), 300);
  EXPECT_EQ(*short_sides.rbegin(), 310);
}

TEST(PlanImageTest, ObjectsFollowAndCrowdOnlyWhenAskedFor) {
  DatasetImage image;
  image.size = {100, 50};
  image.boxes = {{10, 10, 20, 20}, {-5, 40, 120, 60}};
  image.labels = {3, 1};
  image.crowd_boxes = {{0, 0, 50, 50}};
  PipelineOptions options = OneScale(200, 100);
  options.flip_ratio = 1;
  const auto plan = PlanImage(options, image, {});
  ASSERT_TRUE(plan.has_value());
  EXPECT_THAT(plan->objects.boxes,
              ::testing::ElementsAre(Box{160, 20, 180, 40}, Box{0, 80, 200, 100}));
  EXPECT_THAT(plan->objects.labels, ::testing::ElementsAre(3, 1));
  EXPECT_THAT(plan->objects.crowd_boxes, ::testing::ElementsAre(Box{100, 0, 200, 100}));
  options.with_crowd = false;
  EXPECT_TRUE(PlanImage(options, image, {})->objects.crowd_boxes.empty());
}

TEST(PlanImageTest, ImageWithoutObjectsIsKeptOrReplaced) {
  DatasetImage image;
  image.size = {100, 50};
  image.crowd_boxes = {{0, 0, 50, 50}};
  PipelineOptions options = OneScale(200, 100);
  EXPECT_TRUE(PlanImage(options, image, {}).has_value());
  options.replace_empty = true;
  EXPECT_FALSE(PlanImage(options, image, {}).has_value());
}

TEST(PlanImageTest, CropAcrossTheCanvasIsMadeToFit) {
  PipelineOptions options = OneScale(1333, 800);
  options.canvas = Scale{1344, 800};
  options.augmentation.min_iou_crop.emplace();
  DatasetImage image;
  image.size = {640, 480};
  int across = 0;
  for (uint64_t sample = 0; sample < 500; ++sample) {
    const auto plan = PlanImage(options, image, {.sample = sample});
    ASSERT_TRUE(plan.has_value());
    EXPECT_TRUE(plan->landscape);
    EXPECT_LE(plan->resized.width, 1344);
    EXPECT_LE(plan->resized.height, 800);
    const Size size = plan->augmentation.result();
    across += size.height > size.width ? 1 : 0;
  }
  EXPECT_GT(across, 20);
}

TEST(BatchSizeTest, LargestImageOrCanvasOfItsOrientation) {
  PipelineOptions options = OneScale(1333, 800);
  const ImagePlan landscape = Plan(options, {640, 480}, 0, 0, 0);
  const ImagePlan wide = Plan(options, {1000, 300}, 0, 0, 0);
  const ImagePlan portrait = Plan(options, {480, 640}, 0, 0, 0);
  const ImagePlan square = Plan(options, {500, 500}, 0, 0, 0);
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

TEST(CheckPipelineTest, CanvasMustHoldTheCrop) {
  PipelineOptions options;
  options.augmentation.resize_crop = {.scales = {{1400, 600}, {1400, 1000}}, .crop = {1200, 800}};
  options.canvas = Scale{1216, 800};
  EXPECT_TRUE(CheckPipeline(options).ok()) << CheckPipeline(options);
  options.canvas = Scale{1184, 800};
  EXPECT_THAT(std::string(CheckPipeline(options).message()), HasSubstr("1200x800"));
}

TEST(TransformBoxTest, ScalesClipsAndFlips) {
  PipelineOptions options = OneScale(1333, 800);
  ImagePlan plan = Plan(options, {640, 480}, 0, 0, 0);
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
  ImagePlan plan = Plan(options, {640, 480}, 0, 0, 0);
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

TEST(PipelineFromConfigTest, AugmentationsArriveWithTheirConventions) {
  config::v1::TrainJob job;
  config::v1::Data& data = *job.mutable_data();
  data.set_size_divisor(32);
  data.set_with_crowd(true);
  data.set_min_image_side(32);
  data.mutable_photo_metric_distortion()->set_hue_delta(7);
  data.mutable_expand()->set_ratio_max(3);
  data.mutable_min_iou_random_crop()->add_min_ious(0.4);
  config::v1::RandomResizeCrop& crop = *data.mutable_rand_resize_crop();
  crop.mutable_crop_size()->set_long_side(1200);
  crop.mutable_crop_size()->set_short_side(800);
  for (const uint32_t side : {600U, 800U, 1000U}) {
    config::v1::Scale& scale = *crop.add_scales();
    scale.set_long_side(1400);
    scale.set_short_side(side);
  }
  job.mutable_model()->set_conventions(config::v1::CONVENTIONS_SEED);
  const auto seed = TrainingPipeline(job);
  ASSERT_TRUE(seed.ok()) << seed.status();
  EXPECT_TRUE(seed->with_crowd);
  EXPECT_TRUE(seed->replace_empty);
  EXPECT_EQ(seed->min_image_side, 32);
  EXPECT_TRUE(seed->augmentation.legacy);
  EXPECT_EQ(seed->augmentation.photo_metric->hue_delta, 7);
  EXPECT_EQ(seed->augmentation.expand->ratio_max, 3);
  EXPECT_THAT(seed->augmentation.min_iou_crop->min_ious, ::testing::ElementsAre(0.4));
  EXPECT_EQ(seed->augmentation.resize_crop->crop, (Scale{1200, 800}));
  EXPECT_THAT(seed->augmentation.resize_crop->scales,
              ::testing::ElementsAre(Scale{1400, 600}, Scale{1400, 800}, Scale{1400, 1000}));
  data.set_keep_empty(true);
  EXPECT_FALSE(TrainingPipeline(job)->replace_empty);
  data.set_keep_empty(false);
  job.mutable_model()->set_conventions(config::v1::CONVENTIONS_MMDET3);
  const auto mmdet3 = TrainingPipeline(job);
  ASSERT_TRUE(mmdet3.ok()) << mmdet3.status();
  EXPECT_FALSE(mmdet3->replace_empty);
  EXPECT_FALSE(mmdet3->augmentation.legacy);
  data.mutable_test_scale()->set_long_side(1333);
  data.mutable_test_scale()->set_short_side(800);
  const auto evaluation = EvaluationPipeline(job);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  EXPECT_FALSE(evaluation->augmentation.any());
}

}  // namespace
}  // namespace muster::data
