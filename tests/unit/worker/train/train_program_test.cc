// The trainer as people run it: real processes, a real data set, two ranks over Gloo.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "tests/support/process.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/shapes_dataset.h"
#include <nlohmann/json.hpp>

namespace muster {
namespace {

namespace fs = std::filesystem;
using testing::Finished;
using ::testing::HasSubstr;
using testing::Process;

constexpr absl::Duration kPatience = absl::Seconds(120);

const char kConfig[] = R"(
model {
  num_classes: 5
  hrnet {
    width: 4 stem_channels: 16
    stage1 { num_modules: 1 num_blocks: 1 num_channels: [8] }
    stage2 { num_modules: 1 num_blocks: 1 }
    stage3 { num_modules: 1 num_blocks: 1 }
    stage4 { num_modules: 1 num_blocks: 1 }
  }
  hrfpn { out_channels: 16 }
  rpn_head {
    feat_channels: 16 anchor_scales: [4]
    train_proposals { nms_pre: 100 max_per_img: 50 }
    test_proposals { nms_pre: 100 max_per_img: 50 }
  }
  roi_head { fc_out_channels: 32 sampling_ratio: 2 sampler { num: 32 } }
  norm { type: NORM_TYPE_SYNC_BN }
}
data {
  root: "shapes"
  train { annotations: "annotations/instances_train.json" images: "images/train.zip" }
  val { annotations: "annotations/instances_val.json" images: "images/val.zip" }
  images_per_rank: 2
  multi_scale { scales: [{ long_side: 128 short_side: 96 }, { long_side: 96 short_side: 72 }] }
  test_scale { long_side: 128 short_side: 96 }
}
schedule { epochs: 2 warmup_steps: 4 grad_clip_norm: 35 optimizer { lr: 0.01 } }
checkpointing { every_steps: 2 keep_last: 20 }
resources { nodes: 2 }
)";

class TrainProgramTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = fs::temp_directory_path() / absl::StrCat("muster-train-", getpid());
    fs::create_directories(folder_);
    ASSERT_TRUE(
        data::WriteShapesDataset(
            folder_ / "shapes", {.train_images = 40, .val_images = 6, .size = {128, 96}, .seed = 1})
            .ok());
    testing::WriteText(folder_ / "job.textproto", kConfig);
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  static std::vector<std::string> Command(const std::string& output,
                                          std::vector<std::string> more = {}) {
    std::vector<std::string> command = {std::string(std::getenv("MUSTER_BIN")) + "/muster-trainer",
                                        "train",
                                        "--config",
                                        (folder_ / "job.textproto").string(),
                                        "--data-root",
                                        folder_.string(),
                                        "--ranks",
                                        "2",
                                        "--output",
                                        (folder_ / output).string()};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }

  static nlohmann::json Json(const fs::path& path) {
    return nlohmann::json::parse(testing::ReadText(path));
  }

  // Lines of metrics.jsonl of a mode.
  static std::vector<nlohmann::json> Metrics(const std::string& output, const std::string& mode) {
    std::vector<nlohmann::json> lines;
    std::istringstream text(testing::ReadText(folder_ / output / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      nlohmann::json entry = nlohmann::json::parse(line);
      if (entry["mode"] == mode) lines.push_back(std::move(entry));
    }
    return lines;
  }

  static fs::path folder_;
};

fs::path TrainProgramTest::folder_;

TEST_F(TrainProgramTest, AKilledAndResumedRunEndsWithTheBitsOfOneThatWasNot) {
  const Finished whole = testing::Run(Command("whole"), kPatience);
  ASSERT_EQ(whole.exit_code, 0) << whole.output;
  const nlohmann::json expected = Json(folder_ / "whole/epoch_2.pth.json");
  EXPECT_EQ(fs::read_symlink(folder_ / "whole/latest.pth"), "epoch_2.pth");
  EXPECT_TRUE(fs::exists(folder_ / "whole/results_1.json"));
  EXPECT_TRUE(fs::exists(folder_ / "whole/config.textproto"));

  Process killed(
      {.arguments = Command("killed"), .environment = {}, .output = folder_ / "killed.log"});
  ASSERT_TRUE(
      testing::WaitUntil([&] { return fs::exists(folder_ / "killed/step_4.pth.json"); }, kPatience))
      << killed.Output();
  killed.Signal(SIGKILL);
  killed.Wait(kPatience);
  ASSERT_THAT(killed.Output(), ::testing::Not(HasSubstr("training is complete")));
  // The ranks die with their launcher.
  ASSERT_TRUE(testing::WaitUntil(
      [&] { return testing::ProcessesWith((folder_ / "killed").string()).empty(); }, kPatience));

  const Finished resumed = testing::Run(Command("killed", {"--resume"}), kPatience);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("training resumes"));
  const nlohmann::json actual = Json(folder_ / "killed/epoch_2.pth.json");
  EXPECT_EQ(actual["digest"], expected["digest"]);
  EXPECT_EQ(actual["step"], expected["step"]);

  // Each step once, with the same losses.
  const auto steps = Metrics("killed", "train");
  const auto whole_steps = Metrics("whole", "train");
  ASSERT_EQ(steps.size(), whole_steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i]["step"], whole_steps[i]["step"]);
    EXPECT_EQ(steps[i]["loss"], whole_steps[i]["loss"]);
    EXPECT_EQ(steps[i]["grad_norm"], whole_steps[i]["grad_norm"]);
  }
  EXPECT_EQ(Metrics("killed", "val").back()["AP"], Metrics("whole", "val").back()["AP"]);

  // evaluate and score give the figures that training gave.
  const std::string trainer = std::string(std::getenv("MUSTER_BIN")) + "/muster-trainer";
  const Finished evaluated = testing::Run(
      {trainer, "evaluate", "--config", (folder_ / "job.textproto").string(), "--data-root",
       folder_.string(), "--checkpoint", (folder_ / "whole/latest.pth").string(), "--json"},
      kPatience);
  ASSERT_EQ(evaluated.exit_code, 0) << evaluated.output;
  const Finished scored =
      testing::Run({trainer, "score", "--annotations",
                    (folder_ / "shapes/annotations/instances_val.json").string(), "--results",
                    (folder_ / "whole/results_2.json").string(), "--json"},
                   kPatience);
  ASSERT_EQ(scored.exit_code, 0) << scored.output;
  const nlohmann::json figures = nlohmann::json::parse(scored.output);
  EXPECT_EQ(figures.size(), 12u);
  EXPECT_EQ(figures["AP50"], Metrics("whole", "val").back()["AP50"]);
  const nlohmann::json again = nlohmann::json::parse(evaluated.output);
  EXPECT_NEAR(again["AP50"].get<double>(), figures["AP50"].get<double>(), 1e-6);

  const Finished refused = testing::Run(Command("whole"), kPatience);
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("--resume"));
}

TEST_F(TrainProgramTest, MaxStepsThenResumeGoesOnToTheEnd) {
  const Finished first = testing::Run(Command("steps", {"--max-steps", "3"}), kPatience);
  ASSERT_EQ(first.exit_code, 0) << first.output;
  EXPECT_EQ(Json(folder_ / "steps/step_3.pth.json")["step"], "3");
  const Finished second =
      testing::Run(Command("steps", {"--resume", "--max-steps", "5"}), kPatience);
  ASSERT_EQ(second.exit_code, 0) << second.output;
  EXPECT_EQ(Metrics("steps", "train").size(), 5u);
}

TEST_F(TrainProgramTest, ALossThatIsNotFiniteStopsAllRanksAndNamesItself) {
  const Finished run = testing::Run(
      Command("nan", {"--set", "schedule.optimizer.lr=1e30", "--set", "schedule.grad_clip_norm=0",
                      "--set", "schedule.warmup_steps=0"}),
      kPatience);
  EXPECT_EQ(run.exit_code, 13) << run.output;
  EXPECT_THAT(run.output, HasSubstr("the loss is not finite at step "));
  EXPECT_THAT(run.output, ::testing::ContainsRegex(
                              "loss_[a-z_]+ is -?(nan|inf).* on rank [01], images [0-9]+"));
  // Nothing was updated by it: the newest checkpoint is from before.
  for (const auto& entry : fs::directory_iterator(folder_ / "nan")) {
    EXPECT_EQ(entry.path().filename().string().find("epoch_1"), std::string::npos);
  }
}

TEST_F(TrainProgramTest, SigtermStopsWithACheckpointAndZero) {
  Process run({.arguments = Command("stopped", {"--set", "schedule.epochs=1000"}),
               .environment = {},
               .output = folder_ / "stopped.log"});
  ASSERT_TRUE(testing::WaitUntil([&] { return fs::exists(folder_ / "stopped/step_2.pth.json"); },
                                 kPatience))
      << run.Output();
  run.Signal(SIGTERM);
  const std::optional<int> status = run.Wait(kPatience);
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(WIFEXITED(*status) && WEXITSTATUS(*status) == 0) << run.Output();
  EXPECT_THAT(run.Output(), HasSubstr("training stopped"));
  EXPECT_TRUE(testing::ProcessesWith((folder_ / "stopped").string()).empty());
}

TEST_F(TrainProgramTest, ADeadRankEndsTheRun) {
  Process run({.arguments = Command("dead", {"--set", "schedule.epochs=1000"}),
               .environment = {},
               .output = folder_ / "dead.log"});
  ASSERT_TRUE(
      testing::WaitUntil([&] { return fs::exists(folder_ / "dead/step_2.pth.json"); }, kPatience))
      << run.Output();
  for (const pid_t pid : testing::ProcessesWith((folder_ / "dead").string())) {
    if (pid != run.pid()) {
      kill(pid, SIGKILL);
      break;
    }
  }
  const std::optional<int> status = run.Wait(kPatience);
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(WIFEXITED(*status) && WEXITSTATUS(*status) == 128 + SIGKILL) << run.Output();
  EXPECT_THAT(run.Output(), HasSubstr("was killed by signal 9"));
}

TEST_F(TrainProgramTest, BadInputIsOneErrorWithItsExitCode) {
  const Finished unknown = testing::Run(Command("bad", {"--set", "schedule.epoks=3"}), kPatience);
  EXPECT_EQ(unknown.exit_code, 3) << unknown.output;
  EXPECT_THAT(unknown.output, HasSubstr("epoks"));

  const Finished missing =
      testing::Run(Command("bad", {"--set", "data.train.images=images/none.zip"}), kPatience);
  EXPECT_EQ(missing.exit_code, 12) << missing.output;
  EXPECT_THAT(missing.output, HasSubstr("none.zip"));

  const Finished classes =
      testing::Run(Command("bad", {"--set", "model.num_classes=7"}), kPatience);
  EXPECT_EQ(classes.exit_code, 3) << classes.output;
  EXPECT_THAT(classes.output, HasSubstr("model.num_classes"));

  const Finished option = testing::Run(Command("bad", {"--no-such-option"}), kPatience);
  EXPECT_EQ(option.exit_code, 2) << option.output;

  testing::WriteText(folder_ / "cut.pth", "PK\x03\x04 and no more");
  const Finished cut =
      testing::Run({std::string(std::getenv("MUSTER_BIN")) + "/muster-trainer", "evaluate",
                    "--config", (folder_ / "job.textproto").string(), "--data-root",
                    folder_.string(), "--checkpoint", (folder_ / "cut.pth").string()},
                   kPatience);
  EXPECT_EQ(cut.exit_code, 14) << cut.output;
  EXPECT_THAT(cut.output, HasSubstr("cut.pth"));
}

}  // namespace
}  // namespace muster
