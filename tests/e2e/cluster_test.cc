// Whole jobs over real daemons on loopback: the coordinator, two workers, trainers over Gloo, and
// SIGKILL.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

#include "common/base/exit_codes.h"
#include "tests/e2e/cluster_fixture.h"

namespace muster {
namespace {

using testing::Finished;
using ::testing::HasSubstr;
using testing::LocalCluster;

TEST_F(ClusterTest, TrainsOnTwoWorkersAndLeavesItsOutput) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = Submit(cluster, 2, {"--label", "team=test"});
  const v1::Job running = cluster.WaitForJob(
      name, [](const v1::Job& now) { return IsPast(now, 1); }, kJobTimeout);
  ASSERT_EQ(running.ranks_size(), 2) << running.DebugString();
  EXPECT_NE(running.ranks(0).node(), running.ranks(1).node());
  EXPECT_THAT(running.master(), ::testing::StartsWith("127.0.0.1:"));
  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, 2);
  EXPECT_GT(job.progress().losses().at("loss"), 0);
  EXPECT_EQ(job.labels().at("team"), "test");
  EXPECT_TRUE(cluster.AllTrainers().empty());

  // Every node holds the checkpoints; rank 0's node the records too.
  int folders = 0;
  for (int worker = 0; worker < 2; ++worker) {
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(cluster.StateFolder(worker))) {
      if (entry.path().filename() != "latest.pth") continue;
      ++folders;
      EXPECT_EQ(std::filesystem::read_symlink(entry.path()), "epoch_2.pth");
      EXPECT_TRUE(std::filesystem::exists(entry.path().parent_path() / "config.textproto"));
      if (worker == 0) {
        EXPECT_TRUE(std::filesystem::exists(entry.path().parent_path() / "metrics.jsonl"));
        EXPECT_TRUE(std::filesystem::exists(entry.path().parent_path() / "results_2.json"));
      }
    }
  }
  EXPECT_EQ(folders, 2);

  const Finished logs = cluster.Muster({"logs", name, "--rank", "1"});
  EXPECT_EQ(logs.exit_code, 0) << logs.output;
  const Finished described = cluster.Muster({"describe", name});
  EXPECT_THAT(described.output, HasSubstr("SUCCEEDED"));
  const Finished listed = cluster.Muster({"list", "--json"});
  EXPECT_THAT(listed.output, HasSubstr(name));
}

TEST_F(ClusterTest, KilledTrainerResumesFromItsCheckpoint) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = Submit(cluster, kLongEnough);
  ASSERT_NO_FATAL_FAILURE(AwaitCheckpoint(cluster, name));
  const std::vector<pid_t> victims = cluster.Trainers(1);
  ASSERT_EQ(victims.size(), 1u);
  ASSERT_EQ(kill(victims[0], SIGKILL), 0);

  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, kLongEnough);
  EXPECT_EQ(job.restarts(), 1);
  EXPECT_EQ(job.generation(), 2);
  EXPECT_EQ(job.first_failure().signal(), SIGKILL);
  EXPECT_EQ(job.first_failure().node(), "nodes/w1");
  EXPECT_GE(job.newest_checkpoint().parent_step(), 6);
}

TEST_F(ClusterTest, KilledWorkerWithItsTrainersComesBackAndTheJobFinishes) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = Submit(cluster, kLongEnough);
  ASSERT_NO_FATAL_FAILURE(AwaitCheckpoint(cluster, name));
  cluster.KillWorkerAndTrainers(1);
  const v1::Job interrupted = cluster.WaitForJob(
      name, [](const v1::Job& job) { return job.state() != v1::Job::STATE_RUNNING; },
      absl::Minutes(1));
  EXPECT_FALSE(testing::HasEnded(interrupted)) << interrupted.DebugString();
  cluster.StartWorker(1);

  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, kLongEnough);
  EXPECT_GE(job.generation(), 2);
  EXPECT_GE(job.newest_checkpoint().parent_step(), 6);
}

TEST_F(ClusterTest, KilledCoordinatorComesBackAndTheJobRunsOnWithoutARestart) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = Submit(cluster, kLongEnough);
  const std::vector<pid_t> trainers = AwaitTrainers(cluster, name);
  cluster.KillCoordinator();
  EXPECT_EQ(cluster.AllTrainers(), trainers);
  cluster.StartCoordinator();

  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, kLongEnough);
  EXPECT_EQ(job.generation(), 1);
  EXPECT_EQ(job.restarts(), 0);
}

TEST_F(ClusterTest, KilledWorkerDaemonAloneAdoptsItsTrainers) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = Submit(cluster, kLongEnough);
  const std::vector<pid_t> trainers = AwaitTrainers(cluster, name);
  cluster.KillWorkerAlone(0);
  EXPECT_EQ(cluster.AllTrainers(), trainers);
  cluster.StartWorker(0);

  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, kLongEnough);
  EXPECT_EQ(job.generation(), 1);
}

TEST_F(ClusterTest, CancelLeavesNoProcessBehind) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = Submit(cluster, 50);
  const v1::Job running = cluster.WaitForJob(
      name, [](const v1::Job& job) { return IsPast(job, 2); }, kJobTimeout);
  ASSERT_TRUE(IsPast(running, 2)) << running.DebugString();
  const Finished cancelled = cluster.Muster({"cancel", name});
  EXPECT_EQ(cancelled.exit_code, 0) << cancelled.output;
  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, absl::Minutes(1));
  EXPECT_EQ(job.state(), v1::Job::STATE_CANCELLED);
  EXPECT_TRUE(cluster.AllTrainers().empty());
  for (int worker = 0; worker < 2; ++worker) {
    // The daemon itself names the folder; nothing else may be left.
    EXPECT_EQ(testing::ProcessesWith(cluster.StateFolder(worker).string() + "/").size(), 0u);
  }
}

TEST_F(ClusterTest, ErrorsNameTheirCause) {
  LocalCluster cluster(Options(1));
  ASSERT_TRUE(cluster.WaitForNodes(1, absl::Seconds(30)));

  // A config field that does not exist: at submit time, with file and line.
  const std::filesystem::path bad = cluster.folder() / "bad.textproto";
  std::ofstream(bad) << "bases: \""
                     << (testing::SourceFolder() / "configs/quick/demo.textproto").string()
                     << "\"\nschedule { epoch: 3 }\n";
  const Finished unknown = cluster.Muster({"submit", bad});
  EXPECT_EQ(unknown.exit_code, base::kExitBadConfig) << unknown.output;
  EXPECT_THAT(unknown.output, HasSubstr("bad.textproto:2"));
  EXPECT_THAT(unknown.output, HasSubstr("epoch"));

  // Data that is not there: the job fails while it is prepared, and names field, path and node.
  const Finished missing =
      cluster.Muster(SubmitArguments(1, {"--follow", "--set", "data.train.images=images/absent.zip",
                                         "--set", "resources.nodes=1"}));
  EXPECT_EQ(missing.exit_code, base::kExitJobFailed) << missing.output;
  EXPECT_THAT(missing.output, HasSubstr("data.train.images"));
  EXPECT_THAT(missing.output, HasSubstr("absent.zip"));
  EXPECT_THAT(missing.output, HasSubstr("w0"));

  // A second worker under a name that is taken.
  const Finished second =
      testing::Run({testing::ProgramFolder() / "muster-worker", "--coordinator",
                    cluster.rpc_address(), "--name", "w0", "--slots", "1", "--state-dir",
                    cluster.folder() / "second", "--data-root", data_->path()},
                   absl::Seconds(30));
  EXPECT_NE(second.exit_code, 0);
  EXPECT_THAT(second.output, HasSubstr("w0"));

  // A port in use.
  const Finished port = testing::Run(
      {testing::ProgramFolder() / "muster-coordinator", "--listen", cluster.rpc_address(), "--http",
       "127.0.0.1:0", "--store", cluster.folder() / "other.sqlite"},
      absl::Seconds(30));
  EXPECT_NE(port.exit_code, 0);
  EXPECT_THAT(port.output, HasSubstr(cluster.rpc_address()));

  // No coordinator.
  const Finished nobody =
      testing::Run({testing::ProgramFolder() / "muster", "--coordinator", "127.0.0.1:1", "list"},
                   absl::Seconds(60));
  EXPECT_EQ(nobody.exit_code, base::kExitUnavailable);
  EXPECT_THAT(nobody.output, HasSubstr("127.0.0.1:1"));
}

}  // namespace
}  // namespace muster
