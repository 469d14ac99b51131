#include "worker/checkpoint/checkpoint_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "tests/support/pth_builder.h"

namespace muster::checkpoint {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class CheckpointListTest : public ::testing::Test {
 protected:
  CheckpointListTest()
      : folder_(fs::temp_directory_path() / absl::StrCat("muster-list-", getpid())) {
    fs::create_directories(folder_);
  }
  ~CheckpointListTest() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& bytes) {
    ASSERT_TRUE(base::WriteFileAtomically(folder_ / name, bytes).ok());
  }
  void Add(const std::string& name, int step, int generation, const std::string& bytes) {
    Write(name, bytes);
    Write(name + ".json",
          absl::StrCat("{\"step\": \"", step, "\", \"generation\": \"", generation,
                       "\", \"sizeBytes\": \"", bytes.size(), "\", \"addedLater\": 1}"));
  }
  std::vector<std::string> Files() {
    std::vector<std::string> files;
    for (const v1::Checkpoint& checkpoint : ListCheckpoints(folder_, "tester")) {
      files.push_back(checkpoint.file());
    }
    return files;
  }

  const fs::path folder_;
  const std::string whole_ = testing::SmallestPth();
};

TEST_F(CheckpointListTest, NewestFirst) {
  EXPECT_THAT(Files(), IsEmpty());
  Add("epoch_1.pth", 10, 1, whole_);
  Add("step_15.pth", 15, 1, whole_);
  Add("epoch_2.pth", 20, 1, whole_);
  Add("step_20.pth", 20, 2, whole_);
  EXPECT_THAT(Files(), ElementsAre("step_20.pth", "epoch_2.pth", "step_15.pth", "epoch_1.pth"));
}

TEST_F(CheckpointListTest, DamagedOnesAreLoggedAndLeftOut) {
  Add("good.pth", 1, 1, whole_);
  Add("cut.pth", 2, 1, whole_);
  fs::resize_file(folder_ / "cut.pth", whole_.size() - 10);
  // As large as it should be, and never on the disk.
  Add("zeros.pth", 3, 1, std::string(whole_.size(), '\0'));
  Write("no_json.pth", whole_);
  Write("bad_json.pth", whole_);
  Write("bad_json.pth.json", "not json");
  Write("removed.pth.json", "{\"step\": \"9\", \"sizeBytes\": \"5\"}");
  ::testing::internal::CaptureStderr();
  EXPECT_THAT(Files(), ElementsAre("good.pth"));
  EXPECT_THAT(
      ::testing::internal::GetCapturedStderr(),
      AllOf(HasSubstr("tester: a checkpoint cannot be resumed from"), HasSubstr("cut.pth"),
            HasSubstr("another size"), HasSubstr("zeros.pth"), HasSubstr("no zip container"),
            HasSubstr("bad_json.pth"), Not(HasSubstr("removed.pth"))));
}

TEST_F(CheckpointListTest, AFolderThatIsNotThereHoldsNone) {
  EXPECT_TRUE(ListCheckpoints(folder_ / "absent", "tester").empty());
}

}  // namespace
}  // namespace muster::checkpoint
