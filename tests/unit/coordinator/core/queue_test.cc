// Order of the queue, requests, lists.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using ::testing::ElementsAre;
using v1::AllocationStatus;
using v1::Job;

TEST(QueueTest, EarlierJobThatCouldRunHoldsLaterOnesBack) {
  ClusterDriver driver;
  driver.Join("a");
  driver.Join("b");
  const std::string running = driver.Submit("running", 1);
  const std::string wide = driver.Submit("wide", 2);
  const std::string narrow = driver.Submit("narrow", 1);
  EXPECT_EQ(driver.job(running).state(), Job::STATE_STARTING);
  EXPECT_EQ(driver.job(wide).state_reason(),
            "waits for 2 nodes with 1 free slot each; 1 of 2 ready");
  EXPECT_EQ(driver.job(narrow).state(), Job::STATE_QUEUED);
  EXPECT_EQ(driver.job(narrow).state_reason(), "waits behind jobs/wide");
  driver.BringUp(running);
  driver.Report(driver.NodesOf(running)[0], running, AllocationStatus::PHASE_SUCCEEDED);
  EXPECT_EQ(driver.job(wide).state(), Job::STATE_STARTING);
}

TEST(QueueTest, JobThatFitsNowhereHoldsNobodyBack) {
  ClusterDriver driver;
  driver.Join("a");
  const std::string huge = driver.Submit("huge", 9);
  const std::string narrow = driver.Submit("narrow", 1);
  EXPECT_EQ(driver.job(huge).state(), Job::STATE_QUEUED);
  EXPECT_EQ(driver.job(narrow).state(), Job::STATE_STARTING);
}

TEST(QueueTest, NodeIsToldOnceOfAllThatOneBatchChanges) {
  ClusterDriver driver;
  driver.Join("a", 2);
  int told = 0;
  driver.Observe([&](coordinator::Effects* effects) {
    for (const auto& message : effects->messages) told += message.message.has_desired();
  });
  driver.FailStore();
  const std::string first = driver.Submit("first", 1);
  const std::string second = driver.Submit("second", 1);
  const std::string third = driver.Submit("third", 1);
  driver.Cancel(second);
  driver.MendStore();
  EXPECT_EQ(told, 1);
  EXPECT_TRUE(driver.Allocation("a", first).has_value());
  EXPECT_FALSE(driver.Allocation("a", second).has_value());
  // An acknowledgement of that one message is all that the cancelled job waits for.
  EXPECT_EQ(driver.job(second).state(), Job::STATE_CANCELLING);
  driver.AckNewest("a");
  EXPECT_EQ(driver.job(second).state(), Job::STATE_CANCELLED);
  EXPECT_EQ(driver.job(third).state(), Job::STATE_STARTING);
  driver.BringUp(first);
  EXPECT_EQ(driver.job(first).state(), Job::STATE_RUNNING);
}

TEST(QueueTest, RepeatedRequestMakesOneJob) {
  ClusterDriver driver;
  coordinator::CreateJobCommand command;
  command.job.set_name("jobs/a");
  command.request_id = "r1";
  command.request_body = "body";
  ASSERT_TRUE(driver.Apply(command).reply->ok());
  driver.Restart();
  command.job.set_name("jobs/a-other-random-name");
  const coordinator::Effects again = driver.Apply(command);
  ASSERT_TRUE(again.reply->ok());
  EXPECT_EQ((*again.reply)->name(), "jobs/a");

  command.request_body = "another body";
  EXPECT_EQ(driver.Apply(command).reply->status().code(), absl::StatusCode::kInvalidArgument);
  command.request_id = "r2";
  command.job.set_name("jobs/a");
  EXPECT_EQ(driver.Apply(command).reply->status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(QueueTest, RequestsAreForgottenAfterADay) {
  coordinator::ClusterState::Options options;
  options.request_retention = absl::Seconds(10);
  ClusterDriver driver(options);
  coordinator::CreateJobCommand command;
  command.job.set_name("jobs/a");
  command.request_id = "r1";
  driver.Apply(command);
  driver.Advance(absl::Seconds(11));
  command.job.set_name("jobs/b");
  const coordinator::Effects effects = driver.Apply(command);
  ASSERT_TRUE(effects.reply->ok());
  EXPECT_EQ((*effects.reply)->name(), "jobs/b");
}

TEST(QueueTest, ListsNewestFirstInPages) {
  ClusterDriver driver;
  for (int i = 0; i < 5; ++i) driver.Submit("j" + std::to_string(i), 1);
  driver.Cancel("jobs/j3");
  std::vector<std::string> names;
  int64_t before = 0;
  int pages = 0;
  do {
    for (const Job& job : driver.state().ListJobs(2, before, {Job::STATE_QUEUED}, &before)) {
      names.push_back(job.name());
    }
    ++pages;
  } while (before != 0);
  EXPECT_THAT(names, ElementsAre("jobs/j4", "jobs/j2", "jobs/j1", "jobs/j0"));
  EXPECT_EQ(pages, 2);
}

TEST(QueueTest, RanksAreFoundWhereTheirGenerationRan) {
  ClusterDriver driver;
  const std::string job = driver.Submit("j", 2);
  EXPECT_EQ(driver.state().LocateRank(job, 0, 0).status().code(),
            absl::StatusCode::kFailedPrecondition);
  driver.Join("a");
  driver.Join("b");
  EXPECT_EQ(driver.state().LocateRank(job, 0, 1)->node, "b");
  EXPECT_EQ(driver.state().LocateRank(job, 1, 0)->session, driver.session("a"));
  EXPECT_EQ(driver.state().LocateRank(job, 0, 2).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(driver.state().LocateRank(job, 7, 0).status().code(), absl::StatusCode::kNotFound);
  driver.Disconnect("b");
  EXPECT_EQ(driver.state().LocateRank(job, 0, 1).status().code(), absl::StatusCode::kUnavailable);
}

TEST(QueueTest, DryRunSaysWhereAJobWouldRunOrWhyNot) {
  ClusterDriver driver;
  driver.Join("a", 2);
  Job job;
  auto* resources = job.mutable_config()->mutable_resources();
  resources->set_ranks_per_node(2);
  const Job placed = driver.state().DryRun(job);
  EXPECT_EQ(placed.state_reason(), "");
  ASSERT_EQ(placed.ranks_size(), 2);
  EXPECT_EQ(placed.ranks(1).node(), "nodes/a");
  EXPECT_EQ(placed.ranks(1).local_rank(), 1);

  resources->set_nodes(2);
  EXPECT_EQ(driver.state().DryRun(job).state_reason(),
            "would wait for more nodes: it needs 2 with 2 slots each, and 1 of the 1 ready nodes "
            "have as many");
  resources->set_nodes(1);
  driver.Submit("running", 1);
  EXPECT_EQ(driver.state().DryRun(job).state_reason(),
            "would be queued: it waits for 1 node with 2 free slots; 0 of 1 ready");
  resources->set_priority(1);
  EXPECT_EQ(driver.state().DryRun(job).state_reason(),
            "would have jobs/running stopped after a checkpoint, and take its place");
}

}  // namespace
}  // namespace muster::testing
