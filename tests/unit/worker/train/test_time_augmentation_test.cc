#include "worker/train/test_time_augmentation.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"

#include "common/config/defaults.h"
#include "tests/support/parity.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"
#include "worker/train/data_split.h"
#include "worker/train/evaluator.h"
#include "worker/train/failure.h"
#include <nlohmann/json.hpp>

namespace muster::train {
namespace {

config::v1::TrainJob Job() {
  config::v1::TrainJob job;
  *job.mutable_model() = testing::TinyModel();
  config::v1::Scale* scale = job.mutable_data()->mutable_multi_scale()->add_scales();
  scale->set_long_side(128);
  scale->set_short_side(96);
  config::ApplyDefaults(&job);
  return job;
}

model::Detections Make(const std::vector<std::vector<float>>& boxes,
                       const std::vector<float>& scores, const std::vector<int64_t>& labels) {
  at::Tensor all = at::zeros({static_cast<int64_t>(boxes.size()), 4});
  for (size_t i = 0; i < boxes.size(); ++i) {
    all[static_cast<int64_t>(i)] = torch::tensor(boxes[i]);
  }
  return {all, torch::tensor(scores), torch::tensor(labels, at::kLong)};
}

TEST(EvaluationViewsTest, EachScaleAndItsMirrorImage) {
  config::v1::TrainJob job = Job();
  EXPECT_EQ(EvaluationViews(job)->size(), 1u);
  EXPECT_EQ(EvaluationViews(job)->front().scales.front(), (data::Scale{128, 96}));
  job.mutable_evaluation()->set_tta_flip(true);
  config::v1::Scale* scale = job.mutable_evaluation()->add_tta_scales();
  scale->set_long_side(160);
  scale->set_short_side(120);
  *job.mutable_evaluation()->add_tta_scales() = job.data().test_scale();
  const auto views = EvaluationViews(job).value();
  ASSERT_EQ(views.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(views[i].scales.size(), 1u);
    EXPECT_EQ(views[i].scales.front(), (i < 2 ? data::Scale{160, 120} : data::Scale{128, 96}));
    EXPECT_EQ(views[i].flip_ratio, i % 2 == 0 ? 0 : 1);
  }
}

TEST(UnmirrorTest, TurnsBoxesOver) {
  const model::Detections turned = Unmirror(Make({{10, 5, 30, 25}}, {0.5F}, {1}), 100);
  EXPECT_TRUE(turned.boxes.equal(torch::tensor({{70.0F, 5.0F, 90.0F, 25.0F}})));
}

TEST(MergeViewsTest, SuppressesWithinClassesAndKeepsTheBest) {
  config::v1::RoIHead config = Job().model().roi_head();
  const model::Detections first =
      Make({{0, 0, 10, 10}, {50, 50, 60, 60}, {80, 0, 90, 10}}, {0.9F, 0.5F, 0.3F}, {0, 1, 0});
  // Overlaps: the first of the other view (same class), its second (another class).
  const model::Detections second =
      Make({{0, 0, 10, 9}, {50, 50, 60, 61}, {20, 20, 30, 30}}, {0.8F, 0.6F, 0.4F}, {0, 0, 1});
  model::Detections merged = MergeViews({first, second}, config);
  EXPECT_TRUE(merged.scores.equal(torch::tensor({0.9F, 0.6F, 0.5F, 0.4F, 0.3F})));
  EXPECT_TRUE(merged.labels.equal(torch::tensor({0, 0, 1, 1, 0}, at::kLong)));
  EXPECT_TRUE(merged.boxes[1].equal(torch::tensor({50.0F, 50.0F, 60.0F, 61.0F})));

  config.set_max_per_img(2);
  EXPECT_TRUE(MergeViews({first, second}, config).scores.equal(torch::tensor({0.9F, 0.6F})));
  config.set_class_agnostic_nms(true);
  config.set_max_per_img(100);
  EXPECT_TRUE(
      MergeViews({first, second}, config).scores.equal(torch::tensor({0.9F, 0.6F, 0.4F, 0.3F})));
  // One view is not touched: its NMS is done.
  EXPECT_TRUE(MergeViews({first}, config).scores.equal(first.scores));
}

model::Detections Read(const nlohmann::json& json) {
  const auto boxes = json["boxes"].get<std::vector<std::vector<float>>>();
  return Make(boxes, json["scores"].get<std::vector<float>>(),
              json["labels"].get<std::vector<int64_t>>());
}

// tests/parity/make_tta_cases.py has asked mmdetection.
TEST(MergeViewsTest, EqualsDetTTAModel) {
  std::ifstream file(testing::SourceFolder() / "tests/golden/tta_cases.json");
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_EQ(cases.size(), 12u);
  int64_t compared = 0;
  for (const nlohmann::json& one : cases) {
    config::v1::RoIHead config = Job().model().roi_head();
    config.set_nms_iou_threshold(one["iou_threshold"].get<double>());
    config.set_max_per_img(one["max_per_img"].get<uint32_t>());
    std::vector<model::Detections> views;
    for (const nlohmann::json& view : one["views"]) {
      views.push_back(Read(view));
      if (view["flip"].get<bool>()) {
        views.back() = Unmirror(std::move(views.back()), one["width"].get<double>());
      }
    }
    const model::Detections merged = MergeViews(std::move(views), config);
    const model::Detections expected = Read(one["merged"]);
    ASSERT_EQ(merged.scores.size(0), expected.scores.size(0));
    EXPECT_TRUE(merged.boxes.equal(expected.boxes));
    EXPECT_TRUE(merged.scores.equal(expected.scores));
    EXPECT_TRUE(merged.labels.equal(expected.labels));
    compared += merged.scores.size(0);
  }
  EXPECT_GT(compared, 50);
}

// An image and its mirror image show the model the same two views, so that their merged detections
// mirror each other.
TEST(EvaluatorTest, AMirroredImageHasMirroredDetections) {
  cv::Mat image(96, 128, CV_8UC3);
  cv::randu(image, 0, 255);
  cv::Mat mirrored;
  cv::flip(image, mirrored, 1);
  testing::TinyCoco coco;
  for (const cv::Mat& one : {image, mirrored}) {
    const std::string name = std::to_string(coco.members.size()) + ".png";
    coco.AddImage(name, {128, 96});
    std::vector<uchar> png;
    ASSERT_TRUE(cv::imencode(".png", one, png));
    coco.members.back().bytes.assign(png.begin(), png.end());
  }
  const testing::TemporaryFolder folder;
  coco.Write(folder.path(), "val");

  config::v1::TrainJob job = Job();
  job.mutable_evaluation()->set_tta_flip(true);
  job.mutable_data()->mutable_val()->set_annotations("annotations/instances_val.json");
  job.mutable_data()->mutable_val()->set_images("images/val.zip");
  job.mutable_model()->set_num_classes(2);
  job.mutable_model()->mutable_roi_head()->set_score_thr(0.001);
  const DataSplit split =
      Require(OpenSplit(folder.path(), job.data().val(), "data.val"), base::kExitDataError);
  model::FasterRCNN model(job.model(), 1);
  std::vector<int64_t> totals;
  const auto detections =
      Evaluator(job, split, at::kCPU).Detect(model, {0, 1}, [&](int64_t, int64_t total) {
        totals.push_back(total);
        return true;
      });
  ASSERT_TRUE(detections.has_value());
  EXPECT_EQ(totals.back(), 4);
  std::vector<eval::Detection> own;
  std::vector<eval::Detection> other;
  for (eval::Detection detection : *detections) {
    if (detection.image_id == 1) {
      own.push_back(detection);
    } else {
      detection.bbox[0] = 128 - detection.bbox[0] - detection.bbox[2];
      other.push_back(detection);
    }
  }
  ASSERT_GT(own.size(), 20u);
  ASSERT_EQ(own.size(), other.size());
  for (size_t i = 0; i < own.size(); ++i) {
    EXPECT_EQ(own[i].score, other[i].score);
    EXPECT_EQ(own[i].category_id, other[i].category_id);
    for (size_t side = 0; side < 4; ++side) {
      EXPECT_NEAR(own[i].bbox[side], other[i].bbox[side], 1e-4);
    }
  }
}

TEST(EvaluatorTest, StopsWhenItIsAsked) {
  testing::TinyCoco coco;
  for (int i = 0; i < 3; ++i) coco.AddImage(std::to_string(i) + ".jpg", {64, 48});
  const testing::TemporaryFolder folder;
  coco.Write(folder.path(), "val");
  config::v1::TrainJob job = Job();
  job.mutable_data()->mutable_val()->set_annotations("annotations/instances_val.json");
  job.mutable_data()->mutable_val()->set_images("images/val.zip");
  job.mutable_model()->set_num_classes(2);
  const DataSplit split =
      Require(OpenSplit(folder.path(), job.data().val(), "data.val"), base::kExitDataError);
  model::FasterRCNN model(job.model(), 1);
  const auto alone = dist::MakeSoleCommunicator();
  int64_t seen = 0;
  const EvaluationOutcome outcome =
      Evaluator(job, split, at::kCPU).Evaluate(model, *alone, [&](int64_t done, int64_t) {
        seen = done;
        return done < 2;
      });
  EXPECT_FALSE(outcome.complete);
  EXPECT_EQ(seen, 2);
}

}  // namespace
}  // namespace muster::train
