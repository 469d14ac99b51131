// The first steps of the quick configs, against numbers kept in tests/golden (README there).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/shapes_dataset.h"
#include <nlohmann/json.hpp>

namespace muster::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kSteps = 6;
// Kernels that every x86-64 CPU computes the same bits with (README).
const std::vector<std::string> kAnyCpu = {"ATEN_CPU_CAPABILITY=default", "ONEDNN_MAX_CPU_ISA=SSE41",
                                          "MKL_CBWR=COMPATIBLE"};

Json TraceOf(const fs::path& output) {
  Json trace = Json::array();
  std::istringstream text(ReadText(output / "metrics.jsonl"));
  for (std::string line; std::getline(text, line);) {
    const Json entry = Json::parse(line);
    Json step;
    for (const char* field :
         {"step", "lr", "loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "grad_norm"}) {
      step[field] = entry.at(field);
    }
    trace.push_back(std::move(step));
  }
  return trace;
}

// One rank with one thread (CTest sets OMP_NUM_THREADS).
Json TrainSteps(const std::string& config, const fs::path& data_root, const fs::path& output,
                const std::vector<std::string>& environment = kAnyCpu) {
  const Finished run =
      Run({(ProgramFolder() / "muster-trainer").string(), "train", "--config",
           (SourceFolder() / "configs/quick" / (config + ".textproto")).string(), "--data-root",
           data_root.string(), "--output", output.string(), "--max-steps", absl::StrCat(kSteps)},
          absl::Seconds(120), environment);
  EXPECT_EQ(run.exit_code, 0) << run.output;
  return TraceOf(output);
}

void ExpectNear(const Json& step, const Json& golden, double relative) {
  for (const auto& [field, value] : golden.items()) {
    const double expected = value.get<double>();
    const double margin = field == "step" || field == "lr" ? 1e-12 : relative;
    EXPECT_NEAR(step.at(field).get<double>(), expected, margin * std::abs(expected))
        << field << " of step " << golden.at("step");
  }
}

fs::path GoldenFile(const std::string& config) {
  return SourceFolder() / "tests/golden" / (config + "_loss_trace.json");
}

void ExpectGolden(const std::string& config, const Json& trace) {
  const fs::path file = GoldenFile(config);
  if (std::getenv("MUSTER_UPDATE_GOLDEN") != nullptr) {
    std::string lines;
    for (const Json& step : trace) absl::StrAppend(&lines, lines.empty() ? "" : ",\n", step.dump());
    WriteText(file, absl::StrCat("[\n", lines, "\n]\n"));
  }
  const Json golden = Json::parse(ReadText(file));
  ASSERT_EQ(trace.size(), golden.size());
  double relative = 1e-6;
  for (size_t i = 0; i < trace.size(); ++i) {
    ExpectNear(trace[i], golden[i], relative);
    relative *= 10;
  }
}

TEST(LossTraceTest, Demo) {
  const TemporaryFolder folder;
  ASSERT_TRUE(
      data::WriteShapesDataset(folder.path() / "shapes", {.train_images = 24, .val_images = 2})
          .ok());
  const Json trace = TrainSteps("demo", folder.path(), folder.path() / "first");
  ExpectGolden("demo", trace);
  EXPECT_EQ(TrainSteps("demo", folder.path(), folder.path() / "second"), trace)
      << "two runs differ in their last bits";
  // With the kernels of this CPU the first step is the same up to rounding.
  const Json fast = TrainSteps("demo", folder.path(), folder.path() / "fast", {});
  ExpectNear(fast[0], Json::parse(ReadText(GoldenFile("demo")))[0], 2e-4);
}

void ExpectGoldenOnSharedData(const std::string& config) {
  const std::optional<fs::path> shared = SharedData();
  if (!shared.has_value()) GTEST_SKIP() << "no shared data";
  const TemporaryFolder folder;
  ExpectGolden(config, TrainSteps(config, *shared / "data", folder.path()));
}

TEST(LossTraceTest, Bccd) { ExpectGoldenOnSharedData("bccd"); }

TEST(LossTraceTest, CocoCc) { ExpectGoldenOnSharedData("coco_cc"); }

}  // namespace
}  // namespace muster::testing
