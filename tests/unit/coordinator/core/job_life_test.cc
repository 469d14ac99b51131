// Every transition of a job, with workers played by the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/exit_codes.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using v1::Allocation;
using v1::AllocationStatus;
using v1::Job;

class JobLifeTest : public ::testing::Test {
 protected:
  void TwoNodesRunning() {
    driver_.Join("a");
    driver_.Join("b");
    job_ = driver_.Submit("j", 2);
    driver_.BringUp(job_);
    ASSERT_EQ(driver_.job(job_).state(), Job::STATE_RUNNING);
  }
  Job::State state() const { return driver_.job(job_).state(); }
  const std::string& reason() const { return driver_.job(job_).state_reason(); }

  ClusterDriver driver_;
  std::string job_;
};

TEST_F(JobLifeTest, QueuedJobSaysWhatItWaitsFor) {
  driver_.Join("a");
  job_ = driver_.Submit("j", 2);
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(reason(), "waits for 2 nodes with 1 free slot each; 1 of 2 ready");
  EXPECT_FALSE(driver_.Allocation("a", job_).has_value()) << "a part of a gang was placed";
  driver_.Join("b");
  EXPECT_EQ(state(), Job::STATE_STARTING);
}

TEST_F(JobLifeTest, PlacedGangPreparesThenRunsWithOneMaster) {
  driver_.Join("a", 2);
  driver_.Join("b", 2);
  job_ = driver_.Submit("j", 2, 2);
  EXPECT_EQ(driver_.job(job_).generation(), 1);
  const Allocation prepare = *driver_.Allocation("b", job_);
  EXPECT_EQ(prepare.goal(), Allocation::GOAL_PREPARE);
  EXPECT_EQ(prepare.node_rank(), 1);
  EXPECT_EQ(prepare.world_size(), 4);
  EXPECT_THAT(prepare.ranks(), ElementsAre(2, 3));
  EXPECT_EQ(prepare.job_uid(), "uid-j");

  driver_.Report("a", job_, AllocationStatus::PHASE_PREPARED);
  EXPECT_EQ(driver_.Allocation("a", job_)->goal(), Allocation::GOAL_PREPARE)
      << "a node was started before all were prepared";
  driver_.Report("b", job_, AllocationStatus::PHASE_PREPARED);
  for (const char* node : {"a", "b"}) {
    const Allocation run = *driver_.Allocation(node, job_);
    EXPECT_EQ(run.goal(), Allocation::GOAL_RUN);
    EXPECT_EQ(run.master(), "10.0.0.1:4000");
    EXPECT_FALSE(run.has_resume_from());
  }
  driver_.Report("a", job_, AllocationStatus::PHASE_RUNNING);
  EXPECT_EQ(state(), Job::STATE_STARTING);
  driver_.Report("b", job_, AllocationStatus::PHASE_RUNNING);
  EXPECT_EQ(state(), Job::STATE_RUNNING);
  EXPECT_EQ(driver_.job(job_).ranks(3).node(), "nodes/b");
  EXPECT_EQ(driver_.job(job_).ranks(3).local_rank(), 1);
}

TEST_F(JobLifeTest, SucceedsWhenEveryNodeHas) {
  TwoNodesRunning();
  driver_.Report("a", job_, AllocationStatus::PHASE_SUCCEEDED);
  EXPECT_EQ(state(), Job::STATE_RUNNING);
  EXPECT_EQ(driver_.state().FindNode("nodes/a")->slots_used(), 1) << "half a gang lost its slots";
  driver_.Join("a");
  EXPECT_FALSE(driver_.Allocation("a", job_).has_value()) << "it is to run once more";
  EXPECT_EQ(state(), Job::STATE_RUNNING);
  driver_.Report("b", job_, AllocationStatus::PHASE_SUCCEEDED);
  EXPECT_EQ(state(), Job::STATE_SUCCEEDED);
  EXPECT_TRUE(driver_.job(job_).has_end_time());
  EXPECT_EQ(driver_.Desired("a").allocations_size(), 0);
  EXPECT_EQ(driver_.state().FindNode("nodes/a")->slots_used(), 0);
  EXPECT_THAT(driver_.EventTypes(job_),
              ElementsAre("Submitted", "Placed", "Started", "Running", "Succeeded"));
}

TEST_F(JobLifeTest, FailedRankEndsTheOthersAndIsRetriedFromTheNewestCheckpoint) {
  TwoNodesRunning();
  const v1::Checkpoint checkpoint = MakeCheckpoint(job_, 1, 40);
  driver_.Apply(coordinator::CheckpointCommand{driver_.session("a"), checkpoint});
  EXPECT_EQ(driver_.job(job_).newest_checkpoint().step(), 40);

  driver_.ReportFailure("b", job_, MakeFailure(1, 9, 0));
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
  EXPECT_FALSE(driver_.Allocation("a", job_).has_value()) << "the survivor was not told to end";
  EXPECT_EQ(driver_.state().FindNode("nodes/a")->slots_used(), 1) << "slots freed while it runs";

  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_EQ(driver_.job(job_).generation(), 2);
  EXPECT_EQ(driver_.job(job_).restarts(), 1);
  EXPECT_EQ(driver_.job(job_).first_failure().signal(), 9);
  EXPECT_EQ(driver_.job(job_).first_failure().node(), "nodes/b");

  driver_.Report("a", job_, AllocationStatus::PHASE_PREPARED, {checkpoint});
  driver_.Report("b", job_, AllocationStatus::PHASE_PREPARED);
  const Allocation run = *driver_.Allocation("b", job_);
  EXPECT_EQ(run.resume_from().step(), 40);
  EXPECT_THAT(run.resume_holders(), ElementsAre(0));
}

TEST_F(JobLifeTest, LostPeerIsNotTheFirstFailureWhenAnotherRankDied) {
  TwoNodesRunning();
  driver_.ReportFailure("a", job_, MakeFailure(0, 0, base::kExitCollectiveLost));
  EXPECT_EQ(driver_.job(job_).first_failure().rank(), 0);
  driver_.ReportFailure("b", job_, MakeFailure(1, 11, 0));
  EXPECT_EQ(driver_.job(job_).first_failure().rank(), 1);
  EXPECT_EQ(driver_.job(job_).first_failure().signal(), 11);
  EXPECT_EQ(driver_.job(job_).restarts(), 1);
}

TEST_F(JobLifeTest, AStopThatNobodyHereAskedForCostsNothing) {
  TwoNodesRunning();
  driver_.ReportFailure("a", job_, MakeFailure(0, 0, base::kExitStopped));
  driver_.ReportFailure("b", job_, MakeFailure(1, 0, base::kExitStopped));
  // Not SUCCEEDED: there are steps left.
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_EQ(driver_.job(job_).generation(), 2);
  EXPECT_EQ(driver_.job(job_).restarts(), 0);
}

TEST_F(JobLifeTest, FailsWhenRestartsAreUsedUp) {
  driver_.Join("a");
  job_ = driver_.Submit("j", 1, 1, 1);
  for (int attempt = 0; attempt < 2; ++attempt) {
    ASSERT_EQ(state(), Job::STATE_STARTING);
    driver_.BringUp(job_);
    driver_.ReportFailure("a", job_, MakeFailure(0, 0, 70));
  }
  EXPECT_EQ(state(), Job::STATE_FAILED);
  EXPECT_THAT(reason(), HasSubstr("max_restarts (1) used up"));
  EXPECT_EQ(driver_.job(job_).generation(), 2);
}

TEST_F(JobLifeTest, ErrorThatARetryCannotMendFailsAtOnce) {
  TwoNodesRunning();
  driver_.ReportFailure("a", job_, MakeFailure(0, 0, base::kExitBadConfig));
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_FAILED);
  EXPECT_EQ(driver_.job(job_).restarts(), 0);
}

TEST_F(JobLifeTest, NodeThatCannotPrepareFailsTheJobAndIsNamed) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = driver_.Submit("j", 2);
  v1::RankFailure failure;
  failure.set_message("data/train.zip: No such file or directory");
  driver_.ReportFailure("b", job_, failure);
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_FAILED);
  EXPECT_THAT(reason(), HasSubstr("nodes/b could not prepare the job"));
  EXPECT_THAT(reason(), HasSubstr("data/train.zip: No such file"));
}

TEST_F(JobLifeTest, DroppedPreparationNeedsOnlyAnAcknowledgement) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = driver_.Submit("j", 2);
  driver_.Cancel(job_);
  EXPECT_EQ(state(), Job::STATE_CANCELLING);
  driver_.AckNewest("a");
  EXPECT_EQ(state(), Job::STATE_CANCELLING);
  driver_.AckNewest("b");
  EXPECT_EQ(state(), Job::STATE_CANCELLED);
}

TEST_F(JobLifeTest, CancelWaitsUntilNoProcessIsLeft) {
  TwoNodesRunning();
  EXPECT_TRUE(driver_.Cancel(job_).reply->ok());
  EXPECT_EQ(state(), Job::STATE_CANCELLING);
  EXPECT_EQ(driver_.Desired("a").allocations_size(), 0);
  driver_.AckNewest("a");
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_CANCELLING);
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_CANCELLED);
  EXPECT_EQ(driver_.Cancel(job_).reply->status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(JobLifeTest, QueuedJobCancelsAtOnce) {
  job_ = driver_.Submit("j", 2);
  driver_.Cancel(job_);
  EXPECT_EQ(state(), Job::STATE_CANCELLED);
  EXPECT_EQ(
      driver_.Apply(coordinator::CancelJobCommand{"jobs/none", "", ""}).reply->status().code(),
      absl::StatusCode::kNotFound);
}

TEST_F(JobLifeTest, FailureAfterCancelDoesNotRestart) {
  TwoNodesRunning();
  driver_.Cancel(job_);
  driver_.ReportFailure("a", job_, MakeFailure(0, 15, 0));
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_CANCELLED);
  EXPECT_FALSE(driver_.job(job_).has_first_failure());
}

TEST_F(JobLifeTest, OldGenerationsReportsAreIgnored) {
  TwoNodesRunning();
  AllocationStatus old = driver_.Status(job_, AllocationStatus::PHASE_FAILED);
  driver_.ReportFailure("a", job_, MakeFailure(0, 9, 0));
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  driver_.BringUp(job_);
  ASSERT_EQ(driver_.job(job_).generation(), 2);
  driver_.Apply(coordinator::AllocationStatusCommand{driver_.session("b"), old});
  EXPECT_EQ(state(), Job::STATE_RUNNING);
}

TEST_F(JobLifeTest, WorkerThatRefusesIsLeftAlone) {
  driver_.Join("a");
  job_ = driver_.Submit("j", 1);
  driver_.AckNewest("a", "node a is ending");
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(driver_.job(job_).restarts(), 0);
  driver_.Advance(absl::Seconds(2));
  EXPECT_EQ(driver_.job(job_).generation(), 1) << "it was asked again";
  driver_.Join("a");
  EXPECT_EQ(state(), Job::STATE_STARTING);
}

TEST_F(JobLifeTest, WorkerThatStopsItsRanksByItselfCostsNoRestart) {
  TwoNodesRunning();
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  driver_.ReportFailure("a", job_, MakeFailure(0, 0, base::kExitCollectiveLost));
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(driver_.job(job_).restarts(), 0);
  EXPECT_EQ(driver_.job(job_).generation(), 1);
}

TEST_F(JobLifeTest, KeepsProgressAndOneResultAnEpoch) {
  TwoNodesRunning();
  coordinator::HeartbeatCommand heartbeat;
  heartbeat.session = driver_.session("a");
  v1::JobProgress* progress = heartbeat.heartbeat.add_jobs();
  progress->set_job(job_);
  progress->set_generation(1);
  progress->mutable_progress()->set_step(7);
  coordinator::Effects effects = driver_.Apply(heartbeat);
  EXPECT_EQ(driver_.job(job_).progress().step(), 7);
  EXPECT_EQ(effects.changed_jobs.count(job_), 1u);
  EXPECT_TRUE(effects.writes.empty()) << "progress is stored with every heartbeat";

  coordinator::EvaluationCommand evaluation;
  evaluation.session = driver_.session("a");
  evaluation.report.set_job(job_);
  evaluation.report.set_generation(1);
  for (auto [epoch, ap] : {std::pair{2, 0.3}, {1, 0.1}, {2, 0.4}}) {
    evaluation.report.mutable_result()->set_epoch(epoch);
    evaluation.report.mutable_result()->set_ap(ap);
    EXPECT_FALSE(driver_.Apply(evaluation).writes.jobs.empty());
  }
  ASSERT_EQ(driver_.job(job_).evaluations_size(), 2);
  EXPECT_EQ(driver_.job(job_).evaluations(0).epoch(), 1);
  EXPECT_DOUBLE_EQ(driver_.job(job_).evaluations(1).ap(), 0.4);
}

TEST_F(JobLifeTest, ProgressIsStoredEveryFiveSeconds) {
  TwoNodesRunning();
  coordinator::HeartbeatCommand heartbeat;
  heartbeat.session = driver_.session("a");
  v1::JobProgress* progress = heartbeat.heartbeat.add_jobs();
  progress->set_job(job_);
  progress->set_generation(1);
  int stored = 0;
  for (int second = 1; second <= 20; ++second) {
    driver_.Advance(absl::Seconds(1));
    progress->mutable_progress()->set_step(second);
    stored += driver_.Apply(heartbeat).writes.jobs.size();
  }
  EXPECT_EQ(stored, 4);
}

}  // namespace
}  // namespace muster::testing
