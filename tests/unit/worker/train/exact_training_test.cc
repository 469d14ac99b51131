// What does not change a run: loader threads, being killed, how passes are shared out; and what a
// resume with other ranks sees.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "tests/support/process.h"
#include "tests/support/tiny_coco.h"
#include "tests/unit/worker/train/train_program.h"
#include <nlohmann/json.hpp>

namespace muster::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class ExactTrainingTest : public TrainProgramTest {};

TEST_F(ExactTrainingTest, LoaderThreadsDoNotChangeABit) {
  for (const char* threads : {"1", "2", "4"}) {
    RunWell(Train(absl::StrCat("threads-", threads), 2,
                  {"--max-steps", "12", "--set", absl::StrCat("data.loader_threads=", threads)}));
  }
  EXPECT_EQ(Metrics("threads-1", "train").size(), 12u);
  ExpectSameSteps("threads-2", "threads-1");
  ExpectSameSteps("threads-4", "threads-1");
  EXPECT_EQ(Description("threads-4", "step_12.pth")["digest"],
            Description("threads-1", "step_12.pth")["digest"]);
}

// Ranks and accumulative_counts. An epoch has 20 chunks: 20, 7 and 4 steps (the last of one pass),
// so that step 10 lies inside an epoch.
class KilledTrainingTest : public ExactTrainingTest,
                           public ::testing::WithParamInterface<std::tuple<int, int>> {};

TEST_P(KilledTrainingTest, TwentyStepsAreTenAKillAndTen) {
  const auto [ranks, passes] = GetParam();
  const std::string name = absl::StrCat(ranks, "x", passes);
  const std::vector<std::string> common = {
      "--set", "schedule.epochs=1000",
      "--set", "evaluation.every_epochs=0",
      "--set", "checkpointing.every_steps=10",
      "--set", absl::StrCat("schedule.accumulative_counts=", passes)};
  std::vector<std::string> to_twenty = common;
  to_twenty.insert(to_twenty.end(), {"--max-steps", "20"});
  RunWell(Train("whole-" + name, ranks, to_twenty));

  const std::string output = "killed-" + name;
  Process killed({.arguments = Train(output, ranks, common),
                  .environment = {},
                  .output = folder() / (output + ".log")});
  const auto latest = [&] {
    std::error_code error;
    return fs::read_symlink(folder() / output / "latest.pth", error);
  };
  ASSERT_TRUE(WaitUntil([&] { return latest() == "step_10.pth"; }, kPatience)) << killed.Output();
  killed.Signal(SIGKILL);
  killed.Wait(kPatience);
  // The ranks die with their launcher.
  ASSERT_TRUE(
      WaitUntil([&] { return ProcessesWith((folder() / output).string()).empty(); }, kPatience));
  ASSERT_EQ(latest(), "step_10.pth");

  std::vector<std::string> resume = to_twenty;
  resume.push_back("--resume");
  EXPECT_THAT(RunWell(Train(output, ranks, resume)), HasSubstr("training resumes"));
  ExpectSameSteps(output, "whole-" + name);
  const std::string last = latest().string();
  EXPECT_EQ(Description(output, last)["step"], "20");
  EXPECT_EQ(Description(output, last)["digest"], Description("whole-" + name, last)["digest"]);
}

INSTANTIATE_TEST_SUITE_P(RanksAndPasses, KilledTrainingTest,
                         ::testing::Values(std::tuple(1, 1), std::tuple(3, 1), std::tuple(2, 3)));

// With fixed statistics a chunk's gradient is its own, however chunks are shared out: four of them
// make one update as two passes of two ranks, and as four passes of one.
TEST_F(ExactTrainingTest, PassesAndRanksMakeTheSameUpdates) {
  const std::vector<std::string> common = {"--max-steps", "10",
                                           "--set",       "model.norm.type=NORM_TYPE_BN",
                                           "--set",       "evaluation.every_epochs=0",
                                           "--set",       "schedule.optimizer.reference_batch=16"};
  for (const auto& [ranks, passes] : {std::pair(1, 4), std::pair(2, 2), std::pair(4, 1)}) {
    std::vector<std::string> options = common;
    options.insert(options.end(), {"--set", absl::StrCat("schedule.accumulative_counts=", passes)});
    RunWell(Train(absl::StrCat("passes-", passes), ranks, options));
  }
  const auto expected = Metrics("passes-4", "train");
  ASSERT_EQ(expected.size(), 10u);
  for (const char* other : {"passes-2", "passes-1"}) {
    const auto steps = Metrics(other, "train");
    ASSERT_EQ(steps.size(), 10u);
    for (size_t i = 0; i < steps.size(); ++i) {
      EXPECT_EQ(steps[i]["lr"], expected[i]["lr"]);
      // Five steps an epoch.
      EXPECT_EQ(steps[i]["epoch"], i < 5 ? 1 : 2);
      for (const char* field :
           {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss", "grad_norm"}) {
        const double value = expected[i][field].get<double>();
        // Only the order of the additions differs, and training enlarges that.
        EXPECT_NEAR(steps[i][field].get<double>(), value, (i < 5 ? 1e-4 : 1e-2) * value)
            << other << ", " << field << " of step " << i + 1;
      }
    }
  }
  // Half of the reference batch, after the warm-up of four steps.
  EXPECT_DOUBLE_EQ(expected.back()["lr"].get<double>(), 0.005);
}

TEST_F(ExactTrainingTest, Bfloat16TrainsFloat32Weights) {
  for (const char* precision : {"PRECISION_FLOAT32", "PRECISION_BFLOAT16"}) {
    RunWell(Train(
        precision, 2,
        {"--set", "schedule.epochs=1", "--set", absl::StrCat("schedule.precision=", precision)}));
  }
  const auto exact = Metrics("PRECISION_FLOAT32", "train");
  const auto rounded = Metrics("PRECISION_BFLOAT16", "train");
  ASSERT_EQ(rounded.size(), exact.size());
  EXPECT_NE(rounded.front()["loss"], exact.front()["loss"]);
  // bfloat16 keeps 8 bits.
  EXPECT_NEAR(rounded.front()["loss"].get<double>(), exact.front()["loss"].get<double>(),
              0.02 * exact.front()["loss"].get<double>());
  EXPECT_LT(rounded.back()["loss"].get<double>(), rounded.front()["loss"].get<double>());
  EXPECT_EQ(Metrics("PRECISION_BFLOAT16", "val").size(), 1u);
  // The same tensors in the same types.
  EXPECT_NEAR(static_cast<double>(fs::file_size(folder() / "PRECISION_BFLOAT16/epoch_1.pth")),
              static_cast<double>(fs::file_size(folder() / "PRECISION_FLOAT32/epoch_1.pth")), 256);
}

// Which files of a folder are opened, in order.
class Opened {
 public:
  explicit Opened(const fs::path& folder) : file_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    inotify_add_watch(file_, folder.c_str(), IN_OPEN);
  }
  ~Opened() { close(file_); }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;

  // Since the last call.
  std::vector<std::string> Take() const {
    std::vector<std::string> names;
    alignas(inotify_event) std::array<char, 65536> buffer{};
    ssize_t got = 0;
    while ((got = read(file_, buffer.data(), buffer.size())) > 0) {
      for (ssize_t at = 0; at < got;) {
        inotify_event event{};
        std::memcpy(&event, buffer.data() + at, sizeof(event));
        if (event.len > 0) names.emplace_back(buffer.data() + at + sizeof(event));
        at += static_cast<ssize_t>(sizeof(event) + event.len);
      }
    }
    return names;
  }

 private:
  const int file_;
};

TEST_F(ExactTrainingTest, AResumeWithOtherRanksSeesTheRestOfTheEpochOnce) {
  TinyCoco coco;
  for (int i = 0; i < 48; ++i) {
    const int64_t id = coco.AddImage(absl::StrCat("image", i, ".jpg"), {128, 96});
    coco.AddObject(id, {10.0 + i, 20, 40, 30}, 1 + i % 2);
  }
  const fs::path images = folder() / "files/images/train";
  fs::create_directories(images);
  for (const data::ZipMember& member : coco.members) WriteText(images / member.name, member.bytes);
  coco.Write(folder() / "files", "val");
  fs::rename(folder() / "files/annotations/instances_val.json",
             folder() / "files/annotations/instances_train.json");
  coco.Write(folder() / "files", "val");
  const std::vector<std::string> common = {
      "--set", "data.root=files",           "--set", "data.train.images=images/train",
      "--set", "model.num_classes=2",       "--set", "schedule.epochs=1",
      "--set", "schedule.warmup_steps=8",   "--set", "schedule.optimizer.reference_batch=4",
      "--set", "evaluation.every_epochs=0", "--set", "checkpointing.every_steps=0"};
  const auto with = [&common](std::vector<std::string> more) {
    more.insert(more.begin(), common.begin(), common.end());
    return more;
  };
  const Opened opened(images);
  // One rank with one loader thread opens the epoch's images in order.
  RunWell(Train("order", 1, common));
  const std::vector<std::string> order = opened.Take();
  ASSERT_EQ(order.size(), 48u);
  ASSERT_EQ(std::set<std::string>(order.begin(), order.end()).size(), 48u);

  // 24 chunks: 3 steps of 2, then 4 of 3, and 6 of 1.
  RunWell(Train("ranks", 2, with({"--max-steps", "3"})));
  opened.Take();
  RunWell(Train("ranks", 3, with({"--resume", "--max-steps", "7"})));
  std::vector<std::string> seen = opened.Take();
  // Batches that were loaded ahead and not trained on are among them, so only the head is certain.
  const std::set<std::string> by_three(seen.begin(), seen.end());
  EXPECT_EQ(by_three.size(), seen.size());
  for (size_t i = 0; i < 12; ++i) EXPECT_EQ(by_three.count(order[i]), 0u) << order[i];
  for (size_t i = 12; i < 36; ++i) EXPECT_EQ(by_three.count(order[i]), 1u) << order[i];

  const std::string last = RunWell(Train("ranks", 1, with({"--resume"})));
  EXPECT_THAT(last, HasSubstr("training is complete"));
  EXPECT_EQ(opened.Take(), std::vector<std::string>(order.begin() + 36, order.end()));

  // The schedule goes on in images: the warm-up's 8 steps of 4 images, of which 12 images are seen
  // by step 3; and the rate goes with the batch.
  const auto steps = Metrics("ranks", "train");
  ASSERT_EQ(steps.size(), 13u);
  double images_seen = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    const double batch = i < 3 ? 4 : i < 7 ? 6 : 2;
    const double warmed = std::min(1.0, images_seen / 4 / 8);
    // MMDET3's warmup_ratio.
    const double expected = 0.01 * batch / 4 * (1 - (1 - warmed) * (1 - 0.001));
    EXPECT_NEAR(steps[i]["lr"].get<double>(), expected, 1e-12) << "step " << i + 1;
    images_seen += batch;
  }
  EXPECT_EQ(Description("ranks", "epoch_1.pth")["step"], "13");
}

TEST_F(ExactTrainingTest, AnElasticJobKeepsItsBatchOnOtherRanks) {
  // Made for 4 ranks of 2 images.
  const std::vector<std::string> elastic = {
      "--set", "resources.nodes=4",
      "--set", "resources.min_nodes=1",
      "--set", "schedule.epochs=1",
      "--set", "data.multi_scale.scales=[{long_side: 128 short_side: 96}]",
      "--set", "evaluation.every_epochs=0",
      "--set", "checkpointing.every_steps=2"};
  const auto with = [&elastic](std::vector<std::string> more) {
    more.insert(more.begin(), elastic.begin(), elastic.end());
    return more;
  };
  RunWell(Train("four", 4, elastic));
  RunWell(Train("three", 3, elastic));
  RunWell(Train("shrunk", 4, with({"--max-steps", "2"})));
  RunWell(Train("shrunk", 1, with({"--resume"})));
  const auto four = Metrics("four", "train");
  ASSERT_EQ(four.size(), 5u);  // 40 images by 8
  // The last step that still begins with the weights of the four: other anchors and regions are
  // drawn there, of the same images.
  for (const auto& [other, last_equal] : {std::pair("three", 0), std::pair("shrunk", 2)}) {
    const auto steps = Metrics(other, "train");
    ASSERT_EQ(steps.size(), four.size()) << other;
    for (int i = 0; i < static_cast<int>(steps.size()); ++i) {
      EXPECT_EQ(steps[i]["lr"], four[i]["lr"]) << other << " step " << i + 1;
      const double expected = four[i]["loss"].get<double>();
      if (i < last_equal) {
        EXPECT_EQ(steps[i]["loss"], expected) << other << " step " << i + 1;
      } else if (i == last_equal) {
        EXPECT_NEAR(steps[i]["loss"].get<double>(), expected, 0.05 * expected) << other;
      }
    }
  }
  // Chunks of 3 cannot go on where chunks of 2 were begun.
  const Finished cut =
      testing::Run(Train("shrunk-again", 4, with({"--max-steps", "2"})), kPatience);
  ASSERT_EQ(cut.exit_code, 0) << cut.output;
  const Finished other = testing::Run(
      Train("shrunk-again", 4, with({"--resume", "--set", "data.images_per_rank=3"})), kPatience);
  EXPECT_EQ(other.exit_code, 3) << other.output;
  EXPECT_THAT(other.output, HasSubstr("data.images_per_rank is 3, but the checkpoint (step 2)"));
}

}  // namespace
}  // namespace muster::testing
