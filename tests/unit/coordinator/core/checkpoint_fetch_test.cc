// Checkpoints that a new generation's nodes do not hold, with workers played by the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/exit_codes.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using v1::Allocation;
using v1::AllocationStatus;
using v1::Job;

class CheckpointFetchTest : public ::testing::Test {
 protected:
  // The job runs on node a and has left these steps there.
  void RunOnA(const std::vector<int64_t>& steps) {
    driver_.Join("a");
    job_ = driver_.Submit("j", 1);
    driver_.BringUp(job_);
    for (int64_t step : steps) Write("a", step);
  }
  void Write(const std::string& node, int64_t step) {
    driver_.Apply(
        coordinator::CheckpointCommand{driver_.session(node), MakeCheckpoint(job_, 1, step)});
  }
  // Node a is drained and has ended its part.
  void DrainA() {
    driver_.Cordon("a", /*drain=*/true);
    driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  }
  Allocation On(const std::string& node) {
    const std::optional<Allocation> allocation = driver_.Allocation(node, job_);
    EXPECT_TRUE(allocation.has_value()) << "nodes/" << node << " has nothing to do";
    return allocation.value_or(Allocation());
  }
  void Prepared(const std::string& node, std::vector<v1::Checkpoint> held,
                const std::vector<std::string>& not_held_by = {}) {
    AllocationStatus status = driver_.Status(job_, AllocationStatus::PHASE_PREPARED);
    for (v1::Checkpoint& checkpoint : held) *status.add_checkpoints() = std::move(checkpoint);
    for (const std::string& other : not_held_by) status.add_not_held_by(other);
    driver_.Apply(coordinator::AllocationStatusCommand{driver_.session(node), status});
  }
  std::string EventText(const std::string& type) const {
    for (const v1::JobEvent& event : driver_.state().EventsAfter(job_, 0)) {
      if (event.type() == type) return event.message();
    }
    return "";
  }
  const Job& job() const { return driver_.job(job_); }

  mutable ClusterDriver driver_;
  std::string job_;
};

TEST_F(CheckpointFetchTest, JobThatMovesFetchesItsNewestCheckpoint) {
  RunOnA({60, 120});
  driver_.Join("b");
  DrainA();
  ASSERT_THAT(driver_.NodesOf(job_), ElementsAre("b"));
  const Allocation prepare = On("b");
  EXPECT_EQ(prepare.goal(), Allocation::GOAL_PREPARE);
  EXPECT_EQ(prepare.fetch().checkpoint().step(), 120);
  ASSERT_EQ(prepare.fetch().sources_size(), 1);
  const v1::CheckpointServer& source = prepare.fetch().sources(0);
  EXPECT_EQ(source.node(), "a");
  EXPECT_EQ(source.address(), "10.0.0.1:9100");
  EXPECT_EQ(source.certificate(), "certificate of a");
  EXPECT_THAT(source.token(), HasSubstr("secret of a"));
  EXPECT_EQ(job().state_reason(), "nodes/b fetches step_120.pth from nodes/a");
  EXPECT_EQ(EventText("Fetching"), job().state_reason());

  AllocationStatus fetching = driver_.Status(job_, AllocationStatus::PHASE_PREPARING);
  fetching.set_detail("fetching step_120.pth from nodes/a: 40 of 312 MB");
  driver_.Apply(coordinator::AllocationStatusCommand{driver_.session("b"), fetching});
  EXPECT_EQ(job().ranks(0).detail(), fetching.detail());

  Prepared("b", {MakeCheckpoint(job_, 1, 120)});
  const Allocation run = On("b");
  EXPECT_EQ(run.goal(), Allocation::GOAL_RUN);
  EXPECT_FALSE(run.has_fetch());
  EXPECT_EQ(run.resume_from().step(), 120);
  EXPECT_THAT(run.resume_holders(), ElementsAre(0));
  EXPECT_EQ(job().ranks(0).detail(), "");
  EXPECT_THAT(driver_.EventTypes(job_), Not(Contains("CheckpointMissing")));
}

TEST_F(CheckpointFetchTest, SecretsAreNeitherShownNorStored) {
  RunOnA({60});
  driver_.Join("b");
  std::string written;
  driver_.Observe([&](coordinator::Effects* effects) {
    for (const auto& [name, record] : effects->writes.jobs) written += record.DebugString();
    for (const auto& [name, record] : effects->writes.nodes) written += record.DebugString();
    for (const auto& event : effects->writes.events) written += event.DebugString();
    for (const auto& line : effects->log) written += line.message;
  });
  DrainA();
  driver_.Join("a");
  ASSERT_TRUE(On("b").has_fetch());
  written += job().DebugString();
  written += driver_.state().FindNode("nodes/a")->DebugString();
  EXPECT_THAT(written, HasSubstr("step_60.pth"));
  EXPECT_THAT(written, Not(HasSubstr("secret")));
  EXPECT_THAT(written, Not(HasSubstr("certificate")));
}

TEST_F(CheckpointFetchTest, NothingIsFetchedThatTheGangHolds) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = driver_.Submit("j", 2);
  driver_.BringUp(job_);
  Write("a", 60);
  Write("b", 60);
  driver_.Join("c");
  DrainA();
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  ASSERT_EQ(job().generation(), 2);
  for (const std::string& node : driver_.NodesOf(job_)) EXPECT_FALSE(On(node).has_fetch());
}

TEST_F(CheckpointFetchTest, WhatAPreparedNodeHasLostIsFetched) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = driver_.Submit("j", 2);
  driver_.BringUp(job_);
  Write("a", 60);
  Write("b", 60);
  driver_.Join("c");
  driver_.Cordon("b", /*drain=*/true);
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  const std::vector<std::string> nodes = driver_.NodesOf(job_);
  ASSERT_THAT(nodes, ElementsAre("a", "c"));
  EXPECT_FALSE(On("a").has_fetch());
  // Somebody has removed it from a.
  Prepared("c", {});
  Prepared("a", {});
  EXPECT_EQ(On("a").goal(), Allocation::GOAL_PREPARE) << "it started without its checkpoint";
  EXPECT_EQ(On("a").fetch().checkpoint().step(), 60);
  EXPECT_EQ(On("a").fetch().sources(0).node(), "b");
  EXPECT_FALSE(On("c").has_fetch()) << "only node_rank 0 fetches";
  // A status that was under way.
  Prepared("a", {});
  EXPECT_EQ(On("a").goal(), Allocation::GOAL_PREPARE);
  Prepared("a", {MakeCheckpoint(job_, 1, 60)});
  EXPECT_EQ(On("c").resume_from().step(), 60);
}

TEST_F(CheckpointFetchTest, AHolderThatWasNotKnownEndsTheFetch) {
  RunOnA({60});
  driver_.Join("b");
  DrainA();
  ASSERT_TRUE(On("b").has_fetch());
  Prepared("b", {MakeCheckpoint(job_, 1, 60)});
  EXPECT_EQ(On("b").resume_from().step(), 60);
}

TEST_F(CheckpointFetchTest, NodesThatDoNotHoldItAreDropped) {
  RunOnA({60, 120});
  driver_.Join("b");
  DrainA();
  ASSERT_EQ(On("b").fetch().checkpoint().step(), 120);
  Prepared("b", {}, {"a"});
  EXPECT_EQ(On("b").goal(), Allocation::GOAL_PREPARE);
  EXPECT_EQ(On("b").fetch().checkpoint().step(), 60) << "the next newest";
  Prepared("b", {}, {"a"});
  EXPECT_EQ(On("b").goal(), Allocation::GOAL_RUN);
  EXPECT_FALSE(On("b").has_resume_from());
  EXPECT_EQ(EventText("CheckpointMissing"),
            "no node is known to hold step_120.pth: starts from the beginning");
}

TEST_F(CheckpointFetchTest, OlderCheckpointAtHandIsTakenWhenTheNewestCannotBeHad) {
  RunOnA({60, 120});
  driver_.Join("b");
  driver_.Disconnect("a");
  driver_.Advance(absl::Seconds(4));
  ASSERT_EQ(driver_.state().FindNode("nodes/a")->state(), v1::Node::STATE_LOST);
  ASSERT_THAT(driver_.NodesOf(job_), ElementsAre("b"));
  EXPECT_FALSE(On("b").has_fetch());
  Prepared("b", {MakeCheckpoint(job_, 1, 60)});
  EXPECT_EQ(On("b").resume_from().step(), 60);
  EXPECT_EQ(EventText("CheckpointMissing"),
            "nodes/a, which holds step_120.pth, is not there: resumes at step 60");
}

TEST_F(CheckpointFetchTest, TheJobGoesOnWhenTheSourceIsLost) {
  RunOnA({120});
  driver_.Join("b");
  DrainA();
  ASSERT_TRUE(On("b").has_fetch());
  driver_.Disconnect("a");
  driver_.Advance(absl::Seconds(1));
  EXPECT_TRUE(On("b").has_fetch()) << "it may come back";
  driver_.Advance(absl::Seconds(3));
  EXPECT_FALSE(On("b").has_fetch());
  EXPECT_EQ(On("b").goal(), Allocation::GOAL_PREPARE);
  Prepared("b", {});
  EXPECT_EQ(On("b").goal(), Allocation::GOAL_RUN);
  EXPECT_EQ(EventText("CheckpointMissing"),
            "nodes/a, which holds step_120.pth, is not there: starts from the beginning");
}

TEST_F(CheckpointFetchTest, ARestartedSourceIsToldAnew) {
  RunOnA({120});
  driver_.Join("b");
  DrainA();
  const std::string before = On("b").fetch().sources(0).token();
  driver_.Join("a");
  EXPECT_NE(On("b").fetch().sources(0).token(), before);
}

TEST_F(CheckpointFetchTest, SurvivesARestartOfTheCoordinator) {
  RunOnA({120});
  driver_.Join("b");
  DrainA();
  const AllocationStatus preparing = driver_.Status(job_, AllocationStatus::PHASE_PREPARING);
  driver_.Restart();
  driver_.Join("b", 1, {preparing});
  EXPECT_EQ(On("b").fetch().checkpoint().step(), 120);
  EXPECT_EQ(On("b").fetch().sources_size(), 0) << "nobody knows yet where node a serves it";
  driver_.Advance(absl::Seconds(2));
  EXPECT_TRUE(On("b").has_fetch()) << "node a has time to come back";
  driver_.Join("a");
  ASSERT_EQ(On("b").fetch().sources_size(), 1);
  Prepared("b", {MakeCheckpoint(job_, 1, 120)});
  EXPECT_EQ(On("b").resume_from().step(), 120);
}

TEST_F(CheckpointFetchTest, AfterARestartItWaitsForTheHolderAndThenGoesOnWithout) {
  RunOnA({120});
  driver_.Join("b");
  DrainA();
  driver_.Restart();
  driver_.Join("b");
  ASSERT_TRUE(On("b").has_fetch());
  driver_.Advance(absl::Seconds(20));
  EXPECT_FALSE(On("b").has_fetch());
  Prepared("b", {});
  EXPECT_THAT(EventText("CheckpointMissing"), HasSubstr("nodes/a, which holds step_120.pth"));
}

TEST_F(CheckpointFetchTest, OldWorkersNeitherServeNorFetch) {
  driver_.SpeakProtocol(1);
  RunOnA({120});
  driver_.SpeakProtocol(2);
  driver_.Join("b");
  DrainA();
  EXPECT_FALSE(On("b").has_fetch()) << "node a is of an older release";
  Prepared("b", {});
  EXPECT_EQ(EventText("CheckpointMissing"),
            "nodes/a, which holds step_120.pth, cannot hand it on (a worker of an older release "
            "takes part): starts from the beginning");
}

TEST_F(CheckpointFetchTest, AnOldWorkerIsNotAskedToFetch) {
  RunOnA({120});
  driver_.SpeakProtocol(1);
  driver_.Join("b");
  DrainA();
  EXPECT_FALSE(On("b").has_fetch());
}

TEST_F(CheckpointFetchTest, FetchThatFailsIsRetried) {
  RunOnA({120});
  driver_.Join("b");
  DrainA();
  v1::RankFailure failure = MakeFailure(0, 0, base::kExitCollectiveLost);
  failure.set_message("nodes/b cannot fetch step_120.pth from nodes/a at 10.0.0.1:9100: refused");
  driver_.ReportFailure("b", job_, failure);
  EXPECT_EQ(job().restarts(), 1);
  EXPECT_THAT(EventText("PrepareFailed"), HasSubstr("cannot fetch step_120.pth"));
  driver_.Advance(absl::Seconds(5));
  EXPECT_EQ(On("b").generation(), 3);
  EXPECT_TRUE(On("b").has_fetch());
}

TEST_F(CheckpointFetchTest, ProgressOfAFetchCountsAgainstTheStartTimeout) {
  config::v1::Resources resources;
  resources.set_nodes(1);
  resources.set_ranks_per_node(1);
  resources.set_max_restarts(0);
  resources.mutable_start_timeout()->set_seconds(10);
  driver_.Join("a");
  job_ = driver_.Submit("j", resources);
  driver_.BringUp(job_);
  Write("a", 120);
  driver_.Join("b");
  DrainA();
  for (int megabytes = 1; megabytes <= 4; ++megabytes) {
    driver_.Advance(absl::Seconds(7));
    AllocationStatus status = driver_.Status(job_, AllocationStatus::PHASE_PREPARING);
    status.set_detail(absl::StrCat("fetching: ", megabytes, " of 9 MB"));
    driver_.Apply(coordinator::AllocationStatusCommand{driver_.session("b"), status});
  }
  EXPECT_EQ(job().state(), Job::STATE_STARTING) << job().state_reason();
  driver_.Advance(absl::Seconds(11));
  EXPECT_THAT(driver_.EventTypes(job_), Contains("StartTimeout"));
}

TEST_F(CheckpointFetchTest, MaintenanceWaitsUntilTheCheckpointHasBeenFetched) {
  RunOnA({120});
  driver_.Join("b");
  driver_.Announce("a", {MakeMaintenance("e1", "Preempt")});
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  ASSERT_TRUE(On("b").has_fetch());
  EXPECT_THAT(driver_.Approvals("a"), ElementsAre()) << "the checkpoint would be gone";
  Prepared("b", {MakeCheckpoint(job_, 1, 120)});
  EXPECT_THAT(driver_.Approvals("a"), ElementsAre("e1"));
}

TEST_F(CheckpointFetchTest, EveryHolderIsASource) {
  driver_.Join("a");
  driver_.Join("b");
  job_ = driver_.Submit("j", 2);
  driver_.BringUp(job_);
  Write("a", 60);
  Write("b", 60);
  driver_.Join("c", 2);
  driver_.Join("d", 2);
  driver_.Cordon("b", /*drain=*/true);
  driver_.Cordon("a", /*drain=*/true);
  driver_.Report("a", job_, AllocationStatus::PHASE_STOPPED);
  driver_.Report("b", job_, AllocationStatus::PHASE_STOPPED);
  const std::string first = driver_.NodesOf(job_).at(0);
  ASSERT_EQ(On(first).fetch().sources_size(), 2);
  EXPECT_EQ(job().state_reason(),
            absl::StrCat("nodes/", first, " fetches step_60.pth from nodes/a or nodes/b"));
}

}  // namespace
}  // namespace muster::testing
