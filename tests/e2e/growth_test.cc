// An elastic job takes a node that joins while it runs.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/e2e/cluster_fixture.h"

namespace muster {
namespace {

using testing::Finished;
using testing::LocalCluster;

class GrowthTest : public ClusterTest {};

TEST_F(GrowthTest, ElasticJobGrowsOntoANodeThatJoins) {
  LocalCluster cluster(Options(1));
  ASSERT_TRUE(cluster.WaitForNodes(1, absl::Seconds(30)));
  const std::string name = Submit(cluster, 500,
                                  {"--set", "resources.nodes=2", "--set", "resources.min_nodes=1",
                                   "--set", "resources.max_nodes=2"});
  const v1::Job alone = cluster.WaitForJob(
      name, [](const v1::Job& job) { return IsPast(job, 3); }, kJobTimeout);
  ASSERT_TRUE(IsPast(alone, 3)) << alone.DebugString();
  EXPECT_EQ(alone.ranks_size(), 1);
  EXPECT_EQ(alone.generation(), 1);

  cluster.StartWorker(1);
  const v1::Job grown = cluster.WaitForJob(
      name,
      [](const v1::Job& job) {
        return job.generation() == 2 && job.ranks_size() == 2 &&
               IsPast(job, job.newest_checkpoint().step() + 2);
      },
      kJobTimeout);
  ASSERT_EQ(grown.ranks_size(), 2) << grown.DebugString();
  EXPECT_EQ(grown.restarts(), 0) << "growing is no failure";
  EXPECT_GT(grown.progress().step(), alone.progress().step());
  EXPECT_NE(grown.ranks(0).node(), grown.ranks(1).node());
  // It went on from where it was stopped. By now it may have written a checkpoint of its own.
  const v1::Checkpoint& newest = grown.newest_checkpoint();
  const bool is_own = newest.generation() == 2;
  EXPECT_EQ(is_own ? newest.parent_generation() : newest.generation(), 1);
  EXPECT_GE(is_own ? newest.parent_step() : newest.step(), alone.progress().step());

  const Finished cancelled = cluster.Muster({"cancel", name});
  EXPECT_EQ(cancelled.exit_code, 0) << cancelled.output;
  const v1::Job over = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, absl::Minutes(1));
  EXPECT_EQ(over.state(), v1::Job::STATE_CANCELLED);
  EXPECT_TRUE(cluster.AllTrainers().empty());
}

}  // namespace
}  // namespace muster
