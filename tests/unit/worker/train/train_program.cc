#include "tests/unit/worker/train/train_program.h"

#include <unistd.h>

#include <cstdlib>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"

#include "tests/support/process.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/shapes_dataset.h"

namespace muster::testing {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

const fs::path& TrainProgramTest::folder() {
  static const fs::path* const folder =
      new fs::path(fs::temp_directory_path() / absl::StrCat("muster-train-", getpid()));
  return *folder;
}

void TrainProgramTest::SetUpTestSuite() {
  fs::create_directories(folder());
  ASSERT_TRUE(
      data::WriteShapesDataset(folder() / "shapes",
                               {.train_images = 40, .val_images = 7, .size = {128, 96}, .seed = 1})
          .ok());
  WriteText(folder() / "job.textproto", kConfig);
}

void TrainProgramTest::TearDownTestSuite() { fs::remove_all(folder()); }

std::string TrainProgramTest::Trainer() {
  return std::string(std::getenv("MUSTER_BIN")) + "/muster-trainer";
}

std::vector<std::string> TrainProgramTest::Train(const std::string& output, int ranks,
                                                 const std::vector<std::string>& more) {
  std::vector<std::string> command = {Trainer(),     "train",
                                      "--config",    (folder() / "job.textproto").string(),
                                      "--data-root", folder().string(),
                                      "--ranks",     absl::StrCat(ranks),
                                      "--output",    (folder() / output).string()};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

std::vector<std::string> TrainProgramTest::Evaluate(const std::string& checkpoint,
                                                    const std::vector<std::string>& more) {
  std::vector<std::string> command = {
      Trainer(),     "evaluate",        "--config",     (folder() / "job.textproto").string(),
      "--data-root", folder().string(), "--checkpoint", (folder() / checkpoint).string()};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

std::string TrainProgramTest::RunWell(const std::vector<std::string>& command) {
  const Finished run = testing::Run(command, kPatience);
  EXPECT_EQ(run.exit_code, 0) << run.output;
  return run.output;
}

nlohmann::json TrainProgramTest::Description(const std::string& output,
                                             const std::string& checkpoint) {
  return nlohmann::json::parse(ReadText(folder() / output / (checkpoint + ".json")));
}

std::vector<nlohmann::json> TrainProgramTest::Metrics(const std::string& output,
                                                      const std::string& mode) {
  std::vector<nlohmann::json> lines;
  std::istringstream text(ReadText(folder() / output / "metrics.jsonl"));
  for (std::string line; std::getline(text, line);) {
    nlohmann::json entry = nlohmann::json::parse(line);
    if (entry["mode"] == mode) lines.push_back(std::move(entry));
  }
  return lines;
}

void TrainProgramTest::ExpectSameSteps(const std::string& output, const std::string& expected) {
  const auto steps = Metrics(output, "train");
  const auto others = Metrics(expected, "train");
  ASSERT_EQ(steps.size(), others.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    for (const char* field : {"step", "epoch", "lr", "loss_rpn_cls", "loss_rpn_bbox", "loss_cls",
                              "loss_bbox", "loss", "grad_norm"}) {
      ASSERT_EQ(steps[i].at(field), others[i].at(field)) << field << " of step " << i + 1;
    }
  }
}

}  // namespace muster::testing
