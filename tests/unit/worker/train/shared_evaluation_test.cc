// evaluate, by several ranks and with test-time augmentation.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "tests/support/tiny_coco.h"
#include "tests/unit/worker/train/train_program.h"
#include <nlohmann/json.hpp>

namespace muster::testing {
namespace {

class SharedEvaluationTest : public TrainProgramTest {
 protected:
  static void SetUpTestSuite() {
    TrainProgramTest::SetUpTestSuite();
    RunWell(Train("run", 2, {"--set", "schedule.epochs=1"}));
  }

  // The detections that evaluate writes.
  static std::string Detections(int ranks, std::vector<std::string> more = {}) {
    const std::string file = (folder() / "detections.json").string();
    more.insert(more.end(), {"--ranks", absl::StrCat(ranks), "--output", file});
    figures_ = RunWell(Evaluate("run/epoch_1.pth", more));
    return ReadText(file);
  }

  static std::string figures_;
};

std::string SharedEvaluationTest::figures_;

TEST_F(SharedEvaluationTest, TheNumberOfRanksChangesNothing) {
  // 7 images in batches of one and of two (orientations apart): no number of ranks divides them.
  for (const char* batch : {"1", "2"}) {
    const std::vector<std::string> set = {"--json", "--set",
                                          absl::StrCat("data.test_images_per_rank=", batch)};
    const std::string alone = Detections(1, set);
    const std::string figures = figures_;
    for (const int ranks : {2, 3}) {
      EXPECT_EQ(Detections(ranks, set), alone) << ranks << " ranks, batches of " << batch;
      EXPECT_EQ(figures_, figures);
    }
    std::map<int64_t, int> per_image;
    const nlohmann::json detections = nlohmann::json::parse(alone);
    for (const auto& detection : detections) ++per_image[detection["image_id"].get<int64_t>()];
    EXPECT_EQ(per_image.size(), 7u);
    for (const auto& [image, count] : per_image) EXPECT_LE(count, 100) << image;
  }
  // Training's own evaluation, by two ranks.
  EXPECT_EQ(Detections(1), ReadText(folder() / "run/results_1.json"));
}

TEST_F(SharedEvaluationTest, MoreRanksThanImagesAreNoError) {
  EXPECT_EQ(Detections(8), Detections(1));
}

TEST_F(SharedEvaluationTest, AugmentationMergesTheViewsOfAllRanks) {
  const std::vector<std::string> set = {
      "--set", "evaluation.tta_flip=true", "--set",
      "evaluation.tta_scales=[{long_side: 128 short_side: 96}, {long_side: 160 short_side: 120}]"};
  const std::string alone = Detections(1, set);
  EXPECT_NE(alone, Detections(1));
  EXPECT_EQ(Detections(3, set), alone);
}

}  // namespace
}  // namespace muster::testing
