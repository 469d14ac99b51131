// Nodes that people, maintenance or repeated failures take out of use.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/exit_codes.h"
#include "coordinator/core/timestamps.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using v1::AllocationStatus;
using v1::Job;
using v1::Node;

class NodeUpkeepTest : public ::testing::Test {
 protected:
  Node node(const std::string& name) { return *driver_.state().FindNode("nodes/" + name); }
  Job::State state() const { return driver_.job(job_).state(); }
  void RunOn(const std::string& name) {
    driver_.Join(name);
    job_ = driver_.Submit("j", 1);
    driver_.BringUp(job_);
    ASSERT_EQ(state(), Job::STATE_RUNNING);
  }
  std::vector<std::string> NodeEvents(const std::string& name) {
    bool more = false;
    std::vector<std::string> types;
    for (const v1::JobEvent& event : driver_.state().ListEvents("nodes/" + name, 0, 100, &more)) {
      if (event.job().empty()) types.push_back(event.type());
    }
    return types;
  }

  ClusterDriver driver_;
  std::string job_;
};

TEST_F(NodeUpkeepTest, CordonedNodeKeepsItsJobAndGetsNoOther) {
  RunOn("a");
  ASSERT_TRUE(driver_.Cordon("a").node_reply->ok());
  EXPECT_TRUE(node("a").cordoned());
  EXPECT_EQ(node("a").cordon_reason(), "cordoned by ann: test");
  EXPECT_FALSE(node("a").draining());
  driver_.Advance(absl::Seconds(5));
  EXPECT_EQ(state(), Job::STATE_RUNNING);

  driver_.Report("a", job_, AllocationStatus::PHASE_SUCCEEDED);
  const std::string next = driver_.Submit("next", 1);
  EXPECT_EQ(driver_.job(next).state(), Job::STATE_QUEUED);
  EXPECT_THAT(driver_.job(next).state_reason(), HasSubstr("nodes/a is cordoned"));
  driver_.Restart();
  driver_.Join("a");
  EXPECT_EQ(driver_.job(next).state(), Job::STATE_QUEUED) << "a restart forgot the cordon";
  driver_.Uncordon("a");
  EXPECT_EQ(driver_.job(next).state(), Job::STATE_STARTING);
  EXPECT_FALSE(node("a").cordoned());
  EXPECT_THAT(NodeEvents("a"), ElementsAre("NodeJoined", "Cordoned", "Uncordoned"));
}

TEST_F(NodeUpkeepTest, UnknownNodeIsNotFound) {
  EXPECT_EQ(driver_.Cordon("x").node_reply->status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(driver_.Uncordon("x").node_reply->status().code(), absl::StatusCode::kNotFound);
}

TEST_F(NodeUpkeepTest, DrainMovesTheJobAtNoCost) {
  RunOn("a");
  driver_.Join("b");
  driver_.Cordon("a", /*drain=*/true);
  EXPECT_TRUE(node("a").draining());
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
  EXPECT_FALSE(driver_.Allocation("a", job_).has_value()) << "it was not told to stop";
  EXPECT_EQ(driver_.job(job_).preemptions(), 1);
  // Ranks that end without the best of manners count for nothing.
  driver_.ReportFailure("a", job_, MakeFailure(0, 15, 0));
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_THAT(driver_.NodesOf(job_), ElementsAre("b"));
  EXPECT_EQ(driver_.job(job_).restarts(), 0);
  EXPECT_THAT(node("a").jobs(), IsEmpty());
  EXPECT_THAT(driver_.EventTypes(job_), ElementsAre("Submitted", "Placed", "Started", "Running",
                                                    "Preempted", "Restarting", "Placed"));
  const v1::JobEvent preempted = driver_.state().EventsAfter(job_, 0)[4];
  EXPECT_EQ(preempted.message(), "nodes/a is drained by ann: test");
  EXPECT_EQ(preempted.node(), "nodes/a");
}

TEST_F(NodeUpkeepTest, DrainedJobWithNoOtherPlaceWaits) {
  RunOn("a");
  driver_.Cordon("a", /*drain=*/true);
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(), Job::STATE_QUEUED);
  driver_.Join("b");
  EXPECT_THAT(driver_.NodesOf(job_), ElementsAre("b"));
}

TEST_F(NodeUpkeepTest, JobThatFinishesWhileItIsStoppedHasSucceeded) {
  RunOn("a");
  driver_.Cordon("a", /*drain=*/true);
  driver_.Report("a", job_, AllocationStatus::PHASE_SUCCEEDED);
  EXPECT_EQ(state(), Job::STATE_SUCCEEDED);
}

TEST_F(NodeUpkeepTest, MovedJobKeepsItsPlaceInTheQueue) {
  RunOn("a");
  const std::string later = driver_.Submit("later", 1);
  driver_.Cordon("a", /*drain=*/true);
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(driver_.job(job_).queue_position(), 0);
  EXPECT_EQ(driver_.job(later).queue_position(), 1);
  driver_.Uncordon("a");
  EXPECT_EQ(state(), Job::STATE_STARTING);
  EXPECT_EQ(driver_.job(later).state(), Job::STATE_QUEUED);
}

TEST_F(NodeUpkeepTest, RebootMovesTheJobAndIsApprovedWhenNothingIsLeft) {
  RunOn("a");
  driver_.Join("b");
  driver_.Announce("a", {MakeMaintenance("e1", "Reboot")});
  EXPECT_EQ(state(), Job::STATE_RESTARTING);
  EXPECT_TRUE(node("a").cordoned());
  EXPECT_EQ(node("a").maintenance(0).id(), "e1");
  EXPECT_THAT(driver_.Approvals("a"), IsEmpty()) << "approved while a rank runs";
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  EXPECT_THAT(driver_.Approvals("a"), ElementsAre("e1"));
  EXPECT_THAT(driver_.NodesOf(job_), ElementsAre("b"));
  EXPECT_EQ(driver_.job(job_).restarts(), 0);

  driver_.Announce("a", {MakeMaintenance("e1", "Reboot", "Started")});
  EXPECT_THAT(driver_.Approvals("a"), ElementsAre("e1")) << "approved twice";
  driver_.Disconnect("a");
  driver_.Advance(absl::Seconds(4));
  driver_.Join("a");
  const std::string next = driver_.Submit("next", 1);
  EXPECT_EQ(driver_.job(next).state(), Job::STATE_QUEUED) << "the event is not over";
  driver_.Announce("a", {});
  EXPECT_THAT(driver_.NodesOf(next), ElementsAre("a"));
  EXPECT_THAT(NodeEvents("a"),
              ElementsAre("NodeJoined", "Maintenance", "MaintenanceApproved", "MaintenanceStarted",
                          "NodeLost", "NodeJoined", "MaintenanceOver"));
}

TEST_F(NodeUpkeepTest, EveryEventThatTakesTheMachineMovesItsJobs) {
  driver_.Join("a");
  int i = 0;
  for (const char* type : {"Redeploy", "Preempt", "Terminate"}) {
    const std::string id = absl::StrCat("j", i++);
    job_ = driver_.Submit(id, 1);
    driver_.BringUp(job_);
    driver_.Announce("a", {MakeMaintenance(id, type)});
    EXPECT_EQ(state(), Job::STATE_RESTARTING) << type;
    driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
    EXPECT_EQ(driver_.Approvals("a").back(), id) << type;
    driver_.Cancel(job_);
    driver_.Announce("a", {});
  }
}

TEST_F(NodeUpkeepTest, CordonOutlivesMaintenance) {
  driver_.Join("a");
  driver_.Cordon("a");
  driver_.Announce("a", {MakeMaintenance("e1", "Reboot")});
  driver_.Announce("a", {});
  job_ = driver_.Submit("j", 1);
  EXPECT_EQ(state(), Job::STATE_QUEUED);
}

TEST_F(NodeUpkeepTest, PreparedNodeIsApprovedOnceItHasDroppedThePreparation) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = driver_.Submit("j", 2);
  driver_.Announce("a", {MakeMaintenance("e1", "Redeploy")});
  driver_.AckNewest("a");
  EXPECT_THAT(driver_.Approvals("a"), ElementsAre("e1"));
}

TEST_F(NodeUpkeepTest, MaintenanceOfAMachineThatWasReplacedIsForgotten) {
  driver_.Join("a", 1, {}, "old-machine");
  driver_.Announce("a", {MakeMaintenance("e1", "Terminate", "Started")});
  driver_.Disconnect("a");
  driver_.Advance(absl::Seconds(10));
  ASSERT_EQ(node("a").state(), Node::STATE_LOST);
  EXPECT_EQ(node("a").maintenance_size(), 1);
  driver_.Join("a", 1, {}, "new-machine");
  EXPECT_EQ(node("a").maintenance_size(), 0);
  EXPECT_THAT(NodeEvents("a"), ::testing::Contains("MaintenanceOver"));
  job_ = driver_.Submit("j", 1);
  EXPECT_EQ(state(), Job::STATE_STARTING);
  driver_.Restart();
  EXPECT_EQ(node("a").maintenance_size(), 0);
}

TEST_F(NodeUpkeepTest, MaintenanceOfANodeThatNeverComesBackIsForgottenInTime) {
  driver_.Join("a");
  driver_.Join("b");
  v1::MaintenanceEvent event = MakeMaintenance("e1", "Redeploy");
  *event.mutable_not_before() = coordinator::ToTimestamp(driver_.now().wall + absl::Minutes(10));
  event.set_duration_seconds(60);
  driver_.Announce("a", {event});
  driver_.Announce("b", {event});
  driver_.Disconnect("a");
  // 10 minutes, 1 minute, and an hour.
  driver_.Advance(absl::Minutes(70));
  EXPECT_EQ(node("a").maintenance_size(), 1);
  driver_.Advance(absl::Minutes(2));
  EXPECT_EQ(node("a").maintenance_size(), 0);
  EXPECT_EQ(node("b").maintenance_size(), 1) << "while its worker is there, its word holds";
}

TEST_F(NodeUpkeepTest, FreezeMovesNothingAndTheNodesSilenceCountsForNothing) {
  RunOn("a");
  v1::MaintenanceEvent freeze = MakeMaintenance("f1", "Freeze");
  freeze.set_duration_seconds(60);
  driver_.Announce("a", {freeze});
  EXPECT_THAT(driver_.Approvals("a"), ElementsAre("f1"));
  EXPECT_EQ(state(), Job::STATE_RUNNING);
  EXPECT_FALSE(node("a").cordoned());
  freeze.set_status("Started");
  driver_.Announce("a", {freeze});
  driver_.Advance(absl::Seconds(55), /*heartbeats=*/false);
  EXPECT_EQ(node("a").state(), Node::STATE_UNREACHABLE);
  EXPECT_EQ(state(), Job::STATE_RUNNING);
  driver_.Apply(coordinator::HeartbeatCommand{driver_.session("a"), {}});
  driver_.Announce("a", {});
  EXPECT_EQ(node("a").state(), Node::STATE_READY);
  driver_.Advance(absl::Seconds(4), /*heartbeats=*/false);
  EXPECT_EQ(node("a").state(), Node::STATE_LOST) << "the freeze is over";
}

TEST_F(NodeUpkeepTest, FreezeThatDoesNotEndIsBounded) {
  RunOn("a");
  driver_.Announce("a", {MakeMaintenance("f1", "Freeze", "Started")});
  driver_.Restart();
  driver_.Advance(absl::Minutes(14), /*heartbeats=*/false);
  EXPECT_NE(node("a").state(), Node::STATE_LOST) << "a restart forgot the freeze";
  driver_.Advance(absl::Minutes(2), /*heartbeats=*/false);
  EXPECT_EQ(node("a").state(), Node::STATE_LOST);
}

TEST_F(NodeUpkeepTest, NoTimeLimitRunsInAFreeze) {
  driver_.Join("a");
  config::v1::Resources resources;
  resources.mutable_start_timeout()->set_seconds(30);
  job_ = driver_.Submit("j", resources);
  driver_.Announce("a", {MakeMaintenance("f1", "Freeze", "Started")});
  driver_.Advance(absl::Minutes(5), /*heartbeats=*/false);
  EXPECT_EQ(state(), Job::STATE_STARTING);
  driver_.Apply(coordinator::HeartbeatCommand{driver_.session("a"), {}});
  driver_.Announce("a", {});
  driver_.Advance(absl::Seconds(29));
  EXPECT_EQ(driver_.job(job_).generation(), 1);
  driver_.Advance(absl::Seconds(2));
  EXPECT_NE(state(), Job::STATE_STARTING);
}

TEST_F(NodeUpkeepTest, NodeOnWhichAttemptsFailAgainAndAgainIsSetAside) {
  driver_.Join("a");
  driver_.Join("b");
  driver_.Cordon("b");
  for (int i = 0; i < 3; ++i) {
    job_ = driver_.Submit(absl::StrCat("j", i), 1);
    driver_.BringUp(job_);
    if (i == 2) driver_.Uncordon("b");
    driver_.ReportFailure("a", job_, MakeFailure(0, 9, 0));
    if (i < 2) {
      EXPECT_FALSE(node("a").cordoned());
      driver_.Cancel(job_);
      driver_.AckNewest("a");
    }
  }
  EXPECT_TRUE(node("a").cordoned());
  EXPECT_THAT(node("a").cordon_reason(), HasSubstr("set aside: 3 attempts failed on it"));
  EXPECT_THAT(driver_.NodesOf(job_), ElementsAre("b"));
  driver_.Uncordon("a");
  EXPECT_FALSE(node("a").cordoned());
}

TEST_F(NodeUpkeepTest, OnlyNodeIsNotSetAside) {
  driver_.Join("a");
  job_ = driver_.Submit("j", 1, 1, 9);
  for (int i = 0; i < 5; ++i) {
    driver_.BringUp(job_);
    driver_.ReportFailure("a", job_, MakeFailure(0, 9, 0));
  }
  EXPECT_FALSE(node("a").cordoned());
  EXPECT_EQ(state(), Job::STATE_STARTING);
}

TEST_F(NodeUpkeepTest, LostPeersAndBadConfigsBlameNoNode) {
  driver_.Join("a");
  driver_.Join("b");
  for (int i = 0; i < 4; ++i) {
    job_ = driver_.Submit(absl::StrCat("j", i), 1);
    driver_.BringUp(job_);
    const std::string name = driver_.NodesOf(job_)[0];
    driver_.ReportFailure(
        name, job_,
        MakeFailure(0, 0, i % 2 == 0 ? base::kExitBadConfig : base::kExitCollectiveLost));
    if (i % 2 == 1) driver_.Cancel(job_);
    EXPECT_FALSE(node(name).cordoned());
    for (const char* held : {"a", "b"}) {
      if (driver_.Desired(held).allocations_size() == 0) driver_.AckNewest(held);
    }
  }
}

TEST_F(NodeUpkeepTest, EventsArePagedAndNameWhoDidIt) {
  driver_.Join("a");
  job_ = driver_.Submit("j", config::v1::Resources(), "bob");
  driver_.Apply(coordinator::CancelJobCommand{job_, "", "eve"});
  EXPECT_EQ(driver_.job(job_).creator(), "bob");
  bool more = false;
  std::vector<v1::JobEvent> page = driver_.state().ListEvents("", 0, 2, &more);
  ASSERT_EQ(page.size(), 2u);
  EXPECT_TRUE(more);
  EXPECT_EQ(page[0].type(), "NodeJoined");
  EXPECT_EQ(page[0].node(), "nodes/a");
  EXPECT_EQ(page[1].type(), "Submitted");
  EXPECT_EQ(page[1].actor(), "bob");
  page = driver_.state().ListEvents("", page[1].sequence(), 100, &more);
  EXPECT_FALSE(more);
  EXPECT_EQ(page.back().type(), "Cancelling");
  EXPECT_EQ(page.back().actor(), "eve");
}

}  // namespace
}  // namespace muster::testing
