#include "worker/data/augmentation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <vector>

#include "worker/data/augment_pixels.h"

namespace muster::data {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kSamples = 2000;

Objects TwoObjects() {
  return {.boxes = {{100, 80, 180, 140}, {300, 200, 420, 330}},
          .labels = {5, 7},
          .crowd_boxes = {{0, 0, 200, 200}}};
}

DrawKey Key(uint64_t sample) { return {.seed = 3, .epoch = 1, .sample = sample}; }

TEST(PhotoMetricTest, DrawsStayInTheirRangesAndHalfAreLeftOut) {
  AugmentationOptions options;
  options.photo_metric.emplace();
  int brightness = 0;
  int first = 0;
  int contrast = 0;
  int saturation = 0;
  int hue = 0;
  std::map<std::array<int, 3>, int> channels;
  for (uint64_t sample = 0; sample < kSamples; ++sample) {
    Augmentation drawn;
    Objects objects = TwoObjects();
    ASSERT_TRUE(DrawAugmentation(options, {640, 480}, Key(sample), &drawn, &objects));
    EXPECT_EQ(objects.boxes, TwoObjects().boxes);
    ASSERT_TRUE(drawn.distortion.has_value());
    const Distortion& d = *drawn.distortion;
    EXPECT_LE(std::abs(d.brightness), 32);
    EXPECT_GE(d.contrast, 0.5F);
    EXPECT_LE(d.contrast, 1.5F);
    EXPECT_GE(d.saturation, 0.5F);
    EXPECT_LE(d.saturation, 1.5F);
    EXPECT_LE(std::abs(d.hue), 18);
    brightness += d.brightness != 0;
    first += d.contrast_first;
    contrast += d.contrast != 1;
    saturation += d.saturation != 1;
    hue += d.hue != 0;
    ++channels[d.channels];
  }
  for (const int count : {brightness, first, contrast, saturation, hue}) {
    EXPECT_NEAR(count, kSamples / 2, 100);
  }
  ASSERT_EQ(channels.size(), 6U);  // half of them, and a sixth of the other half, are in order
  EXPECT_NEAR((channels[{0, 1, 2}]), kSamples * 7 / 12, 100);
  EXPECT_NEAR((channels[{2, 0, 1}]), kSamples / 12, 50);
}

TEST(PhotoMetricTest, DistortWithoutDrawsKeepsThePicture) {
  std::vector<float> rgb = {10, 200, 30, 255, 255, 255, 0, 0, 0, 7, 7, 90};
  const std::vector<float> before = rgb;
  ASSERT_TRUE(Distort({}, {2, 2}, rgb.data()).ok());
  for (size_t i = 0; i < rgb.size(); ++i) EXPECT_NEAR(rgb[i], before[i], 1e-3) << i;
  ASSERT_TRUE(Distort({.brightness = 10, .contrast = 2}, {2, 2}, rgb.data()).ok());
  for (size_t i = 0; i < rgb.size(); ++i) EXPECT_NEAR(rgb[i], 2 * (before[i] + 10), 1e-2) << i;
  rgb = before;
  ASSERT_TRUE(Distort({.channels = {2, 0, 1}}, {2, 2}, rgb.data()).ok());
  EXPECT_NEAR(rgb[0], 30, 1e-3);
  EXPECT_NEAR(rgb[1], 10, 1e-3);
  EXPECT_NEAR(rgb[2], 200, 1e-3);
}

TEST(ExpandTest, ImageLiesInsideAndBoxesMove) {
  AugmentationOptions options;
  options.expand = {.ratio_min = 1, .ratio_max = 4, .prob = 0.5};
  int expanded = 0;
  for (uint64_t sample = 0; sample < kSamples; ++sample) {
    Augmentation drawn;
    Objects objects = TwoObjects();
    ASSERT_TRUE(DrawAugmentation(options, {640, 480}, Key(sample), &drawn, &objects));
    EXPECT_EQ(drawn.placed.size, (Size{640, 480}));
    EXPECT_GE(drawn.placed.left, 0);
    EXPECT_LE(drawn.placed.left + 640, drawn.kept.size.width);
    EXPECT_LE(drawn.placed.top + 480, drawn.kept.size.height);
    EXPECT_LE(drawn.kept.size.width, 2560);
    const auto left = static_cast<float>(drawn.placed.left);
    const auto top = static_cast<float>(drawn.placed.top);
    EXPECT_EQ(objects.boxes[0], (Box{100 + left, 80 + top, 180 + left, 140 + top}));
    EXPECT_EQ(objects.crowd_boxes[0], (Box{left, top, 200 + left, 200 + top}));
    expanded += drawn.changes_pixels();
  }
  EXPECT_NEAR(expanded, kSamples / 2, 100);
}

TEST(ExpandTest, PixelsLieInTheFillColour) {
  Augmentation drawn;
  drawn.placed = {.left = 1, .top = 2, .size = {2, 1}};
  drawn.kept = {.left = 0, .top = 1, .size = {3, 2}};
  std::vector<float> out;
  ASSERT_TRUE(AugmentPixels(std::vector<uint8_t>{1, 2, 3, 4, 5, 6}, drawn, {9, 8, 7}, &out).ok());
  EXPECT_THAT(out, ElementsAre(9, 8, 7, 9, 8, 7, 9, 8, 7,  //
                               9, 8, 7, 1, 2, 3, 4, 5, 6));
}

double Iou(const Box& a, const Box& b) {
  const double w = std::max(0.0F, std::min(a.x2, b.x2) - std::max(a.x1, b.x1));
  const double h = std::max(0.0F, std::min(a.y2, b.y2) - std::max(a.y1, b.y1));
  const auto area = [](const Box& box) {
    return static_cast<double>(box.x2 - box.x1) * (box.y2 - box.y1);
  };
  return w * h / (area(a) + area(b) - w * h);
}

TEST(MinIouCropTest, KeepsObjectsByCentreAndClipsThem) {
  AugmentationOptions options;
  options.min_iou_crop = {.min_ious = {0.3}, .min_crop_size = 0.3};
  int whole = 0;
  int one = 0;
  for (uint64_t sample = 0; sample < kSamples; ++sample) {
    Augmentation drawn;
    const Objects before = {
        .boxes = {{50, 40, 500, 400}, {300, 200, 620, 470}}, .labels = {5, 7}, .crowd_boxes = {}};
    Objects objects = before;
    ASSERT_TRUE(DrawAugmentation(options, {640, 480}, Key(sample), &drawn, &objects));
    const Rect& kept = drawn.kept;
    if (kept == Rect{.left = 0, .top = 0, .size = {640, 480}}) {
      ++whole;
      EXPECT_EQ(objects.boxes, before.boxes);
      continue;
    }
    EXPECT_GE(kept.size.width, 191);
    EXPECT_GE(kept.size.height, 143);
    EXPECT_LE(kept.left + kept.size.width, 640);
    EXPECT_LE(kept.top + kept.size.height, 480);
    const Box patch = {static_cast<float>(kept.left), static_cast<float>(kept.top),
                       static_cast<float>(kept.left + kept.size.width),
                       static_cast<float>(kept.top + kept.size.height)};
    size_t expected = 0;
    for (size_t i = 0; i < 2; ++i) {
      const Box& box = before.boxes[i];
      const float x = (box.x1 + box.x2) / 2;
      const float y = (box.y1 + box.y2) / 2;
      if (x <= patch.x1 || y <= patch.y1 || x >= patch.x2 || y >= patch.y2) continue;
      ASSERT_LT(expected, objects.boxes.size());
      EXPECT_EQ(objects.labels[expected], before.labels[i]);
      EXPECT_EQ(
          objects.boxes[expected++],
          (Box{std::max(box.x1, patch.x1) - patch.x1, std::max(box.y1, patch.y1) - patch.y1,
               std::min(box.x2, patch.x2) - patch.x1, std::min(box.y2, patch.y2) - patch.y1}));
    }
    EXPECT_EQ(objects.boxes.size(), expected);
    EXPECT_GT(expected, 0U);
    one += expected == 1;
  }
  // A third of the draws is the whole image, a third needs an IoU of 0.3.
  EXPECT_GT(whole, kSamples / 4);
  EXPECT_LT(whole, kSamples * 2 / 3);
  EXPECT_GT(one, 50);
}

TEST(MinIouCropTest, EveryObjectOverlapsAsMuchAsWasDrawn) {
  AugmentationOptions options;
  options.min_iou_crop = {.min_ious = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5},
                          .min_crop_size = 0.3};
  int overlapping = 0;
  int crops = 0;
  for (uint64_t sample = 0; sample < 500; ++sample) {
    Augmentation drawn;
    Objects objects = {.boxes = {{100, 80, 500, 400}}, .labels = {5}, .crowd_boxes = {}};
    const Box box = objects.boxes[0];
    ASSERT_TRUE(DrawAugmentation(options, {640, 480}, Key(sample), &drawn, &objects));
    const Rect& kept = drawn.kept;
    if (kept.size == Size{640, 480}) continue;
    ++crops;
    overlapping += Iou(box, {static_cast<float>(kept.left), static_cast<float>(kept.top),
                             static_cast<float>(kept.left + kept.size.width),
                             static_cast<float>(kept.top + kept.size.height)}) >= 0.5;
  }
  // All but those of mode 0, one draw in ten.
  EXPECT_GT(crops, 300);
  EXPECT_GT(overlapping, crops * 8 / 10);
}

class ResizeCropTest : public ::testing::Test {
 protected:
  ResizeCropTest() {
    options_.resize_crop = {.scales = {{1400, 600}, {1400, 800}, {1400, 1000}},
                            .crop = {1200, 800}};
  }

  bool Draw(Size size, uint64_t sample) {
    return DrawAugmentation(options_, size, Key(sample), &drawn_, &objects_);
  }

  AugmentationOptions options_;
  Augmentation drawn_;
  Objects objects_;
};

TEST_F(ResizeCropTest, EveryScaleIsDrawnInBothOrientations) {
  for (const bool landscape : {true, false}) {
    std::map<int, int> shorts;
    for (uint64_t sample = 0; sample < kSamples; ++sample) {
      objects_ = {.boxes = {{100, 100, 300, 300}}, .labels = {1}, .crowd_boxes = {}};
      ASSERT_TRUE(Draw(landscape ? Size{640, 480} : Size{480, 640}, sample));
      const Size resized = *drawn_.resized;
      ++shorts[std::min(resized.width, resized.height)];
      const Size crop = drawn_.crop.size;
      const int longer = landscape ? crop.width : crop.height;
      const int shorter = landscape ? crop.height : crop.width;
      EXPECT_EQ(longer, std::min(1200, std::max(resized.width, resized.height)));
      EXPECT_EQ(shorter, std::min(800, std::min(resized.width, resized.height)));
      EXPECT_GE(drawn_.crop.left, 0);
      EXPECT_GE(drawn_.crop.top, 0);
      EXPECT_LE(drawn_.crop.left + crop.width, resized.width);
      EXPECT_LE(drawn_.crop.top + crop.height, resized.height);
      ASSERT_EQ(objects_.boxes.size(), 1U);
    }
    ASSERT_EQ(shorts.size(), 3U);
    for (const int side : {600, 800, 1000}) EXPECT_NEAR(shorts[side], kSamples / 3, 100) << side;
  }
}

TEST_F(ResizeCropTest, LongSideBindsWithRoundedShortSide) {
  options_.resize_crop->scales = {{1400, 1000}};
  objects_ = {.boxes = {{0, 0, 900, 300}}, .labels = {1}, .crowd_boxes = {}};
  ASSERT_TRUE(Draw({1000, 333}, 0));
  // round(1400 / 1000 * 333) = 466; int(466 / 333 * 1000) = 1399.
  EXPECT_EQ(*drawn_.resized, (Size{1399, 466}));
  EXPECT_EQ(drawn_.crop.size, (Size{1200, 466}));
}

TEST_F(ResizeCropTest, SquareIsPortraitAsItsCanvas) {
  options_.resize_crop->scales = {{1400, 1000}};
  objects_ = {.boxes = {{100, 100, 300, 300}}, .labels = {1}, .crowd_boxes = {}};
  ASSERT_TRUE(Draw({500, 500}, 0));
  EXPECT_EQ(drawn_.crop.size, (Size{800, 1000}));
}

TEST_F(ResizeCropTest, ObjectsByCentreCrowdByWhatIsInside) {
  options_.resize_crop->scales = {{1400, 1000}};
  int dropped = 0;
  for (uint64_t sample = 0; sample < 300; ++sample) {
    objects_ = {.boxes = {{0, 0, 60, 60}, {600, 400, 660, 460}, {560, 380, 700, 500}},
                .labels = {1, 2, 3},
                .crowd_boxes = {{0, 0, 700, 500}}};
    ASSERT_TRUE(Draw({700, 500}, sample));  // resized to 1400 x 1000
    ASSERT_EQ(*drawn_.resized, (Size{1400, 1000}));
    const auto left = static_cast<float>(drawn_.crop.left);
    const auto top = static_cast<float>(drawn_.crop.top);
    size_t i = 0;
    for (const auto& [label, box] : std::vector<std::pair<int64_t, Box>>{
             {1, {0, 0, 120, 120}}, {2, {1200, 800, 1320, 920}}, {3, {1120, 760, 1400, 1000}}}) {
      const float x = (box.x1 + box.x2) / 2 - left;
      const float y = (box.y1 + box.y2) / 2 - top;
      if (x <= 0 || y <= 0 || x >= 1200 || y >= 800) {
        ++dropped;
        continue;
      }
      ASSERT_LT(i, objects_.boxes.size());
      EXPECT_EQ(objects_.labels[i], label);
      EXPECT_EQ(objects_.boxes[i++],
                (Box{std::max(box.x1 - left, 0.0F), std::max(box.y1 - top, 0.0F),
                     std::min(box.x2 - left, 1200.0F), std::min(box.y2 - top, 800.0F)}));
    }
    EXPECT_EQ(objects_.boxes.size(), i);
    EXPECT_THAT(objects_.crowd_boxes, ElementsAre(Box{0, 0, 1200, 800}));
  }
  EXPECT_GT(dropped, 100);
}

TEST_F(ResizeCropTest, FalseWhenNoObjectRemains) {
  options_.resize_crop = {.scales = {{1400, 1000}}, .crop = {12, 8}};
  int kept = 0;
  for (uint64_t sample = 0; sample < 300; ++sample) {
    objects_ = {.boxes = {{300, 200, 310, 210}}, .labels = {1}, .crowd_boxes = {}};
    const bool remains = Draw({640, 480}, sample);
    EXPECT_EQ(remains, !objects_.boxes.empty());
    kept += remains;
  }
  EXPECT_GT(kept, 0);  // the noise is larger than the crop
  EXPECT_LT(kept, 150);
  // An image that never had one stays.
  objects_ = {};
  EXPECT_TRUE(Draw({640, 480}, 0));
}

TEST(AugmentationTest, DrawsAreFunctionsOfTheKeyAndOfTheirOwnPurpose) {
  AugmentationOptions all;
  all.photo_metric.emplace();
  all.expand.emplace();
  all.min_iou_crop.emplace();
  all.resize_crop = {.scales = {{640, 400}, {500, 300}}, .crop = {400, 300}};
  AugmentationOptions colours;
  colours.photo_metric.emplace();
  for (uint64_t sample = 0; sample < 100; ++sample) {
    Augmentation first;
    Augmentation second;
    Objects a = TwoObjects();
    Objects b = TwoObjects();
    DrawAugmentation(all, {640, 480}, Key(sample), &first, &a);
    DrawAugmentation(all, {640, 480}, Key(sample), &second, &b);
    EXPECT_EQ(first.distortion, second.distortion);
    EXPECT_EQ(first.placed, second.placed);
    EXPECT_EQ(first.kept, second.kept);
    EXPECT_EQ(first.crop, second.crop);
    EXPECT_EQ(a.boxes, b.boxes);
    DrawAugmentation(colours, {640, 480}, Key(sample), &second, &b);
    EXPECT_EQ(first.distortion, second.distortion);
  }
}

TEST(AugmentationTest, LegacyBoxesKeepTheirLastPixel) {
  AugmentationOptions options;
  options.legacy = true;
  options.resize_crop = {.scales = {{200, 100}}, .crop = {200, 100}};
  Objects objects = {.boxes = {{10, 10, 21, 31}}, .labels = {1}, .crowd_boxes = {}};
  Augmentation drawn;
  ASSERT_TRUE(DrawAugmentation(options, {100, 50}, Key(0), &drawn, &objects));
  // Inclusive [10, 10, 20, 30] times 2.
  EXPECT_THAT(objects.boxes, ElementsAre(Box{20, 20, 41, 61}));
}

}  // namespace
}  // namespace muster::data
