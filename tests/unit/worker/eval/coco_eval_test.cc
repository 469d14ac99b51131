#include "worker/eval/coco_eval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/shared_data.h"
#include "worker/eval/coco_files.h"
#include <nlohmann/json.hpp>

namespace muster::eval {
namespace {

using ::testing::DoubleNear;
using ::testing::HasSubstr;

class SharedCase : public ::testing::TestWithParam<std::string> {};

TEST_P(SharedCase, FiguresEqualPycocotools) {
  const auto shared = testing::SharedData();
  if (!shared.has_value()) GTEST_SKIP() << "no ../shared";
  const std::filesystem::path folder = *shared / "eval" / GetParam();
  const auto ground_truth = ReadGroundTruth(folder / "gt.json");
  ASSERT_TRUE(ground_truth.ok()) << ground_truth.status();
  const auto detections = ReadDetections(folder / "dt.json");
  ASSERT_TRUE(detections.ok()) << detections.status();
  ASSERT_TRUE(CheckDetections(*ground_truth, *detections).ok());
  const CocoResult result = EvaluateCoco(*ground_truth, *detections);

  std::ifstream file(folder / "expected.json");
  const nlohmann::json expected = nlohmann::json::parse(file).at("pycocotools_2.0.11");
  ASSERT_EQ(expected.size(), 12U);
  for (const NamedFigure& figure : NamedFigures(result.figures)) {
    EXPECT_THAT(figure.value, DoubleNear(expected.at(figure.name).get<double>(), 1e-9))
        << figure.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Eval, SharedCase,
                         ::testing::Values("cocoapi_fake100_boxarea", "cocoapi_val2014_fake100",
                                           "fce_ignore"));

GroundTruthBox Object(int64_t id, int64_t image, std::array<double, 4> bbox, int64_t category = 1) {
  return {.id = id,
          .image_id = image,
          .category_id = category,
          .bbox = bbox,
          .area = bbox[2] * bbox[3]};
}

// Two images, two classes; 40x40 pixels, so medium.
GroundTruth TwoClasses() {
  return {.image_ids = {7, 0},
          .categories = {{1, "cat"}, {2, "dog"}},
          .boxes = {Object(1, 0, {0, 0, 40, 40}), Object(2, 7, {10, 10, 40, 40}),
                    Object(3, 7, {100, 100, 40, 40}, 2)}};
}

TEST(EvaluateCocoTest, PerfectDetectionsScoreOne) {
  const std::vector<Detection> detections = {
      {0, 1, {0, 0, 40, 40}, 0.9}, {7, 1, {10, 10, 40, 40}, 0.8}, {7, 2, {100, 100, 40, 40}, 0.7}};
  const CocoFigures figures = EvaluateCoco(TwoClasses(), detections).figures;
  EXPECT_NEAR(figures.ap, 1, 1e-12);
  EXPECT_NEAR(figures.ap_medium, 1, 1e-12);
  EXPECT_EQ(figures.ap_small, -1);  // nothing small is annotated
  EXPECT_EQ(figures.ap_large, -1);
  EXPECT_NEAR(figures.ar1, 1, 1e-12);
}

TEST(EvaluateCocoTest, NoDetectionsScoreZero) {
  const CocoResult result = EvaluateCoco(TwoClasses(), {});
  EXPECT_EQ(result.figures.ap, 0);
  EXPECT_EQ(result.figures.ar100, 0);
  EXPECT_EQ(result.figures.ar_small, -1);
  ASSERT_EQ(result.categories.size(), 2U);
  EXPECT_EQ(result.categories[0].annotated, 2);
  EXPECT_EQ(result.categories[0].ap, 0);
}

TEST(EvaluateCocoTest, NothingAnnotatedGivesMinusOne) {
  const GroundTruth empty = {.image_ids = {1}, .categories = {{1, "cat"}}, .boxes = {}};
  for (const NamedFigure& figure :
       NamedFigures(EvaluateCoco(empty, {{{1, 1, {0, 0, 9, 9}, 0.5}}}).figures)) {
    EXPECT_EQ(figure.value, -1) << figure.name;
  }
}

TEST(EvaluateCocoTest, CrowdAbsorbsDetectionsWithoutCountingThem) {
  GroundTruth ground_truth = {
      .image_ids = {1},
      .categories = {{1, "cat"}},
      .boxes = {Object(1, 1, {0, 0, 200, 200}), Object(2, 1, {300, 0, 50, 50})}};
  ground_truth.boxes[0].crowd = true;
  // Three inside the crowd region with better scores than the hit.
  const std::vector<Detection> detections = {{1, 1, {0, 0, 40, 40}, 0.9},
                                             {1, 1, {50, 50, 40, 40}, 0.8},
                                             {1, 1, {100, 100, 40, 40}, 0.7},
                                             {1, 1, {300, 0, 50, 50}, 0.6}};
  EXPECT_NEAR(EvaluateCoco(ground_truth, detections).figures.ap, 1, 1e-12);
  ground_truth.boxes[0].crowd = false;
  EXPECT_LT(EvaluateCoco(ground_truth, detections).figures.ap, 0.5);
}

TEST(EvaluateCocoTest, EqualScoresKeepTheOrderOfDetections) {
  const GroundTruth ground_truth = {
      .image_ids = {1}, .categories = {{1, "cat"}}, .boxes = {Object(1, 1, {0, 0, 50, 50})}};
  const Detection hit = {1, 1, {0, 0, 50, 50}, 0.5};
  const Detection miss = {1, 1, {200, 0, 50, 50}, 0.5};
  EXPECT_NEAR(EvaluateCoco(ground_truth, std::vector{hit, miss}).figures.ap, 1, 1e-12);
  EXPECT_NEAR(EvaluateCoco(ground_truth, std::vector{miss, hit}).figures.ap, 0.5, 1e-12);
}

TEST(EvaluateCocoTest, OnlyTheFirstHundredOfAnImageCount) {
  const GroundTruth ground_truth = {
      .image_ids = {1}, .categories = {{1, "cat"}}, .boxes = {Object(1, 1, {0, 0, 50, 50})}};
  std::vector<Detection> detections(100, Detection{1, 1, {200, 0, 50, 50}, 0.9});
  detections.push_back({1, 1, {0, 0, 50, 50}, 0.5});
  EXPECT_EQ(EvaluateCoco(ground_truth, detections).figures.ar100, 0);
  detections.erase(detections.begin());
  EXPECT_EQ(EvaluateCoco(ground_truth, detections).figures.ar100, 1);
  EXPECT_EQ(EvaluateCoco(ground_truth, detections).figures.ar10, 0);
}

TEST(EvaluateCocoTest, OrderOfRanksDoesNotMatterAfterSortByImage) {
  const std::vector<Detection> rank0 = {{0, 1, {0, 0, 40, 40}, 0.5}, {0, 1, {90, 0, 40, 40}, 0.5}};
  const std::vector<Detection> rank1 = {{7, 1, {10, 10, 40, 40}, 0.5}};
  std::vector<Detection> a = rank0;
  a.insert(a.end(), rank1.begin(), rank1.end());
  std::vector<Detection> b = rank1;
  b.insert(b.end(), rank0.begin(), rank0.end());
  SortByImage(&a);
  SortByImage(&b);
  EXPECT_EQ(a, b);
}

TEST(EvaluateCocoTest, ObjectWithIdZeroIsCountedAsPycocotoolsDoes) {
  const GroundTruth ground_truth = {
      .image_ids = {0}, .categories = {{0, "cat"}}, .boxes = {Object(0, 0, {0, 0, 50, 50}, 0)}};
  const CocoFigures figures = EvaluateCoco(ground_truth, {{{0, 0, {0, 0, 50, 50}, 0.9}}}).figures;
  EXPECT_EQ(figures.ap, 0);
  EXPECT_EQ(figures.ar100, 0);
}

TEST(SummaryTableTest, ShowsFiguresAndClasses) {
  const std::string table = SummaryTable(EvaluateCoco(TwoClasses(), {}));
  EXPECT_THAT(table, HasSubstr("AP50"));
  EXPECT_THAT(table, HasSubstr("dog"));
  EXPECT_THAT(table, HasSubstr("0.0"));
}

}  // namespace
}  // namespace muster::eval
