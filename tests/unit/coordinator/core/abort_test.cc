// Which generations are killed at once, and which are let to end by themselves.
#include <gtest/gtest.h>

#include "common/base/exit_codes.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using v1::AllocationStatus;
using v1::Job;

class AbortTest : public ::testing::Test {
 protected:
  AbortTest() {
    driver_.Join("a");
    driver_.Join("b");
    job_ = driver_.Submit("j", 2);
    driver_.BringUp(job_);
  }
  // What node a was told last of its part, which is not wanted any more.
  bool Aborted() const {
    EXPECT_EQ(driver_.job(job_).state(), Job::STATE_RESTARTING);
    EXPECT_FALSE(driver_.Allocation("a", job_).has_value());
    const v1::DesiredState desired = driver_.Desired("a");
    for (const v1::AbortedGeneration& aborted : desired.aborted()) {
      if (aborted.job() == job_ && aborted.generation() == 1) return true;
    }
    return false;
  }

  ClusterDriver driver_;
  std::string job_;
};

TEST_F(AbortTest, OfAnotherRankThatFailed) {
  driver_.ReportFailure("b", job_, MakeFailure(1, 9, 0));
  EXPECT_TRUE(Aborted());
}

TEST_F(AbortTest, OfANodeThatIsLost) {
  driver_.Disconnect("b");
  driver_.Advance(absl::Seconds(3));
  EXPECT_TRUE(Aborted());
}

TEST_F(AbortTest, OfAWorkerThatCameBackWithoutItsRanks) {
  driver_.Join("b");
  EXPECT_TRUE(Aborted());
}

TEST_F(AbortTest, NotOfAStopByCheckpointUntilANodeIsLost) {
  driver_.Cordon("b", /*drain=*/true);
  EXPECT_FALSE(Aborted());
  driver_.Disconnect("b");
  driver_.Advance(absl::Seconds(5));
  EXPECT_TRUE(Aborted()) << "the ranks wait for an agreement that cannot come";
}

TEST_F(AbortTest, NotOfRanksThatStoppedAfterACheckpoint) {
  driver_.ReportFailure("b", job_, MakeFailure(1, 0, base::kExitStopped));
  EXPECT_FALSE(Aborted()) << "the others may be writing it";
}

TEST_F(AbortTest, NotOfAWorkerThatEndedItsRanksByItself) {
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_FALSE(Aborted()) << "they stop by checkpoint together";
}

TEST_F(AbortTest, NotWhileOnlyALostPeerIsKnown) {
  driver_.ReportFailure("b", job_, MakeFailure(1, 0, base::kExitCollectiveLost));
  EXPECT_FALSE(Aborted()) << "rank 0 may be about to say why";
}

TEST_F(AbortTest, NotOfACancellation) {
  driver_.Cancel(job_);
  EXPECT_EQ(driver_.job(job_).state(), Job::STATE_CANCELLING);
  EXPECT_EQ(driver_.Desired("a").aborted_size(), 0);
}

}  // namespace
}  // namespace muster::testing
