// A rank on a disk that fills up under it. Needs root, for a small file system of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <string>

#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "worker/daemon/rank_files.h"

namespace muster::worker {
namespace {

class FullDiskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, "size=256k") != 0) {
      GTEST_SKIP() << "cannot mount a file system here";
    }
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) umount2(folder_.path().c_str(), MNT_DETACH);
  }
  // By a shim, until it has ended.
  testing::Finished RunRank(const std::string& script) {
    return testing::Run({testing::ProgramFolder() / "muster-worker", "shim", "--dir", rank_folder(),
                         "--", "sh", "-c", script},
                        absl::Seconds(30));
  }
  std::filesystem::path rank_folder() const { return folder_.path() / "rank-0"; }

  testing::TemporaryFolder folder_;
  bool mounted_ = false;
};

// A trainer's logs fill the disk: it goes on, and its end is known.
TEST_F(FullDiskTest, LogsEndNoRankAndItsExitStatusIsKept) {
  const std::string other = (folder_.path() / "other").string();
  const testing::Finished shim =
      RunRank("head -c 1000000 /dev/zero 2>/dev/null; echo more; echo more >&2; (echo x > " +
              other + ") 2>/dev/null && exit 9; exit 7");
  EXPECT_EQ(shim.exit_code, 0) << shim.output;
  const auto exit = ReadRankExit(rank_folder());
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->exit_code, 7);
  EXPECT_GT(std::filesystem::file_size(StdoutLog(rank_folder())), 100'000u);
}

// As above, but with a disk that has nothing left when the rank starts.
TEST_F(FullDiskTest, StartSaysThatThereIsNoSpace) {
  const std::filesystem::path filler = folder_.path() / "filler";
  ASSERT_EQ(testing::Run({"sh", "-c",
                          "mkdir " + rank_folder().string() + "; head -c 1000000 /dev/zero > " +
                              filler.string()},
                         absl::Seconds(30))
                .exit_code,
            1);
  const testing::Finished shim = RunRank("exit 0");
  EXPECT_NE(shim.exit_code, 0);
  EXPECT_FALSE(ReadRankExit(rank_folder()).ok());
  EXPECT_TRUE(testing::ProcessesWith(rank_folder().string()).empty());
}

}  // namespace
}  // namespace muster::worker
