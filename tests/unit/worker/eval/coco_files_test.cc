#include "worker/eval/coco_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "tests/support/shared_data.h"

namespace muster::eval {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CocoFilesTest : public ::testing::Test {
 protected:
  std::filesystem::path Write(const std::string& text) {
    const std::filesystem::path path = folder_.path() / "file.json";
    std::ofstream(path) << text;
    return path;
  }
  std::string DetectionsError(const std::string& text) {
    return std::string(ReadDetections(Write(text)).status().message());
  }

  testing::TemporaryFolder folder_;
};

TEST_F(CocoFilesTest, DetectionsSurviveWritingBitForBit) {
  const std::vector<Detection> detections = {
      {42, 18, {258.15, 1.0 / 3, 1e-7, 243.78}, 0.1 + 0.2},
      {-1, 90, {static_cast<double>(0.1F), 0, 1e6, std::nextafter(7.0, 8)}, 1}};
  const std::filesystem::path path = folder_.path() / "results.json";
  ASSERT_TRUE(WriteDetections(path, detections).ok());
  const auto read = ReadDetections(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, detections);
}

TEST_F(CocoFilesTest, NoDetectionsAreAnEmptyList) {
  const std::filesystem::path path = folder_.path() / "results.json";
  ASSERT_TRUE(WriteDetections(path, {}).ok());
  const auto read = ReadDetections(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->empty());
}

TEST_F(CocoFilesTest, DetectionErrorsNameFileEntryAndField) {
  const std::string good = R"({"image_id":1,"category_id":1,"bbox":[1,2,3,4],"score":0.5})";
  EXPECT_THAT(
      DetectionsError(absl::StrCat("[", good, R"(,{"image_id":1,"category_id":1,"score":0.5}])")),
      AllOf(HasSubstr("file.json"), HasSubstr("[1]"), HasSubstr("bbox"), HasSubstr("missing")));
  EXPECT_THAT(DetectionsError(R"([{"image_id":1,"category_id":1,"bbox":[1,2,3],"score":0.5}])"),
              AllOf(HasSubstr("[0]"), HasSubstr("bbox"), HasSubstr("4 finite numbers")));
  EXPECT_THAT(DetectionsError(R"([{"image_id":1,"category_id":1,"bbox":[1,2,3,4],"score":NaN}])"),
              AllOf(HasSubstr("[0]"), HasSubstr("score"), HasSubstr("finite")));
  EXPECT_THAT(DetectionsError(R"([{"image_id":"a","category_id":1,"bbox":[1,2,3,4],"score":1}])"),
              AllOf(HasSubstr("image_id"), HasSubstr("integer")));
  EXPECT_THAT(DetectionsError(R"({"images":[]})"), HasSubstr("not a COCO results file"));
  EXPECT_THAT(DetectionsError(absl::StrCat("[", good)), HasSubstr("file.json"));
  EXPECT_THAT(DetectionsError(""), HasSubstr("file.json"));
}

TEST_F(CocoFilesTest, MissingFileIsNotFound) {
  const absl::Status status = ReadDetections(folder_.path() / "none.json").status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("none.json"));
}

TEST_F(CocoFilesTest, DetectionOfAnUnknownImageIsRefused) {
  const GroundTruth ground_truth = {.image_ids = {1}, .categories = {{1, "cat"}}, .boxes = {}};
  const absl::Status status = CheckDetections(ground_truth, {{{5, 1, {0, 0, 1, 1}, 0.5}}});
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("image_id 5"));
}

TEST_F(CocoFilesTest, GroundTruthKeepsAreaAndCrowd) {
  const auto read = ReadGroundTruth(Write(R"({
    "annotations": [{"id": 5, "image_id": 3, "category_id": 0, "bbox": [1, 2, 3, 4.5], "area": 7,
                     "iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [5, 5]}}],
    "images": [{"id": 3}],
    "categories": [{"id": 2, "name": "b"}, {"id": 0, "name": "a"}]})"));
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->boxes.size(), 1U);
  EXPECT_EQ(read->boxes[0].area, 7);
  EXPECT_TRUE(read->boxes[0].crowd);
  EXPECT_EQ(read->boxes[0].bbox, (std::array<double, 4>{1, 2, 3, 4.5}));
  EXPECT_EQ(read->categories[0].name, "a");
  EXPECT_EQ(read->image_ids, std::vector<int64_t>{3});
}

}  // namespace
}  // namespace muster::eval
