#include "worker/data/shapes_dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/coco_dataset.h"
#include "worker/data/draw.h"
#include "worker/data/image_source.h"
#include "worker/data/zip_image_source.h"
#include <nlohmann/json.hpp>

namespace muster::data {
namespace {

constexpr const char* kFiles[] = {"annotations/instances_train.json",
                                  "annotations/instances_val.json", "images/train.zip",
                                  "images/val.zip"};

TEST(ShapesDatasetTest, IsALoadableCocoDataSet) {
  const testing::TemporaryFolder folder;
  const ShapesOptions options = {.train_images = 20, .val_images = 5, .seed = 3};
  const absl::Status status = WriteShapesDataset(folder.path(), options);
  ASSERT_TRUE(status.ok()) << status;
  const auto dataset = CocoDataset::Load(folder.path() / kFiles[0]);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  ASSERT_EQ(dataset->images().size(), 20U);
  EXPECT_EQ(dataset->categories().size(), ShapeNames().size());
  EXPECT_EQ(dataset->clipped_boxes(), 0U);
  EXPECT_EQ(dataset->outside_boxes(), 0U);
  const auto source = OpenImageSource(folder.path() / kFiles[2]);
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_TRUE(CheckMembers(*dataset, dataset->AllImages(), **source).ok());
  std::set<int64_t> labels;
  size_t crowds = 0;
  size_t portraits = 0;
  for (const DatasetImage& image : dataset->images()) {
    const auto picture = ReadPicture(**source, image.file_name);
    ASSERT_TRUE(picture.ok()) << picture.status();
    EXPECT_EQ(picture->size, image.size);
    EXPECT_GE(image.boxes.size(), 2U) << image.file_name;
    EXPECT_LE(image.boxes.size(), 6U);
    for (const Box& box : image.boxes) {
      EXPECT_GE(std::max(box.x2 - box.x1, box.y2 - box.y1), 192 / 6 * 0.8);
      EXPECT_LE(std::max(box.x2 - box.x1, box.y2 - box.y1), 192 / 2 * 1.4);
    }
    labels.insert(image.labels.begin(), image.labels.end());
    crowds += image.crowd_boxes.size();
    portraits += image.size.height > image.size.width ? 1 : 0;
  }
  EXPECT_EQ(labels.size(), ShapeNames().size());
  EXPECT_EQ(crowds, 4U);
  EXPECT_EQ(portraits, 5U);
}

TEST(ShapesDatasetTest, SameSeedSameBytes) {
  const testing::TemporaryFolder a;
  const testing::TemporaryFolder b;
  const testing::TemporaryFolder c;
  ShapesOptions options = {.train_images = 3, .val_images = 2};
  ASSERT_TRUE(WriteShapesDataset(a.path(), options).ok());
  ASSERT_TRUE(WriteShapesDataset(b.path(), options).ok());
  options.seed = 1;
  ASSERT_TRUE(WriteShapesDataset(c.path(), options).ok());
  for (const char* file : kFiles) {
    EXPECT_EQ(testing::ReadText(a.path() / file), testing::ReadText(b.path() / file)) << file;
    EXPECT_NE(testing::ReadText(a.path() / file), testing::ReadText(c.path() / file)) << file;
  }
}

TEST(ShapesDatasetTest, CrowdRunsCoverTheirBox) {
  const testing::TemporaryFolder folder;
  ASSERT_TRUE(WriteShapesDataset(folder.path(), {.train_images = 4, .val_images = 1}).ok());
  const auto json = nlohmann::json::parse(testing::ReadText(folder.path() / kFiles[0]));
  int crowds = 0;
  for (const auto& annotation : json["annotations"]) {
    if (annotation["iscrowd"] == 0) continue;
    ++crowds;
    int total = 0;
    int inside = 0;
    bool one = false;
    for (const int run : annotation["segmentation"]["counts"]) {
      total += run;
      inside += one ? run : 0;
      one = !one;
    }
    EXPECT_EQ(total, 256 * 192);
    EXPECT_EQ(inside, annotation["area"].get<int>());
  }
  EXPECT_EQ(crowds, 1);
}

TEST(ShapesDatasetTest, BadOptionsAreRefused) {
  const testing::TemporaryFolder folder;
  EXPECT_FALSE(WriteShapesDataset(folder.path(), {.train_images = 0}).ok());
  EXPECT_FALSE(WriteShapesDataset(folder.path(), {.size = {20, 20}}).ok());
}

TEST(DrawTest, WritesAGrid) {
  const testing::TemporaryFolder folder;
  ASSERT_TRUE(WriteShapesDataset(folder.path(), {.train_images = 3, .val_images = 1}).ok());
  const auto dataset = CocoDataset::Load(folder.path() / kFiles[0]);
  const auto source = ZipImageSource::Open(folder.path() / kFiles[2]);
  ASSERT_TRUE(dataset.ok() && source.ok());
  std::vector<DrawnImage> images;
  for (const DatasetImage& image : dataset->images()) {
    DrawnImage& drawn = images.emplace_back();
    drawn.title = image.file_name;
    drawn.picture = *ReadPicture(**source, image.file_name);
    drawn.crowd_boxes = image.crowd_boxes;
    for (size_t i = 0; i < image.boxes.size(); ++i) {
      drawn.ground_truth.push_back({image.boxes[i], image.labels[i]});
      drawn.detections.push_back({image.boxes[i], image.labels[i], 0.9});
    }
    drawn.detections.push_back({{-50, -50, 5000, 5000}, 77, 0.5});  // wild ones must not hurt
  }
  const std::filesystem::path path = folder.path() / "grid.png";
  const absl::Status status = WriteDetectionGrid(path, images, ShapeNames(), {});
  ASSERT_TRUE(status.ok()) << status;
  const auto written = OpenImageSource(folder.path());
  ASSERT_TRUE(written.ok());
  const auto grid = ReadPicture(**written, "grid.png");
  ASSERT_TRUE(grid.ok()) << grid.status();
  EXPECT_GT(grid->size.width, 4 * 360);
  EXPECT_GT(grid->size.height, 2 * 270);
  EXPECT_FALSE(WriteDetectionGrid(path, {}, ShapeNames(), {}).ok());
}

}  // namespace
}  // namespace muster::data
