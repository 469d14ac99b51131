#include "worker/daemon/data_access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/fixtures.h"

namespace muster::worker {
namespace {

using ::testing::HasSubstr;

class DataAccessTest : public ::testing::Test {
 protected:
  DataAccessTest() {
    WriteDataSet(folder_.path() / "one");
    WriteDataSet(folder_.path() / "two/more");
    WriteText(folder_.path() / "two/weights.pth", "w");
    WriteText(folder_.path() / "outside/secret.zip", "s");
    access_.emplace(*DataAccess::Open({folder_.path() / "one", folder_.path() / "two"}, "w1"));
    root_ = std::filesystem::canonical(folder_.path());
    job_ = MakeAllocation(1, v1::Allocation::GOAL_PREPARE).config();
  }

  testing::TemporaryFolder folder_;
  std::filesystem::path root_;
  std::optional<DataAccess> access_;
  config::v1::TrainJob job_;
};

TEST_F(DataAccessTest, FindsARelativeRootInTheFirstThatHasIt) {
  EXPECT_EQ(access_->ResolveDataRoot("set").value(), root_ / "one/set");
  EXPECT_EQ(access_->ResolveDataRoot("more/set").value(), root_ / "two/more/set");
  EXPECT_EQ(access_->ResolveDataRoot((root_ / "two/more").string()).value(), root_ / "two/more");
  const absl::Status absent = access_->ResolveDataRoot("absent").status();
  EXPECT_TRUE(absl::IsNotFound(absent));
  EXPECT_THAT(absent.message(), HasSubstr("data.root: absent not found on node w1 below"));
  EXPECT_TRUE(access_->CheckJob(job_).ok());
}

TEST_F(DataAccessTest, RefusesEveryWayOut) {
  const auto refused = [](const absl::Status& status) {
    return absl::IsPermissionDenied(status) &&
           std::string(status.message()).find("outside the data roots of node w1") !=
               std::string::npos;
  };
  EXPECT_TRUE(refused(access_->ResolveDataRoot((root_ / "outside").string()).status()));
  EXPECT_TRUE(refused(access_->ResolveDataRoot("../outside").status()));
  EXPECT_TRUE(refused(access_->ResolveDataRoot("/etc").status()));
  EXPECT_TRUE(refused(access_->ResolveDataRoot("/absent-anywhere").status()));

  config::v1::TrainJob up = job_;
  up.mutable_data()->mutable_train()->set_images("../../outside/secret.zip");
  EXPECT_TRUE(refused(access_->CheckJob(up))) << access_->CheckJob(up);
  std::filesystem::create_symlink(root_ / "outside/secret.zip", root_ / "one/set/images/link.zip");
  config::v1::TrainJob link = job_;
  link.mutable_data()->mutable_val()->set_images("images/link.zip");
  EXPECT_TRUE(refused(access_->CheckJob(link))) << access_->CheckJob(link);
  EXPECT_THAT(access_->CheckJob(link).message(), HasSubstr("data.val.images"));
}

TEST_F(DataAccessTest, ANameThatOnlyBeginsLikeARootLiesOutside) {
  WriteDataSet(folder_.path() / "one2");
  EXPECT_TRUE(
      absl::IsPermissionDenied(access_->ResolveDataRoot((root_ / "one2").string()).status()));
}

TEST_F(DataAccessTest, LooksForStartingWeightsInEveryRoot) {
  job_.mutable_model()->set_load_from("weights.pth");
  EXPECT_TRUE(access_->CheckJob(job_).ok());
  job_.mutable_model()->set_load_from("absent.pth");
  EXPECT_THAT(access_->CheckJob(job_).message(), HasSubstr("model.load_from"));
}

TEST_F(DataAccessTest, UnreadableFilesAreNamed) {
  // A link to itself: unreadable to root as well.
  const std::filesystem::path file = root_ / "one/set/images/train.zip";
  std::filesystem::remove(file);
  std::filesystem::create_symlink(file, file);
  EXPECT_THAT(access_->CheckJob(job_).message(), HasSubstr("data.train.images"));
  EXPECT_THAT(access_->CheckJob(job_).message(), HasSubstr("cannot be read on node w1"));
}

TEST_F(DataAccessTest, ARootMustBeAFolder) {
  EXPECT_THAT(DataAccess::Open({folder_.path() / "absent"}, "w1").status().message(),
              HasSubstr("--data-root"));
  EXPECT_THAT(DataAccess::Open({folder_.path() / "two/weights.pth"}, "w1").status().message(),
              HasSubstr("is not a folder"));
}

}  // namespace
}  // namespace muster::worker
