#include "worker/data/data_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"
#include "opencv2/imgproc.hpp"

#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/image_source.h"

namespace muster::data {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// What a batch holds, copied out of its reused memory.
struct Seen {
  std::vector<float> values;
  std::vector<int64_t> images;
  std::vector<Box> boxes;
  Size size;
  friend bool operator==(const Seen&, const Seen&) = default;
};

class DataLoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < 7; ++i) {
      const Size size = i % 3 == 0 ? Size{60, 90 + i} : Size{100 + i, 70};
      const int64_t id = coco_.AddImage(absl::StrCat(i, ".jpg"), size);
      coco_.AddObject(id, {10, 10, 30, 40});
      coco_.AddObject(id, {5, 5, 20, 20}, 2, /*crowd=*/i == 1);
    }
    options_.pipeline.scales = {{128, 96}, {96, 64}};
    options_.pipeline.flip_ratio = 0.5;
  }

  void Open() {
    coco_.Write(folder_.path(), "train");
    auto dataset = CocoDataset::Load(folder_.path() / "annotations/instances_train.json");
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    dataset_ = std::make_unique<CocoDataset>(*std::move(dataset));
    auto source = OpenImageSource(folder_.path() / "images/train.zip");
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
  }

  Schedule Epoch(uint64_t epoch, int images_per_rank = 2) const {
    return EpochPlan(*dataset_, dataset_->AllImages(),
                     {.images_per_rank = images_per_rank, .seed = options_.seed, .epoch = epoch})
        .Batches(0, {});
  }

  static Seen Copy(const Batch& batch) {
    Seen seen;
    seen.size = {batch.width(), batch.height()};
    seen.values.assign(batch.data(),
                       batch.data() + static_cast<size_t>(batch.images()) * batch.image_values());
    for (const SampleMeta& meta : batch.samples) {
      seen.images.push_back(meta.image_id);
      seen.boxes.insert(seen.boxes.end(), meta.gt_bboxes.begin(), meta.gt_bboxes.end());
      seen.boxes.insert(seen.boxes.end(), meta.gt_bboxes_ignore.begin(),
                        meta.gt_bboxes_ignore.end());
    }
    return seen;
  }

  std::vector<Seen> ReadAll(DataLoader* loader) {
    std::vector<Seen> all;
    while (true) {
      const auto batch = loader->Next();
      EXPECT_TRUE(batch.ok()) << batch.status();
      if (!batch.ok() || *batch == nullptr) return all;
      all.push_back(Copy(**batch));
    }
  }

  testing::TemporaryFolder folder_;
  testing::TinyCoco coco_;
  DataLoader::Options options_;
  std::unique_ptr<CocoDataset> dataset_;
  std::unique_ptr<ImageSource> source_;
};

TEST_F(DataLoaderTest, ThreadsAndPrefetchChangeNothing) {
  Open();
  std::vector<std::vector<Seen>> runs;
  for (const auto& [threads, prefetch] : {std::pair(1, 1), std::pair(3, 2), std::pair(8, 5)}) {
    options_.threads = threads;
    options_.prefetch_batches = prefetch;
    DataLoader loader(options_, *dataset_, *source_);
    loader.Start(0, Epoch(0));
    runs.push_back(ReadAll(&loader));
    loader.Start(1, Epoch(1));
    const std::vector<Seen> second = ReadAll(&loader);
    EXPECT_NE(second, runs.back());
    runs.back().insert(runs.back().end(), second.begin(), second.end());
  }
  ASSERT_EQ(runs[0].size(), 8U);  // 2 + 2 chunks an epoch
  EXPECT_EQ(runs[0], runs[1]);
  EXPECT_EQ(runs[0], runs[2]);
}

// With a fixed size mmdetection 3 notes that size as an image's padded one; 0.6 the image's own.
TEST_F(DataLoaderTest, PaddedSizeOfAFixedCanvasDependsOnTheConventions) {
  options_.pipeline.scales = {{96, 64}};
  options_.pipeline.canvas = Scale{.long_side = 160, .short_side = 128};
  Open();
  for (const BoxScaling scaling : {BoxScaling::kPerAxis, BoxScaling::kScalar}) {
    options_.pipeline.box_scaling = scaling;
    DataLoader loader(options_, *dataset_, *source_);
    loader.Start(0, {{{.dataset_index = 1, .sample_id = 5}}});
    const auto batch = loader.Next();
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_EQ((*batch)->width(), 160);
    EXPECT_EQ((*batch)->height(), 128);
    const SampleMeta& meta = (*batch)->samples[0];
    EXPECT_EQ(meta.img_w, 92);  // 101 * 64 / 70 = 92.3
    EXPECT_EQ(meta.pad_w, scaling == BoxScaling::kPerAxis ? 160 : 96);
    EXPECT_EQ(meta.pad_h, scaling == BoxScaling::kPerAxis ? 128 : 64);
  }
}

TEST_F(DataLoaderTest, ThreadsChangeNothingWithEveryAugmentation) {
  for (int i = 0; i < 4; ++i) coco_.AddImage(absl::StrCat("empty", i, ".jpg"), {90, 70 + i * 10});
  PipelineOptions& pipeline = options_.pipeline;
  pipeline.replace_empty = true;
  pipeline.keep_empty = true;
  pipeline.augmentation.photo_metric.emplace();
  pipeline.augmentation.expand.emplace();
  pipeline.augmentation.min_iou_crop.emplace();
  Open();
  for (const bool resize_crop : {false, true}) {
    if (resize_crop) {
      pipeline.augmentation.resize_crop = {.scales = {{128, 64}, {128, 96}}, .crop = {96, 64}};
      pipeline.scales.clear();
    }
    std::vector<std::vector<Seen>> runs;
    for (const int threads : {1, 3, 8}) {
      options_.threads = threads;
      DataLoader loader(options_, *dataset_, *source_);
      loader.Start(0, Epoch(0));
      runs.push_back(ReadAll(&loader));
    }
    ASSERT_GE(runs[0].size(), 5U);
    EXPECT_EQ(runs[0], runs[1]);
    EXPECT_EQ(runs[0], runs[2]);
    for (const Seen& seen : runs[0]) {
      EXPECT_FALSE(seen.boxes.empty());
      for (const int64_t image : seen.images) EXPECT_LE(image, 7);  // none of the empty ones
    }
  }
}

TEST_F(DataLoaderTest, ReplacementIsOfTheSameAspectGroupAndOtherEachTime) {
  const int64_t wide = coco_.AddImage("wide.jpg", {90, 70});
  const int64_t high = coco_.AddImage("high.jpg", {70, 90});
  coco_.AddObject(high, {5, 5, 20, 20}, 1, /*crowd=*/true);
  options_.pipeline.replace_empty = true;
  Open();
  DataLoader loader(options_, *dataset_, *source_);
  Schedule schedule;
  for (int64_t i = 0; i < 40; ++i) {
    schedule.push_back(
        {{.dataset_index = static_cast<int>(i % 2 == 0 ? wide : high) - 1, .sample_id = i}});
  }
  loader.Start(0, schedule);
  std::map<int64_t, int> taken;
  for (size_t i = 0; i < schedule.size(); ++i) {
    const auto batch = loader.Next();
    ASSERT_TRUE(batch.ok()) << batch.status();
    const SampleMeta& meta = (*batch)->samples[0];
    EXPECT_EQ(meta.sample_id, static_cast<int64_t>(i));
    EXPECT_EQ(meta.ori_w > meta.ori_h, i % 2 == 0);
    EXPECT_FALSE(meta.gt_bboxes.empty());
    EXPECT_EQ(meta.image_id, dataset_->images()[static_cast<size_t>(meta.dataset_index)].id);
    ++taken[meta.image_id];
  }
  EXPECT_EQ(taken.size(), 7U);
}

// A red object on grey, through every change of geometry: its box must be where the red is.
TEST_F(DataLoaderTest, BoxesStayOnTheirPixels) {
  const cv::Rect object(30, 20, 50, 40);
  for (const Size size : {Size{130, 90}, Size{90, 130}}) {
    cv::Mat image(size.height, size.width, CV_8UC3, cv::Scalar(120, 120, 120));
    cv::rectangle(image, object, cv::Scalar(0, 0, 255), cv::FILLED);
    std::vector<uint8_t> png;
    ASSERT_TRUE(cv::imencode(".png", image, png));
    const int64_t id = coco_.AddImage(absl::StrCat(size.width, ".png"), size);
    coco_.members.back().bytes.assign(png.begin(), png.end());
    coco_.AddObject(id, {30, 20, 50, 40});
  }
  Open();
  PipelineOptions& pipeline = options_.pipeline;
  pipeline.mean = {0, 0, 0};
  pipeline.std = {1, 1, 1};
  pipeline.augmentation.expand.emplace();
  pipeline.augmentation.min_iou_crop.emplace();
  for (const auto& [resize_crop, scaling] :
       {std::pair(false, BoxScaling::kPerAxis), std::pair(false, BoxScaling::kScalar),
        std::pair(true, BoxScaling::kPerAxis), std::pair(true, BoxScaling::kScalar)}) {
    pipeline.box_scaling = scaling;
    pipeline.augmentation.legacy = scaling == BoxScaling::kScalar;
    pipeline.scales = {{256, 192}, {192, 128}};
    if (resize_crop) {
      pipeline.augmentation.resize_crop = {.scales = {{250, 100}, {250, 180}}, .crop = {160, 128}};
      pipeline.scales.clear();
    }
    DataLoader loader(options_, *dataset_, *source_);
    Schedule schedule;
    for (int64_t i = 0; i < 60; ++i) {
      schedule.push_back({{.dataset_index = 7 + static_cast<int>(i % 2), .sample_id = i}});
    }
    loader.Start(0, schedule);
    int flipped = 0;
    for (auto batch = loader.Next(); batch.ok() && *batch != nullptr; batch = loader.Next()) {
      const SampleMeta& meta = (*batch)->samples[0];
      if (meta.dataset_index < 7) continue;  // a replacement
      ASSERT_EQ(meta.gt_bboxes.size(), 1U);
      const float* red = (*batch)->data();
      const float* green = red + (*batch)->image_values() / 3;
      cv::Rect found;
      for (int y = 0; y < meta.img_h; ++y) {
        for (int x = 0; x < meta.img_w; ++x) {
          const int i = y * (*batch)->width() + x;
          if (red[i] > 187 && green[i] < 60) found |= cv::Rect(x, y, 1, 1);
        }
      }
      const Box& box = meta.gt_bboxes[0];
      // Blurred by an enlarged pixel, before which legacy boxes end, too.
      const double tolerance = 1 + 1.5 * (resize_crop ? 4 : std::max(meta.scale_w, meta.scale_h));
      EXPECT_NEAR(box.x1, found.x, tolerance) << meta.sample_id;
      EXPECT_NEAR(box.y1, found.y, tolerance) << meta.sample_id;
      EXPECT_NEAR(box.x2, found.x + found.width, tolerance) << meta.sample_id;
      EXPECT_NEAR(box.y2, found.y + found.height, tolerance) << meta.sample_id;
      flipped += meta.flip;
    }
    EXPECT_NEAR(flipped, 30, 18);
  }
}

TEST_F(DataLoaderTest, NothingToTakeInsteadIsAnErrorThatNamesTheImage) {
  coco_.json["annotations"] = nlohmann::ordered_json::array();
  options_.pipeline.replace_empty = true;
  Open();
  DataLoader loader(options_, *dataset_, *source_);
  loader.Start(0, {{{1, 1}}});
  EXPECT_THAT(std::string(loader.Next().status().message()),
              AllOf(HasSubstr("1.jpg"), HasSubstr("no object"), HasSubstr("data.keep_empty")));
}

TEST_F(DataLoaderTest, RandResizeCropIsPaddedToItsCanvas) {
  PipelineOptions& pipeline = options_.pipeline;
  pipeline.scales.clear();
  pipeline.augmentation.resize_crop = {.scales = {{150, 60}, {150, 100}}, .crop = {120, 80}};
  pipeline.canvas = Scale{128, 96};
  ASSERT_TRUE(CheckPipeline(pipeline).ok());
  Open();
  DataLoader loader(options_, *dataset_, *source_);
  loader.Start(0, Epoch(0));
  int batches = 0;
  for (auto batch = loader.Next(); batch.ok() && *batch != nullptr; batch = loader.Next()) {
    ++batches;
    for (const SampleMeta& meta : (*batch)->samples) {
      const bool landscape = meta.ori_w > meta.ori_h;
      EXPECT_EQ((*batch)->width(), landscape ? 128 : 96);
      EXPECT_LE(landscape ? meta.img_w : meta.img_h, 120);
      EXPECT_LE(landscape ? meta.img_h : meta.img_w, 80);
      EXPECT_EQ(meta.scale_w, 1);
      ASSERT_EQ(meta.labels.size(), meta.gt_bboxes.size());
      for (const Box& box : meta.gt_bboxes) {
        EXPECT_GE(box.x1, 0);
        EXPECT_LE(box.x2, static_cast<float>(meta.img_w));
        EXPECT_LE(box.y2, static_cast<float>(meta.img_h));
      }
    }
  }
  EXPECT_EQ(batches, 4);
}

TEST_F(DataLoaderTest, SizeBeforeTheExifTurnIsExplained) {
  // Orientation 6, a quarter turn.
  const std::string tiff("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", 26);
  std::string& jpeg = coco_.members[1].bytes;
  jpeg.insert(2, std::string("\xff\xe1\0\x22", 4) + std::string("Exif\0\0", 6) + tiff);
  Open();
  DataLoader loader(options_, *dataset_, *source_);
  loader.Start(0, {{{1, 1}}});
  EXPECT_THAT(std::string(loader.Next().status().message()),
              AllOf(HasSubstr("1.jpg"), HasSubstr("70x101"), HasSubstr("101x70"),
                    HasSubstr("EXIF orientation 6")));
}

TEST_F(DataLoaderTest, ImageIsWhatOpenCvMakesOfIt) {
  options_.pipeline.scales = {{128, 96}};
  options_.pipeline.flip_ratio = 1;
  Open();
  DataLoader loader(options_, *dataset_, *source_);
  loader.Start(0, {{{.dataset_index = 1, .sample_id = 5}, {.dataset_index = 2, .sample_id = 6}}});
  const auto batch = loader.Next();
  ASSERT_TRUE(batch.ok()) << batch.status();
  const Batch& got = **batch;
  EXPECT_EQ(reinterpret_cast<uintptr_t>(got.data()) % 64, 0U);
  ASSERT_EQ(got.images(), 2);
  EXPECT_EQ(got.width(), 128);
  EXPECT_EQ(got.height(), 96);
  const SampleMeta& meta = got.samples[0];
  EXPECT_EQ(meta.image_id, 2);
  EXPECT_EQ(meta.sample_id, 5);
  EXPECT_EQ(meta.ori_w, 101);
  EXPECT_EQ(meta.ori_h, 70);
  EXPECT_EQ(meta.img_w, 128);
  EXPECT_EQ(meta.img_h, 89);  // 70 * 128 / 101 = 88.7
  EXPECT_EQ(meta.pad_w, 128);
  EXPECT_EQ(meta.pad_h, 96);
  EXPECT_TRUE(meta.flip);
  EXPECT_EQ(meta.labels, std::vector<int64_t>{0});
  ASSERT_EQ(meta.gt_bboxes.size(), 1U);
  ASSERT_EQ(meta.gt_bboxes_ignore.size(), 1U);
  EXPECT_NEAR(meta.gt_bboxes[0].x2, 128 - 10 * 128.0 / 101, 1e-4);

  const std::string& jpeg = coco_.members[1].bytes;
  cv::Mat image = cv::imdecode(std::vector<uint8_t>(jpeg.begin(), jpeg.end()), cv::IMREAD_COLOR);
  cv::resize(image, image, {128, 89}, 0, 0, cv::INTER_LINEAR);
  cv::flip(image, image, 1);
  for (int y = 0; y < 96; ++y) {
    for (int x = 0; x < 128; ++x) {
      for (size_t c = 0; c < 3; ++c) {
        const float value =
            got.data()[(c * 96 + static_cast<size_t>(y)) * 128 + static_cast<size_t>(x)];
        const float expected =
            y < 89 ? (static_cast<float>(image.at<cv::Vec3b>(y, x)[2 - static_cast<int>(c)]) -
                      options_.pipeline.mean[c]) /
                         options_.pipeline.std[c]
                   : 0;
        ASSERT_EQ(value, expected) << x << "," << y << "," << c;
      }
    }
  }
}

TEST_F(DataLoaderTest, FixedCanvasOfTheBatchesOrientation) {
  options_.pipeline.canvas = Scale{160, 128};
  Open();
  DataLoader loader(options_, *dataset_, *source_);
  loader.Start(0, Epoch(0));
  std::vector<Size> sizes;
  for (const Seen& seen : ReadAll(&loader)) sizes.push_back(seen.size);
  EXPECT_THAT(sizes, ::testing::UnorderedElementsAre(Size{160, 128}, Size{160, 128}, Size{128, 160},
                                                     Size{128, 160}));
}

TEST_F(DataLoaderTest, ErrorSurfacesAtItsStepAndNamesTheImage) {
  coco_.members[3].bytes.resize(coco_.members[3].bytes.size() / 2);
  Open();
  options_.threads = 4;
  options_.prefetch_batches = 4;
  DataLoader loader(options_, *dataset_, *source_);
  const Schedule schedule = {{{0, 0}}, {{1, 1}}, {{2, 2}, {3, 3}}, {{4, 4}}};
  loader.Start(0, schedule);
  EXPECT_TRUE(loader.Next().ok());
  EXPECT_TRUE(loader.Next().ok());
  const absl::Status status = loader.Next().status();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("train.zip"), HasSubstr("3.jpg"), HasSubstr("damaged JPEG")));
  EXPECT_TRUE(absl::IsFailedPrecondition(loader.Next().status()));
  loader.Start(0, {{{4, 4}}});
  EXPECT_TRUE(loader.Next().ok());
}

TEST_F(DataLoaderTest, MissingMemberAndWrongSizeAreNamed) {
  coco_.members.erase(coco_.members.begin() + 1);
  coco_.json["images"][2]["width"] = 999;
  Open();
  DataLoader loader(options_, *dataset_, *source_);
  loader.Start(0, {{{1, 1}}});
  EXPECT_THAT(std::string(loader.Next().status().message()),
              AllOf(HasSubstr("train.zip"), HasSubstr("1.jpg")));
  loader.Start(0, {{{2, 2}}});
  EXPECT_THAT(std::string(loader.Next().status().message()),
              AllOf(HasSubstr("2.jpg"), HasSubstr("102x70"), HasSubstr("999x70")));
}

TEST_F(DataLoaderTest, StopsAndRestartsInTheMiddle) {
  Open();
  options_.threads = 4;
  for (int i = 0; i < 20; ++i) {
    DataLoader loader(options_, *dataset_, *source_);
    loader.Start(0, Epoch(0));
    if (i % 2 == 0) {
      EXPECT_TRUE(loader.Next().ok());
    }
    loader.Start(1, Epoch(1));
    if (i % 3 == 0) {
      EXPECT_TRUE(loader.Next().ok());
    }
  }
}

TEST_F(DataLoaderTest, BatchesOutliveTheLoader) {
  Open();
  std::shared_ptr<Batch> kept;
  {
    DataLoader loader(options_, *dataset_, *source_);
    loader.Start(0, Epoch(0));
    kept = *loader.Next();
  }
  ASSERT_NE(kept, nullptr);
  EXPECT_EQ(kept->samples.size(), 2U);
  EXPECT_EQ(kept->data()[0], kept->data()[0]);  // readable and no NaN
}

TEST_F(DataLoaderTest, MemoryIsReused) {
  options_.pipeline.canvas = Scale{160, 128};
  Open();
  DataLoader loader(options_, *dataset_, *source_);
  std::vector<const float*> buffers;
  for (uint64_t epoch = 0; epoch < 5; ++epoch) {
    loader.Start(epoch, Epoch(epoch));
    for (auto batch = loader.Next(); batch.ok() && *batch != nullptr; batch = loader.Next()) {
      buffers.push_back((*batch)->data());
    }
  }
  std::sort(buffers.begin(), buffers.end());
  buffers.erase(std::unique(buffers.begin(), buffers.end()), buffers.end());
  EXPECT_LE(buffers.size(), 5U);
}

TEST_F(DataLoaderTest, EmptySchedule) {
  Open();
  DataLoader loader(options_, *dataset_, *source_);
  loader.Start(0, {});
  const auto batch = loader.Next();
  ASSERT_TRUE(batch.ok());
  EXPECT_EQ(*batch, nullptr);
}

}  // namespace
}  // namespace muster::data
