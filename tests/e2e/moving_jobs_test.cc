// Jobs that change their place: stopped from outside, moved off a drained node, put off for a more
// important one, and elastic ones that go on with what is left.
#include <signal.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/e2e/cluster_fixture.h"

namespace muster {
namespace {

using ::testing::HasSubstr;

int CountEvents(const LocalCluster& cluster, const std::string& job, const std::string& type) {
  const Finished events = cluster.Muster({"events", "--job", job, "--json"});
  EXPECT_EQ(events.exit_code, 0) << events.output;
  int count = 0;
  const std::string needle = "\"" + type + "\"";
  for (size_t at = events.output.find(needle); at != std::string::npos;
       at = events.output.find(needle, at + 1)) {
    ++count;
  }
  return count;
}

class MovingJobsTest : public ClusterTest {};

TEST_F(MovingJobsTest, AStopFromOutsideIsNoSuccessAndNoFailure) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = Submit(cluster, kLongEnough);
  ASSERT_NO_FATAL_FAILURE(AwaitCheckpoint(cluster, name));
  const std::vector<pid_t> stopped = cluster.Trainers(1);
  ASSERT_EQ(stopped.size(), 1u);
  ASSERT_EQ(kill(stopped[0], SIGTERM), 0);

  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, kLongEnough);
  EXPECT_EQ(job.generation(), 2);
  EXPECT_EQ(job.restarts(), 0);
}

TEST_F(MovingJobsTest, AnElasticJobGoesOnAtTheNodeThatIsLeft) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = Submit(cluster, kLongEnough, {"--set", "resources.min_nodes=1"});
  ASSERT_NO_FATAL_FAILURE(AwaitCheckpoint(cluster, name));
  cluster.KillWorkerAndTrainers(1);

  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, kLongEnough);
  EXPECT_EQ(job.generation(), 2);
  EXPECT_EQ(job.restarts(), 0);
  // The batch is that of two nodes: as many steps as without the loss.
  EXPECT_EQ(job.progress().total_steps(), 6 * kLongEnough);
}

TEST_F(MovingJobsTest, ADrainedNodeHandsItsRanksOn) {
  LocalCluster cluster(Options(3));
  ASSERT_TRUE(cluster.WaitForNodes(3, absl::Seconds(30)));
  const std::string name = Submit(cluster, kLongEnough);
  const v1::Job running = cluster.WaitForJob(
      name, [](const v1::Job& job) { return IsPast(job, 3); }, kJobTimeout);
  ASSERT_EQ(running.ranks_size(), 2) << running.DebugString();
  const std::string drained = running.ranks(1).node();
  const Finished done = cluster.Muster({"drain", drained, "--reason", "a new kernel"});
  EXPECT_EQ(done.exit_code, 0) << done.output;

  const v1::Job moved = cluster.WaitForJob(
      name, [](const v1::Job& job) { return job.generation() == 2 && IsPast(job, 4); },
      kJobTimeout);
  ASSERT_EQ(moved.ranks_size(), 2) << moved.DebugString();
  for (const v1::RankPlacement& rank : moved.ranks()) EXPECT_NE(rank.node(), drained);
  EXPECT_EQ(moved.preemptions(), 1);
  // It stopped with a checkpoint, so that no step is done twice.
  EXPECT_GE(moved.newest_checkpoint().step(), running.progress().step());
  const Finished nodes = cluster.Muster({"nodes"});
  EXPECT_THAT(nodes.output, HasSubstr("a new kernel"));

  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, kLongEnough);
  EXPECT_EQ(job.restarts(), 0);
  EXPECT_EQ(CountEvents(cluster, name, "Preempted"), 1);
}

// The numbers of each step that rank 0 on this worker has done, as its metrics.jsonl has them.
std::map<int64_t, std::string> StepsOn(const LocalCluster& cluster, int worker,
                                       const std::string& job) {
  std::map<int64_t, std::string> steps;
  const std::string prefix = job.substr(5) + "-";
  for (const auto& folder :
       std::filesystem::directory_iterator(cluster.StateFolder(worker) / "jobs")) {
    if (folder.path().filename().string().rfind(prefix, 0) != 0) continue;
    std::ifstream text(folder.path() / "output/metrics.jsonl");
    for (std::string line; std::getline(text, line);) {
      const auto entry = nlohmann::ordered_json::parse(line);
      if (entry.at("mode") != "train") continue;
      std::string numbers;
      for (const char* field : {"lr", "loss", "grad_norm"}) numbers += entry.at(field).dump() + " ";
      steps[entry.at("step").get<int64_t>()] = numbers;
    }
  }
  return steps;
}

TEST_F(MovingJobsTest, AJobThatLeavesAllItsNodesTakesItsCheckpointAlong) {
  LocalCluster cluster(Options(2));
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = Submit(cluster, kLongEnough, {"--set", "resources.nodes=1"});
  const v1::Job running = cluster.WaitForJob(
      name, [](const v1::Job& job) { return IsPast(job, 3); }, kJobTimeout);
  ASSERT_EQ(running.ranks_size(), 1) << running.DebugString();
  const std::string first = running.ranks(0).node();
  ASSERT_EQ(cluster.Muster({"drain", first}).exit_code, 0);
  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, kLongEnough);
  EXPECT_EQ(job.generation(), 2);
  EXPECT_EQ(job.restarts(), 0);
  EXPECT_EQ(CountEvents(cluster, name, "Fetching"), 1);
  EXPECT_EQ(CountEvents(cluster, name, "CheckpointMissing"), 0);

  // No step was lost, none done twice.
  const int from = first == "nodes/w0" ? 0 : 1;
  std::map<int64_t, std::string> steps = StepsOn(cluster, from, name);
  const int64_t left = static_cast<int64_t>(steps.size());
  EXPECT_GE(left, 3);
  const std::map<int64_t, std::string> rest = StepsOn(cluster, 1 - from, name);
  ASSERT_FALSE(rest.empty());
  EXPECT_EQ(rest.begin()->first, left + 1);
  steps.insert(rest.begin(), rest.end());
  // One rank of two images: twice the steps of two nodes.
  EXPECT_EQ(job.progress().total_steps(), 12 * kLongEnough);
  EXPECT_EQ(steps.size(), static_cast<size_t>(job.progress().total_steps()));
  // The same as if it had never moved, to the last digit.
  const std::string still = Submit(cluster, kLongEnough, {"--set", "resources.nodes=1"});
  ExpectFinished(cluster.WaitForJob(
                     still, [](const v1::Job&) { return false; }, kJobTimeout),
                 kLongEnough);
  EXPECT_EQ(steps, StepsOn(cluster, 1 - from, still));
}

TEST_F(MovingJobsTest, AMoreImportantJobGoesFirst) {
  LocalCluster cluster(Options(1));
  ASSERT_TRUE(cluster.WaitForNodes(1, absl::Seconds(30)));
  const std::string low = Submit(cluster, kLongEnough, {"--set", "resources.nodes=1"});
  const v1::Job running = cluster.WaitForJob(
      low, [](const v1::Job& job) { return IsPast(job, 3); }, kJobTimeout);
  ASSERT_TRUE(IsPast(running, 3)) << running.DebugString();
  const std::string high =
      Submit(cluster, 1, {"--set", "resources.nodes=1", "--set", "resources.priority=10"});

  const v1::Job first = cluster.WaitForJob(
      high, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(first, 1);
  EXPECT_FALSE(testing::HasEnded(cluster.GetJob(low)));
  const v1::Job second = cluster.WaitForJob(
      low, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(second, kLongEnough);
  EXPECT_EQ(second.preemptions(), 1);
  EXPECT_EQ(second.restarts(), 0);
}

}  // namespace
}  // namespace muster
