// The trainer as people run it: real processes, a real data set, two ranks over Gloo.
#include "tests/unit/worker/train/train_program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/exit_codes.h"
#include "tests/support/process.h"
#include "tests/support/tiny_coco.h"
#include <nlohmann/json.hpp>

namespace muster::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

TEST_F(TrainProgramTest, TrainsEvaluatesAndLeavesItsFiles) {
  RunWell(Train("whole", 2));
  EXPECT_EQ(fs::read_symlink(folder() / "whole/latest.pth"), "epoch_2.pth");
  EXPECT_TRUE(fs::exists(folder() / "whole/results_1.json"));
  EXPECT_TRUE(fs::exists(folder() / "whole/config.textproto"));
  EXPECT_EQ(Metrics("whole", "train").size(), 20u);

  // evaluate and score give the figures that training gave, to the last bit of the detections.
  const nlohmann::json evaluated = nlohmann::json::parse(RunWell(Evaluate(
      "whole/latest.pth", {"--json", "--output", (folder() / "whole/again.json").string()})));
  const nlohmann::json scored = nlohmann::json::parse(
      RunWell({Trainer(), "score", "--annotations",
               (folder() / "shapes/annotations/instances_val.json").string(), "--results",
               (folder() / "whole/results_2.json").string(), "--json"}));
  EXPECT_EQ(scored.size(), 12u);
  EXPECT_EQ(scored, evaluated);
  EXPECT_EQ(scored["AP50"], Metrics("whole", "val").back()["AP50"]);
  EXPECT_EQ(ReadText(folder() / "whole/results_2.json"), ReadText(folder() / "whole/again.json"));

  const Finished refused = testing::Run(Train("whole", 2), kPatience);
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("--resume"));
}

TEST_F(TrainProgramTest, MaxStepsThenResumeGoesOnToTheEnd) {
  RunWell(Train("steps", 2, {"--max-steps", "3"}));
  EXPECT_EQ(Description("steps", "step_3.pth")["step"], "3");
  RunWell(Train("steps", 2, {"--resume", "--max-steps", "5"}));
  EXPECT_EQ(Metrics("steps", "train").size(), 5u);
}

TEST_F(TrainProgramTest, ALossThatIsNotFiniteStopsAllRanksAndKeepsTheLastCheckpoint) {
  RunWell(Train("nan", 2, {"--max-steps", "4"}));
  const nlohmann::json good = Description("nan", "step_4.pth");
  for (const char* passes : {"1", "2"}) {
    const Finished run =
        testing::Run(Train("nan", 2,
                           {"--resume", "--set", "schedule.optimizer.lr=1e30", "--set",
                            "schedule.grad_clip_norm=0", "--set",
                            std::string("schedule.accumulative_counts=") + passes}),
                     kPatience);
    EXPECT_EQ(run.exit_code, 13) << run.output;
    EXPECT_THAT(run.output, HasSubstr("the loss is not finite at step 6: "));
    EXPECT_THAT(run.output, ContainsRegex("loss_[a-z_]+ is -?(nan|inf).* on rank 0, images [0-9]+, "
                                          "[0-9]+; loss_.* on rank 1, images [0-9]+, [0-9]+; "
                                          "nothing was updated"));
    EXPECT_EQ(fs::read_symlink(folder() / "nan/latest.pth"), "step_4.pth");
    EXPECT_EQ(Description("nan", "step_4.pth"), good);
  }
  RunWell(Train("nan", 2, {"--resume", "--max-steps", "6"}));
  EXPECT_EQ(Metrics("nan", "train").size(), 6u);
}

TEST_F(TrainProgramTest, WeightsThatAreNotFiniteBecomeNoCheckpoint) {
  const Finished run = testing::Run(
      Train("inf", 2,
            {"--set", "schedule.optimizer.lr=1e38", "--set", "schedule.optimizer.weight_decay=1e4",
             "--set", "schedule.grad_clip_norm=0", "--set", "schedule.warmup_steps=0", "--set",
             "checkpointing.every_steps=1"}),
      kPatience);
  EXPECT_EQ(run.exit_code, 13) << run.output;
  EXPECT_THAT(run.output, HasSubstr("is not finite after step 1, so no checkpoint is written"));
  EXPECT_FALSE(fs::exists(folder() / "inf/latest.pth"));
}

TEST_F(TrainProgramTest, SigtermAndCtrlCStopWithACheckpoint) {
  for (const auto& [signal, ranks] :
       {std::pair(SIGTERM, 2), std::pair(SIGINT, 2), std::pair(SIGINT, 1)}) {
    const std::string output = absl::StrCat("stopped-", signal, "-", ranks);
    Process run({.arguments = Train(output, ranks, {"--set", "schedule.epochs=1000"}),
                 .environment = {},
                 .output = folder() / (output + ".log")});
    ASSERT_TRUE(
        WaitUntil([&] { return fs::exists(folder() / output / "step_2.pth.json"); }, kPatience))
        << run.Output();
    run.Signal(signal);
    const std::optional<int> status = run.Wait(kPatience);
    ASSERT_TRUE(status.has_value());
    EXPECT_TRUE(WIFEXITED(*status) && WEXITSTATUS(*status) == base::kExitStopped) << run.Output();
    EXPECT_THAT(run.Output(), HasSubstr("training stopped"));
    EXPECT_TRUE(ProcessesWith((folder() / output).string()).empty());
    // The checkpoint is of the last step that was done, and nothing half written is left.
    const std::string newest = fs::read_symlink(folder() / output / "latest.pth").string();
    EXPECT_EQ(Description(output, newest)["step"],
              absl::StrCat(Metrics(output, "train").back()["step"].get<int>()));
    for (const auto& entry : fs::directory_iterator(folder() / output)) {
      EXPECT_THAT(entry.path().filename().string(),
                  ContainsRegex("^((step|epoch)_[0-9]+\\.pth(\\.json)?|latest\\.pth|"
                                "results_[0-9]+\\.json|metrics\\.jsonl|config\\.textproto)$"));
    }
  }
}

TEST_F(TrainProgramTest, ADeadRankEndsTheRun) {
  Process run({.arguments = Train("dead", 2, {"--set", "schedule.epochs=1000"}),
               .environment = {},
               .output = folder() / "dead.log"});
  ASSERT_TRUE(WaitUntil([&] { return fs::exists(folder() / "dead/step_2.pth.json"); }, kPatience))
      << run.Output();
  for (const pid_t pid : ProcessesWith((folder() / "dead").string())) {
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
  const Finished unknown = testing::Run(Train("bad", 2, {"--set", "schedule.epoks=3"}), kPatience);
  EXPECT_EQ(unknown.exit_code, 3) << unknown.output;
  EXPECT_THAT(unknown.output, HasSubstr("epoks"));

  const Finished missing =
      testing::Run(Train("bad", 2, {"--set", "data.train.images=images/none.zip"}), kPatience);
  EXPECT_EQ(missing.exit_code, 12) << missing.output;
  EXPECT_THAT(missing.output, HasSubstr("none.zip"));

  const Finished classes =
      testing::Run(Train("bad", 2, {"--set", "model.num_classes=7"}), kPatience);
  EXPECT_EQ(classes.exit_code, 3) << classes.output;
  EXPECT_THAT(classes.output, HasSubstr("model.num_classes"));

  const Finished option = testing::Run(Train("bad", 2, {"--no-such-option"}), kPatience);
  EXPECT_EQ(option.exit_code, 2) << option.output;

  WriteText(folder() / "cut.pth", "PK\x03\x04 and no more");
  const Finished cut = testing::Run(Evaluate("cut.pth"), kPatience);
  EXPECT_EQ(cut.exit_code, 14) << cut.output;
  EXPECT_THAT(cut.output, HasSubstr("cut.pth"));
}

}  // namespace
}  // namespace muster::testing
