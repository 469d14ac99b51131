#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include <nlohmann/json.hpp>

namespace muster::testing {

// The trainer as people run it, on a tiny model and a made data set: 40 training images (20 chunks
// of two an epoch) and 7 validation images. One folder for all tests of a program.
class TrainProgramTest : public ::testing::Test {
 protected:
  static constexpr absl::Duration kPatience = absl::Seconds(120);

  static void SetUpTestSuite();
  static void TearDownTestSuite();

  static const std::filesystem::path& folder();
  static std::string Trainer();

  // train into folder() / output, with checkpoints every two steps.
  static std::vector<std::string> Train(const std::string& output, int ranks,
                                        const std::vector<std::string>& more = {});
  // evaluate with a checkpoint below folder().
  static std::vector<std::string> Evaluate(const std::string& checkpoint,
                                           const std::vector<std::string>& more = {});
  // Runs it to its end and expects exit code 0; returns what it wrote.
  static std::string RunWell(const std::vector<std::string>& command);

  // The description of a checkpoint in folder() / output.
  static nlohmann::json Description(const std::string& output, const std::string& checkpoint);
  // Lines of a run's metrics.jsonl of a mode.
  static std::vector<nlohmann::json> Metrics(const std::string& output, const std::string& mode);
  // The same numbers to the last bit: steps, losses, learning rates and gradient norms.
  static void ExpectSameSteps(const std::string& output, const std::string& expected);
};

}  // namespace muster::testing
