// The coordinator is killed while real trainers run, and a standby takes over from PostgreSQL.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/cluster_fixture.h"
#include "tests/support/postgres.h"

namespace muster {
namespace {

using testing::LocalCluster;
using testing::Postgres;

class FailoverTest : public ClusterTest {
 protected:
  void SetUp() override {
    if (!Postgres::Installed()) GTEST_SKIP() << "PostgreSQL is not installed";
    postgres_ = std::make_unique<Postgres>();
  }
  std::unique_ptr<Postgres> postgres_;
};

TEST_F(FailoverTest, StandbyTakesOverAndNoStepIsLost) {
  LocalCluster::Options options = Options();
  options.store = postgres_->NewDatabase();
  LocalCluster cluster(options);
  cluster.StartStandby();
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  // It must still run when the standby leads.
  constexpr int kEpochs = 2 * kLongEnough;
  const std::string name = Submit(cluster, kEpochs);
  const std::vector<pid_t> trainers = AwaitTrainers(cluster, name);
  const int64_t step = cluster.GetJob(name).progress().step();
  cluster.KillCoordinator();
  EXPECT_EQ(cluster.AllTrainers(), trainers);

  // Of the new leader, which knows the job, and to which both workers have come.
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const v1::Job advanced = cluster.WaitForJob(
      name, [&](const v1::Job& job) { return IsPast(job, step + 3); }, kJobTimeout);
  ASSERT_TRUE(IsPast(advanced, step + 3)) << advanced.DebugString();
  EXPECT_EQ(cluster.AllTrainers(), trainers);

  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, kEpochs);
  EXPECT_EQ(job.generation(), 1);
  EXPECT_EQ(job.restarts(), 0);
  // What was written while nobody led is known as well.
  EXPECT_EQ(job.newest_checkpoint().epoch(), kEpochs);
}

}  // namespace
}  // namespace muster
