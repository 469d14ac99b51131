#include "worker/train/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

#include "worker/checkpoint/checkpoint_list.h"
#include "worker/checkpoint/pth_reader.h"
#include "worker/train/pth_writer.h"

namespace muster::train {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CheckpointWriterTest : public ::testing::Test {
 protected:
  CheckpointWriterTest()
      : folder_(fs::temp_directory_path() / ("muster-checkpoints-" + std::to_string(getpid()))),
        model_(torch::nn::Conv2d(3, 4, 1), torch::nn::BatchNorm2d(4)),
        sgd_(model_->parameters(), {.momentum = 0.9, .weight_decay = 1e-4}) {
    fs::create_directories(folder_);
    model_->forward(torch::randn({2, 3, 5, 5})).sum().backward();
    sgd_.Step(0.1);
  }
  ~CheckpointWriterTest() override { fs::remove_all(folder_); }

  Snapshot At(int64_t step) {
    return TakeSnapshot(*model_, sgd_, {.step = step, .epoch = 1, .cursor = 2, .world_size = 2});
  }

  const fs::path folder_;
  torch::nn::Sequential model_;
  Sgd sgd_;
};

TEST_F(CheckpointWriterTest, PublishesAndKeepsTheNewest) {
  std::vector<std::string> published;
  {
    CheckpointWriter writer(
        {.folder = folder_, .job = "jobs/a", .keep_last = 2},
        [&](const v1::Checkpoint& checkpoint) { published.push_back(checkpoint.file()); });
    for (int step = 1; step <= 4; ++step)
      writer.Write(absl::StrCat("step_", step, ".pth"), At(step));
    writer.Flush();
    EXPECT_EQ(writer.failures(), 0);
  }
  EXPECT_THAT(published,
              ::testing::ElementsAre("step_1.pth", "step_2.pth", "step_3.pth", "step_4.pth"));
  const std::vector<v1::Checkpoint> listed = checkpoint::ListCheckpoints(folder_, "test");
  ASSERT_EQ(listed.size(), 2u);
  EXPECT_EQ(listed[0].file(), "step_4.pth");
  EXPECT_EQ(listed[0].job(), "jobs/a");
  EXPECT_EQ(listed[0].size_bytes(), static_cast<int64_t>(fs::file_size(folder_ / "step_4.pth")));
  EXPECT_EQ(fs::read_symlink(folder_ / "latest.pth"), "step_4.pth");
  int files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder_)) ++files;
  EXPECT_EQ(files, 5);  // two checkpoints, two descriptions, the link
}

TEST_F(CheckpointWriterTest, ASnapshotComesBackWhole) {
  const Snapshot snapshot = At(7);
  const absl::StatusOr<std::string> bytes = WritePthToString(ToValue(snapshot));
  ASSERT_TRUE(bytes.ok());
  const absl::StatusOr<checkpoint::Value> value = checkpoint::ReadPthFrom(*bytes, "a.pth");
  ASSERT_TRUE(value.ok()) << value.status();
  const absl::StatusOr<Snapshot> back = FromValue(*value, "a.pth");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->position.step, 7);
  EXPECT_EQ(back->position.cursor, 2);
  EXPECT_EQ(back->digest, snapshot.digest);
  EXPECT_EQ(Digest(back->model, back->momentum), snapshot.digest);

  torch::nn::Sequential other(torch::nn::Conv2d(3, 4, 1), torch::nn::BatchNorm2d(4));
  ASSERT_TRUE(LoadStateDict(back->model, "a.pth", *other).ok());
  EXPECT_EQ(Digest(StateDict(*other), back->momentum), snapshot.digest);
}

TEST_F(CheckpointWriterTest, NamesTheTensorsThatDoNotFit) {
  torch::nn::Sequential other(torch::nn::Conv2d(3, 5, 1));
  const absl::Status status = LoadStateDict(At(1).model, "a.pth", *other);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("0.weight is (4, 3, 1, 1), not (5, 3, 1, 1)"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("1.running_mean is unknown"));
}

TEST_F(CheckpointWriterTest, ABranchThatWasGivenUpDrivesNothingOut) {
  {
    CheckpointWriter writer({.folder = folder_, .job = "jobs/a", .keep_last = 2}, nullptr);
    Snapshot left = At(9);
    left.position.generation = 1;
    writer.Write("step_9.pth", std::move(left));
    Snapshot other = At(8);
    other.position.generation = 1;
    writer.Write("step_8.pth", std::move(other));
  }
  CheckpointWriter writer({.folder = folder_, .job = "jobs/a", .keep_last = 1}, nullptr);
  Snapshot now = At(5);
  now.position.generation = 3;
  writer.Write("step_5.pth", std::move(now));
  writer.Flush();
  const std::vector<v1::Checkpoint> listed = checkpoint::ListCheckpoints(folder_, "test");
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].file(), "step_5.pth");
}

TEST_F(CheckpointWriterTest, AFailedWriteIsCountedAndLeavesTheOlderCheckpoint) {
  CheckpointWriter writer({.folder = folder_, .job = "", .keep_last = 2}, nullptr);
  writer.Write("step_1.pth", At(1));
  writer.Flush();
  // A folder in the way of the part file stands for any error of the system.
  fs::create_directories(folder_ / "step_2.pth.part" / "x");
  writer.Write("step_2.pth", At(2));
  writer.Flush();
  EXPECT_EQ(writer.failures(), 1);
  ASSERT_EQ(checkpoint::ListCheckpoints(folder_, "test").size(), 1u);
  EXPECT_EQ(fs::read_symlink(folder_ / "latest.pth"), "step_1.pth");
}

TEST_F(CheckpointWriterTest, ADamagedFileIsNotListed) {
  {
    CheckpointWriter writer({.folder = folder_, .job = "", .keep_last = 3}, nullptr);
    writer.Write("step_1.pth", At(1));
    writer.Write("step_2.pth", At(2));
  }
  fs::resize_file(folder_ / "step_2.pth", fs::file_size(folder_ / "step_2.pth") - 10);
  const std::vector<v1::Checkpoint> listed = checkpoint::ListCheckpoints(folder_, "test");
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].file(), "step_1.pth");
}

}  // namespace
}  // namespace muster::train
