// What a job waits for, and what it does not wait for for ever.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/base/exit_codes.h"
#include "coordinator/core/timestamps.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using v1::AllocationStatus;
using v1::Job;
using v1::Node;

constexpr absl::Duration kTick = absl::Milliseconds(250);
// grace_period and 30 s.
constexpr absl::Duration kStopLimit = absl::Seconds(40);

class JobLimitsTest : public ::testing::Test {
 protected:
  std::string Submit(const std::string& id, int nodes, int ranks_per_node = 1) {
    coordinator::CreateJobCommand command;
    command.job.set_name("jobs/" + id);
    command.job.set_uid("uid-" + id);
    auto* resources = command.job.mutable_config()->mutable_resources();
    resources->set_nodes(nodes);
    resources->set_ranks_per_node(ranks_per_node);
    resources->set_max_restarts(20);
    resources->mutable_grace_period()->set_seconds(10);
    resources->mutable_start_timeout()->set_seconds(15 * 60);
    resources->mutable_restart_backoff()->set_seconds(2);
    driver_.Apply(command);
    return command.job.name();
  }
  void OneNodeRunning() {
    driver_.Join("a");
    job_ = Submit("j", 1);
    driver_.BringUp(job_);
    ASSERT_EQ(state(), Job::STATE_RUNNING);
  }
  void TwoNodesRunning() {
    driver_.Join("a");
    driver_.Join("b");
    job_ = Submit("j", 2);
    driver_.BringUp(job_);
    ASSERT_EQ(state(), Job::STATE_RUNNING);
  }
  // Until it is placed again.
  absl::Duration TimeQueued() {
    const absl::Time start = driver_.now().wall;
    while (state() == Job::STATE_QUEUED && driver_.now().wall < start + absl::Minutes(10)) {
      driver_.Advance(absl::Seconds(1));
    }
    absl::Time placed = absl::InfinitePast();
    for (const v1::JobEvent& event : driver_.state().EventsAfter(job_, 0)) {
      if (event.type() == "Placed") placed = coordinator::FromTimestamp(event.time());
    }
    return placed - start;
  }
  void Fail(const std::string& node, int signal = 9) {
    driver_.ReportFailure(node, job_, MakeFailure(0, signal, 0));
  }
  std::string LastEvent(const std::string& type) {
    std::string message;
    for (const v1::JobEvent& event : driver_.state().EventsAfter(job_, 0)) {
      if (event.type() == type) message = event.message();
    }
    return message;
  }

  Job::State state() const { return driver_.job(job_).state(); }
  const std::string& reason() const { return driver_.job(job_).state_reason(); }
  Node node(const std::string& name) { return *driver_.state().FindNode("nodes/" + name); }

  ClusterDriver driver_;
  std::string job_;
};

TEST_F(JobLimitsTest, RetryWaitsAndSaysWhy) {
  OneNodeRunning();
  Fail("a");
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(reason(), "waits 2 s after a failure: rank 0 on nodes/a was killed by signal 9");
  EXPECT_THAT(LastEvent("Restarting"), ::testing::StartsWith("in 2 s, after rank 0 on nodes/a"));
  // Not even when something else makes the queue move.
  driver_.Join("b");
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  driver_.Advance(absl::Seconds(2) - kTick);
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  driver_.Advance(kTick);
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_EQ(driver_.job(job_).generation(), 2);
}

TEST_F(JobLimitsTest, WaitDoublesUpToFiveMinutes) {
  OneNodeRunning();
  std::vector<int> waits;
  for (int failure = 0; failure < 10; ++failure) {
    Fail("a");
    waits.push_back(static_cast<int>(absl::ToInt64Seconds(TimeQueued())));
    driver_.BringUp(job_);
  }
  EXPECT_THAT(waits, ElementsAre(2, 4, 8, 16, 32, 64, 128, 256, 300, 300));
}

TEST_F(JobLimitsTest, AnAttemptThatLeftACheckpointIsRetriedAtOnce) {
  OneNodeRunning();
  Fail("a");
  TimeQueued();
  driver_.BringUp(job_);
  const v1::Checkpoint checkpoint = MakeCheckpoint(job_, 2, 10);
  driver_.Apply(coordinator::CheckpointCommand{driver_.session("a"), checkpoint});
  Fail("a");
  EXPECT_EQ(state(), Job::STATE_STARTING) << "an attempt that got on waits";
  // The one that it resumes from is not new.
  driver_.Report("a", job_, AllocationStatus::PHASE_PREPARED, {checkpoint});
  ASSERT_EQ(driver_.Allocation("a", job_)->resume_from().step(), 10);
  Fail("a");
  EXPECT_EQ(TimeQueued(), absl::Seconds(2));
}

TEST_F(JobLimitsTest, WaitIsOverWithoutFreeSlots) {
  OneNodeRunning();
  Fail("a");
  const std::string other = Submit("other", 1);
  EXPECT_EQ(driver_.job(other).state(), Job::STATE_STARTING) << "held back by a job that waits";
  driver_.Advance(absl::Seconds(5));
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(reason(), "waits for 1 node with 1 free slot; 0 of 1 ready");
  driver_.BringUp(other);
  driver_.Report("a", other, AllocationStatus::PHASE_SUCCEEDED);
  EXPECT_EQ(state(), Job::STATE_STARTING);
}

TEST_F(JobLimitsTest, LostNodeIsNoReasonToWait) {
  TwoNodesRunning();
  driver_.Join("c");
  driver_.Disconnect("b");
  driver_.Advance(absl::Seconds(3));
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_EQ(driver_.job(job_).restarts(), 0);
}

TEST_F(JobLimitsTest, WaitGoesOnAfterARestartOfTheCoordinator) {
  OneNodeRunning();
  for (int failure = 0; failure < 2; ++failure) {
    Fail("a");
    TimeQueued();
    driver_.BringUp(job_);
  }
  Fail("a");  // 8 s
  driver_.Advance(absl::Seconds(3));
  driver_.Restart();
  driver_.Join("a");
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(TimeQueued(), absl::Seconds(5));
}

TEST_F(JobLimitsTest, JobThatWaitsCanBeCancelled) {
  OneNodeRunning();
  Fail("a");
  driver_.Cancel(job_);
  EXPECT_EQ(state(), Job::STATE_CANCELLED);
  driver_.Advance(absl::Seconds(3));
  EXPECT_EQ(state(), Job::STATE_CANCELLED);
}

TEST_F(JobLimitsTest, NodeThatDoesNotPrepareInTimeIsNamed) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = Submit("j", 2);
  driver_.Report("a", job_, AllocationStatus::PHASE_PREPARED);
  driver_.Advance(absl::Minutes(15) - kTick);
  EXPECT_EQ(state(), Job::STATE_STARTING);
  driver_.Advance(kTick);
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
  EXPECT_EQ(reason(), "nodes/b has not prepared the job within 15 min");
  EXPECT_EQ(driver_.job(job_).first_failure().message(), reason());
  EXPECT_EQ(driver_.job(job_).first_failure().node(), "nodes/b");
  EXPECT_EQ(LastEvent("StartTimeout"), reason());
  for (const char* name : {"a", "b"}) driver_.AckNewest(name);
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(reason(), "waits 2 s after a failure: nodes/b has not prepared the job within 15 min");
  EXPECT_EQ(driver_.job(job_).restarts(), 1);
}

TEST_F(JobLimitsTest, NodesWhoseRanksDoNotJoinInTimeAreNamed) {
  for (const char* name : {"a", "b", "c"}) driver_.Join(name);
  job_ = Submit("j", 3);
  for (const char* name : {"a", "b", "c"}) {
    driver_.Report(name, job_, AllocationStatus::PHASE_PREPARED);
  }
  driver_.Report("a", job_, AllocationStatus::PHASE_RUNNING);
  driver_.Report("b", job_, AllocationStatus::PHASE_STARTING);
  driver_.Advance(absl::Minutes(15));
  EXPECT_EQ(reason(),
            "nodes/c has not started the ranks within 15 min; nodes/b has not brought all ranks "
            "into the group within 15 min");
  // Ranks that lose their peers now explain nothing better.
  driver_.ReportFailure("a", job_, MakeFailure(0, 0, base::kExitCollectiveLost));
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  driver_.Report("c", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_THAT(reason(), HasSubstr("nodes/c has not started the ranks"));
  EXPECT_EQ(driver_.job(job_).restarts(), 1);
}

TEST_F(JobLimitsTest, JobThatNeverStartsFailsInTheEnd) {
  driver_.Join("a");
  job_ = Submit("j", 1);
  for (int attempt = 0; attempt <= 20; ++attempt) {
    ASSERT_EQ(state(), Job::STATE_STARTING) << attempt;
    driver_.Advance(absl::Minutes(15));
    driver_.AckNewest("a");
    TimeQueued();
  }
  EXPECT_EQ(state(), Job::STATE_FAILED);
  EXPECT_EQ(reason(), "nodes/a has not prepared the job within 15 min; max_restarts (20) used up");
}

TEST_F(JobLimitsTest, CoordinatorThatWasAwayBlamesNobodyForALateStart) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = Submit("j", 2);
  driver_.Advance(absl::Minutes(14));
  driver_.Restart();
  for (const char* name : {"a", "b"}) {
    driver_.Join(name, 1, {driver_.Status(job_, AllocationStatus::PHASE_PREPARED)});
  }
  driver_.Advance(absl::Minutes(14));
  EXPECT_EQ(state(), Job::STATE_STARTING);
  driver_.Freeze(absl::Minutes(5));
  EXPECT_EQ(state(), Job::STATE_STARTING) << "a pause of its own counted";
  driver_.Advance(absl::Minutes(1));
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
  EXPECT_THAT(reason(), HasSubstr("have not started the ranks within 34 min"));
}

TEST_F(JobLimitsTest, HangingWorkerIsGivenUpAndKeepsItsSlot) {
  TwoNodesRunning();
  const AllocationStatus old = driver_.Status(job_, AllocationStatus::PHASE_STOPPED);
  Fail("a");
  driver_.Advance(kStopLimit - kTick);
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
  driver_.Advance(kTick);
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(driver_.job(job_).restarts(), 1);
  EXPECT_EQ(LastEvent("NodeLost"),
            "nodes/b is given up: its worker is connected, but has not ended its part of the job "
            "within 40 s");
  EXPECT_EQ(node("b").state(), Node::STATE_READY);
  EXPECT_EQ(node("b").slots_used(), 1);
  EXPECT_THAT(node("b").jobs(), ElementsAre(job_));
  driver_.Advance(absl::Seconds(2));
  EXPECT_EQ(reason(),
            "waits for 2 nodes with 1 free slot each; 1 of 2 ready; nodes/b still ends generation "
            "1 of jobs/j");

  driver_.Join("c");
  EXPECT_THAT(driver_.NodesOf(job_), ElementsAre("a", "c"));
  const std::string other = Submit("other", 1);
  EXPECT_EQ(driver_.job(other).state(), Job::STATE_QUEUED);
  driver_.AckNewest("b");
  EXPECT_EQ(driver_.job(other).state(), Job::STATE_QUEUED) << "the old rank may hold its device";
  driver_.Apply(coordinator::AllocationStatusCommand{driver_.session("b"), old});
  EXPECT_EQ(driver_.NodesOf(other), std::vector<std::string>{"b"});
  EXPECT_EQ(node("b").slots_used(), 1);
}

TEST_F(JobLimitsTest, WorkerThatHangsInPreparationNeedsOnlyAnswer) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = Submit("j", 2);
  driver_.Report("a", job_, AllocationStatus::PHASE_PREPARED);
  driver_.Advance(absl::Minutes(15));
  driver_.AckNewest("a");
  driver_.Advance(kStopLimit + absl::Seconds(2));
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(node("b").slots_used(), 1);
  driver_.AckNewest("b");
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_EQ(node("b").slots_used(), 1);
  EXPECT_EQ(driver_.job(job_).generation(), 2);
}

TEST_F(JobLimitsTest, RankThatCannotBeKilledBlocksNoOtherSlot) {
  driver_.Join("a", 2);
  job_ = Submit("j", 1);
  driver_.BringUp(job_);
  driver_.Cancel(job_);
  driver_.Advance(kStopLimit);
  EXPECT_EQ(state(), Job::STATE_CANCELLED);
  const std::string other = Submit("other", 1);
  EXPECT_EQ(driver_.job(other).state(), Job::STATE_QUEUED) << "the worker has not answered yet";
  driver_.AckNewest("a");
  EXPECT_EQ(driver_.job(other).state(), Job::STATE_STARTING);
  EXPECT_EQ(node("a").slots_used(), 2);
}

TEST_F(JobLimitsTest, NewerGenerationDoesNotGoWhereTheOldOneLingers) {
  driver_.Join("a", 2);
  job_ = Submit("j", 1);
  driver_.BringUp(job_);
  const AllocationStatus old = driver_.Status(job_, AllocationStatus::PHASE_RUNNING);
  driver_.Disconnect("a");
  driver_.Advance(absl::Seconds(3));
  ASSERT_EQ(state(), Job::STATE_QUEUED);
  driver_.Join("a", 2, {old});
  driver_.AckNewest("a");
  EXPECT_EQ(state(), Job::STATE_QUEUED) << "one slot is free, but the old generation still runs";
  const std::string other = Submit("other", 1);
  EXPECT_EQ(driver_.job(other).state(), Job::STATE_STARTING);
  AllocationStatus stopped = old;
  stopped.set_phase(AllocationStatus::PHASE_STOPPED);
  driver_.Apply(coordinator::AllocationStatusCommand{driver_.session("a"), stopped});
  EXPECT_EQ(state(), Job::STATE_STARTING);
}

TEST_F(JobLimitsTest, LostNodeThatReturnsWhileOthersEndKeepsItsSlot) {
  TwoNodesRunning();
  const AllocationStatus old = driver_.Status(job_, AllocationStatus::PHASE_RUNNING);
  driver_.Disconnect("b");
  driver_.Advance(absl::Seconds(3));
  ASSERT_EQ(state(), Job::STATE_RESTARTING);
  driver_.Join("b", 1, {old});
  EXPECT_EQ(node("b").slots_used(), 1);
  const std::string other = Submit("other", 1);
  EXPECT_EQ(driver_.job(other).state(), Job::STATE_QUEUED);
}

TEST_F(JobLimitsTest, RebootedNodeCostsNoRestartAlsoWhenItsPeersSpeakFirst) {
  TwoNodesRunning();
  driver_.ReportFailure("a", job_, MakeFailure(0, 0, base::kExitCollectiveLost));
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
  driver_.Join("b");
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_EQ(driver_.job(job_).restarts(), 0);
}

TEST_F(JobLimitsTest, WorkerThatOnlyReconnectsHasEndedWhatItDoesNotName) {
  TwoNodesRunning();
  driver_.ReportFailure("a", job_, MakeFailure(0, 0, base::kExitCollectiveLost));
  coordinator::WorkerHelloCommand again;
  again.session = 100;
  again.hello.set_node("b");
  again.hello.set_node_uid("b");
  again.hello.set_instance("instance-2");  // as ClusterDriver named the second session's
  again.hello.set_protocol_version(coordinator::kProtocolVersion);
  again.hello.mutable_inventory()->set_slots(1);
  driver_.Apply(again);
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(driver_.job(job_).restarts(), 1);
}

TEST(InWordsTest, RoundsToWhatAPersonReads) {
  using coordinator::InWords;
  EXPECT_EQ(InWords(absl::Milliseconds(500)), "0.5 s");
  EXPECT_EQ(InWords(absl::Milliseconds(40250)), "40 s");
  EXPECT_EQ(InWords(absl::Seconds(90)), "1 min 30 s");
  EXPECT_EQ(InWords(absl::Minutes(15)), "15 min");
  EXPECT_EQ(InWords(absl::Minutes(65)), "1 h 5 min");
  EXPECT_EQ(InWords(absl::Hours(24)), "24 h");
}

}  // namespace
}  // namespace muster::testing
