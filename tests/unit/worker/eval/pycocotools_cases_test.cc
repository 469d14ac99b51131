// Random evaluations whose figures pycocotools gave: tests/golden/eval, and the eval_* folders that
// tests/parity/make_eval_cases.py has made in $MUSTER_PARITY_CASES or build/parity-cases.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/shared_data.h"
#include "worker/eval/coco_eval.h"
#include "worker/eval/coco_files.h"
#include <nlohmann/json.hpp>

namespace muster::eval {
namespace {

constexpr double kTolerance = 1e-9;

std::vector<std::filesystem::path> CasesBelow(const std::filesystem::path& folder) {
  std::set<std::filesystem::path> cases;
  if (std::filesystem::is_directory(folder)) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (std::filesystem::exists(entry.path() / "dt.json") &&
          entry.path().filename().string().rfind("eval_", 0) == 0) {
        cases.insert(entry.path());
      }
    }
  }
  return {cases.begin(), cases.end()};
}

std::vector<std::filesystem::path> GeneratedCases() {
  const char* set = std::getenv("MUSTER_PARITY_CASES");
  if (set == nullptr || *set == '\0') {
    return CasesBelow(testing::SourceFolder() / "build/parity-cases");
  }
  std::vector<std::filesystem::path> all;
  std::istringstream folders(set);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const auto found = CasesBelow(folder);
    all.insert(all.end(), found.begin(), found.end());
  }
  return all;
}

void CheckCase(const std::filesystem::path& folder) {
  SCOPED_TRACE(folder.filename().string());
  const auto ground_truth = ReadGroundTruth(folder / "gt.json");
  ASSERT_TRUE(ground_truth.ok()) << ground_truth.status();
  const auto detections = ReadDetections(folder / "dt.json");
  ASSERT_TRUE(detections.ok()) << detections.status();
  const CocoResult result = EvaluateCoco(*ground_truth, *detections);

  std::ifstream file(folder / "expected.json");
  const nlohmann::json expected = nlohmann::json::parse(file);
  const std::vector<NamedFigure> figures = NamedFigures(result.figures);
  ASSERT_EQ(figures.size(), expected.at("figures").size());
  for (const NamedFigure& figure : figures) {
    EXPECT_NEAR(figure.value, expected.at("figures").at(figure.name).get<double>(), kTolerance)
        << figure.name;
  }
  const nlohmann::json& categories = expected.at("categories");
  ASSERT_EQ(result.categories.size(), categories.size());
  for (const CategoryFigures& category : result.categories) {
    const nlohmann::json& of_class = categories.at(std::to_string(category.category_id));
    EXPECT_NEAR(category.ap, of_class.at("AP").get<double>(), kTolerance) << category.name;
    EXPECT_NEAR(category.ap50, of_class.at("AP50").get<double>(), kTolerance) << category.name;
    EXPECT_EQ(category.annotated, of_class.at("annotated").get<int64_t>()) << category.name;
  }
}

TEST(PycocotoolsCases, Golden) {
  const auto cases = CasesBelow(testing::SourceFolder() / "tests/golden/eval");
  EXPECT_GE(cases.size(), 10U);
  for (const auto& folder : cases) CheckCase(folder);
}

TEST(PycocotoolsCases, Generated) {
  const auto cases = GeneratedCases();
  if (cases.empty()) {
    // Not a skip: the golden cases above are the same kind.
    std::puts("no generated cases: tests/parity/make_eval_cases.py makes them");
  }
  for (const auto& folder : cases) CheckCase(folder);
  std::printf("%zu cases\n", cases.size());
}

}  // namespace
}  // namespace muster::eval
