// Leases, reconnects, restarts of workers and of the coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/exit_codes.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using ::testing::HasSubstr;
using v1::AllocationStatus;
using v1::Job;
using v1::Node;

class NodeLifeTest : public ::testing::Test {
 protected:
  void TwoNodesRunning() {
    driver_.Join("a");
    driver_.Join("b");
    job_ = driver_.Submit("j", 2);
    driver_.BringUp(job_);
    ASSERT_EQ(driver_.job(job_).state(), Job::STATE_RUNNING);
  }
  Node::State NodeState(const std::string& name) {
    return driver_.state().FindNode("nodes/" + name)->state();
  }
  Job::State state() const { return driver_.job(job_).state(); }

  ClusterDriver driver_;
  std::string job_;
};

TEST_F(NodeLifeTest, BrokenStreamMakesUnreachableAtOnceAndLostAfterTheLease) {
  driver_.Join("a");
  EXPECT_EQ(NodeState("a"), Node::STATE_READY);
  driver_.Disconnect("a");
  EXPECT_EQ(NodeState("a"), Node::STATE_UNREACHABLE);
  driver_.Advance(absl::Milliseconds(2750));
  EXPECT_EQ(NodeState("a"), Node::STATE_UNREACHABLE);
  driver_.Advance(absl::Milliseconds(250));
  EXPECT_EQ(NodeState("a"), Node::STATE_LOST);
}

TEST_F(NodeLifeTest, SilentStreamIsMissedThenLostAndToldToJoinAgain) {
  driver_.Join("a");
  driver_.Advance(absl::Milliseconds(2250), /*heartbeats=*/false);
  EXPECT_EQ(NodeState("a"), Node::STATE_UNREACHABLE);
  driver_.Apply(coordinator::HeartbeatCommand{driver_.session("a"), {}});
  EXPECT_EQ(NodeState("a"), Node::STATE_READY);
  driver_.Advance(absl::Seconds(3), /*heartbeats=*/false);
  EXPECT_EQ(NodeState("a"), Node::STATE_LOST);
  EXPECT_TRUE(driver_.SaidGoodbye("a"));
}

TEST_F(NodeLifeTest, LostNodeRequeuesTheJobWithoutCountingARestart) {
  TwoNodesRunning();
  driver_.Disconnect("b");
  driver_.ReportFailure("a", job_, MakeFailure(0, 0, base::kExitCollectiveLost));
  EXPECT_EQ(state(), Job::STATE_RESTARTING) << "the silent node may still run its ranks";
  driver_.Advance(absl::Seconds(3));
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  EXPECT_EQ(driver_.job(job_).restarts(), 0);
  EXPECT_THAT(driver_.job(job_).state_reason(), HasSubstr("1 of 2 ready"));
  driver_.Join("b");
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_EQ(driver_.job(job_).generation(), 2);
}

TEST_F(NodeLifeTest, SpareNodeTakesTheLostNodesPlace) {
  TwoNodesRunning();
  driver_.Join("c");
  driver_.Disconnect("b");
  driver_.Advance(absl::Seconds(3));
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_THAT(driver_.NodesOf(job_), ::testing::ElementsAre("a", "c"));
}

TEST_F(NodeLifeTest, NodeThatComesBackInTimeGoesOn) {
  TwoNodesRunning();
  driver_.Disconnect("b");
  driver_.Advance(absl::Seconds(2));
  driver_.Join("b", 1, {driver_.Status(job_, AllocationStatus::PHASE_RUNNING)});
  driver_.Advance(absl::Seconds(10));
  EXPECT_EQ(state(), Job::STATE_RUNNING);
  EXPECT_EQ(driver_.job(job_).generation(), 1);
  EXPECT_TRUE(driver_.Allocation("b", job_).has_value());
}

TEST_F(NodeLifeTest, JobThatAdvancesVouchesForASilentNode) {
  TwoNodesRunning();
  driver_.Step("a", job_, 1);
  driver_.Disconnect("b");
  for (int step = 2; step < 20; ++step) {
    driver_.Advance(absl::Seconds(1));
    driver_.Step("a", job_, step);
  }
  EXPECT_EQ(NodeState("b"), Node::STATE_UNREACHABLE);
  EXPECT_EQ(state(), Job::STATE_RUNNING);
  driver_.Advance(absl::Seconds(4));
  EXPECT_EQ(NodeState("b"), Node::STATE_LOST);
}

TEST_F(NodeLifeTest, NodeThatReturnsAfterLossIsToldToEndTheOldGeneration) {
  TwoNodesRunning();
  const AllocationStatus old = driver_.Status(job_, AllocationStatus::PHASE_RUNNING);
  driver_.Disconnect("b");
  driver_.Advance(absl::Seconds(3));
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  driver_.Join("b", 1, {old});
  EXPECT_EQ(driver_.Desired("b").allocations_size(), 0);
  EXPECT_EQ(state(), Job::STATE_QUEUED) << "its slot is not free before the old rank is gone";
  AllocationStatus stopped = old;
  stopped.set_phase(AllocationStatus::PHASE_STOPPED);
  driver_.Apply(coordinator::AllocationStatusCommand{driver_.session("b"), stopped});
  EXPECT_EQ(state(), Job::STATE_STARTING);
}

TEST_F(NodeLifeTest, WorkerThatCameBackWithoutItsRanksCountsAsLostNode) {
  TwoNodesRunning();
  driver_.Join("b");
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_EQ(driver_.job(job_).restarts(), 0);
}

TEST_F(NodeLifeTest, NewInstanceOfAWorkerReplacesTheOldSession) {
  driver_.Join("a");
  const coordinator::SessionId old = driver_.session("a");
  const coordinator::Effects effects = driver_.Join("a");
  bool old_closed = false;
  for (const auto& message : effects.messages)
    old_closed |= message.session == old && message.close;
  EXPECT_TRUE(old_closed);
  driver_.Apply(coordinator::SessionClosedCommand{old});
  EXPECT_EQ(NodeState("a"), Node::STATE_READY) << "the old stream's end hit the new one";
}

TEST_F(NodeLifeTest, SecondWorkerUnderALiveNameIsRefusedForGood) {
  driver_.Join("a");
  const coordinator::Effects effects = driver_.Join("a", 1, {}, "another-uid");
  ASSERT_EQ(effects.messages.size(), 1u);
  const v1::Goodbye& goodbye = effects.messages[0].message.goodbye();
  EXPECT_FALSE(goodbye.retry());
  EXPECT_THAT(goodbye.reason(), HasSubstr("the name a is held by another worker"));
  EXPECT_FALSE(driver_.SaidGoodbye("a"));
  driver_.Disconnect("a");
  driver_.Advance(absl::Seconds(3));
  driver_.Join("a", 1, {}, "another-uid");
  EXPECT_EQ(NodeState("a"), Node::STATE_READY) << "a lost worker's name is free";
}

TEST_F(NodeLifeTest, OtherProtocolVersionsAndBadNamesAreRefused) {
  coordinator::WorkerHelloCommand command;
  command.session = 50;
  command.hello.set_node("a");
  command.hello.set_protocol_version(coordinator::kOldestProtocolVersion - 1);
  coordinator::Effects effects = driver_.Apply(command);
  EXPECT_THAT(effects.messages.at(0).message.goodbye().reason(), HasSubstr("protocol version"));
  command.hello.set_protocol_version(coordinator::kProtocolVersion);
  command.hello.set_node("a/b");
  effects = driver_.Apply(command);
  EXPECT_FALSE(effects.messages.at(0).message.goodbye().retry());
  EXPECT_FALSE(driver_.state().FindNode("nodes/a/b").has_value());
}

TEST_F(NodeLifeTest, CoordinatorRestartKeepsTheJobRunning) {
  TwoNodesRunning();
  driver_.Restart();
  EXPECT_EQ(state(), Job::STATE_RUNNING);
  driver_.Advance(absl::Seconds(10));
  EXPECT_EQ(NodeState("a"), Node::STATE_UNREACHABLE) << "every lease is granted anew";
  for (const char* node : {"a", "b"}) {
    driver_.Join(node, 1, {driver_.Status(job_, AllocationStatus::PHASE_RUNNING)});
  }
  driver_.Advance(absl::Seconds(20));
  EXPECT_EQ(state(), Job::STATE_RUNNING);
  EXPECT_EQ(driver_.job(job_).generation(), 1);
  for (const char* node : {"a", "b"}) {
    driver_.Report(node, job_, AllocationStatus::PHASE_SUCCEEDED);
  }
  EXPECT_EQ(state(), Job::STATE_SUCCEEDED);
}

TEST_F(NodeLifeTest, CoordinatorThatStoodStillBlamesNobody) {
  TwoNodesRunning();
  driver_.Advance(absl::Seconds(1));
  driver_.Freeze(absl::Minutes(1));
  EXPECT_EQ(NodeState("a"), Node::STATE_READY);
  driver_.Advance(absl::Seconds(3), /*heartbeats=*/false);
  EXPECT_EQ(NodeState("a"), Node::STATE_LOST);
}

TEST_F(NodeLifeTest, NodeThatDoesNotComeBackAfterARestartIsLost) {
  TwoNodesRunning();
  driver_.Restart();
  driver_.Join("a", 1, {driver_.Status(job_, AllocationStatus::PHASE_RUNNING)});
  driver_.Advance(absl::Seconds(16));
  EXPECT_EQ(NodeState("b"), Node::STATE_LOST);
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
}

TEST_F(NodeLifeTest, RestartDuringPreparationIsTakenUp) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = driver_.Submit("j", 2);
  driver_.Report("a", job_, AllocationStatus::PHASE_PREPARED);
  driver_.Restart();
  driver_.Join("a", 1, {driver_.Status(job_, AllocationStatus::PHASE_PREPARED)});
  driver_.Join("b");
  EXPECT_EQ(driver_.Allocation("b", job_)->goal(), v1::Allocation::GOAL_PREPARE);
  driver_.Report("b", job_, AllocationStatus::PHASE_PREPARED);
  EXPECT_EQ(driver_.Allocation("a", job_)->goal(), v1::Allocation::GOAL_RUN);
}

TEST_F(NodeLifeTest, DesiredVersionsGrowAcrossRestarts) {
  TwoNodesRunning();
  const int64_t before = driver_.Desired("a").version();
  driver_.Advance(absl::Milliseconds(250));
  driver_.Restart();
  driver_.Join("a", 1, {driver_.Status(job_, AllocationStatus::PHASE_RUNNING)});
  EXPECT_GT(driver_.Desired("a").version(), before);
}

}  // namespace
}  // namespace muster::testing
