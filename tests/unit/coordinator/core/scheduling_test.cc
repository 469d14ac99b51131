// Priority, fair share, backfill, preemption, elastic jobs, time on nodes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "coordinator/core/timestamps.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using v1::AllocationStatus;
using v1::Job;

config::v1::Resources Ask(int nodes, int ranks_per_node = 1) {
  config::v1::Resources resources;
  resources.set_nodes(nodes);
  resources.set_ranks_per_node(ranks_per_node);
  resources.set_max_restarts(3);
  return resources;
}

config::v1::Resources For(absl::Duration max_run_time, config::v1::Resources resources) {
  *resources.mutable_max_run_time() = coordinator::ToProto(max_run_time);
  return resources;
}

config::v1::Resources WithPriority(int priority, config::v1::Resources resources) {
  resources.set_priority(priority);
  return resources;
}

config::v1::Resources Elastic(int min_nodes, int nodes, int max_nodes) {
  config::v1::Resources resources = Ask(nodes);
  resources.set_min_nodes(min_nodes);
  resources.set_max_nodes(max_nodes);
  return resources;
}

class SchedulingTest : public ::testing::Test {
 protected:
  Job::State state(const std::string& job) const { return driver_.job(job).state(); }
  bool Queued(const std::string& job) const { return state(job) == Job::STATE_QUEUED; }
  void Finish(const std::string& job, AllocationStatus::Phase how) {
    for (const std::string& node : driver_.NodesOf(job)) driver_.Report(node, job, how);
  }
  void Succeed(const std::string& job) {
    driver_.BringUp(job);
    Finish(job, AllocationStatus::PHASE_SUCCEEDED);
  }
  void Stop(const std::string& job) { Finish(job, AllocationStatus::PHASE_STOPPED); }
  absl::Duration ExpectedWait(const std::string& job) const {
    return coordinator::FromTimestamp(driver_.job(job).expected_start_time()) - driver_.now().wall;
  }

  ClusterDriver driver_;
};

TEST_F(SchedulingTest, HigherPriorityComesFirst) {
  driver_.Join("a");
  config::v1::Resources first = WithPriority(9, Ask(1));
  const std::string running = driver_.Submit("running", first);
  const std::string low = driver_.Submit("low", WithPriority(-1, Ask(1)));
  const std::string normal = driver_.Submit("normal", Ask(1));
  const std::string high = driver_.Submit("high", WithPriority(5, Ask(1)));
  EXPECT_EQ(driver_.job(high).queue_position(), 0);
  EXPECT_EQ(driver_.job(normal).queue_position(), 1);
  EXPECT_EQ(driver_.job(low).queue_position(), 2);
  Succeed(running);
  Succeed(high);
  EXPECT_EQ(state(normal), Job::STATE_STARTING);
  EXPECT_TRUE(Queued(low));
}

TEST_F(SchedulingTest, CreatorsTakeTurns) {
  driver_.Join("a");
  const std::string running = driver_.Submit("running", Ask(1), "ann");
  std::vector<std::string> jobs;
  for (int i = 0; i < 3; ++i) {
    jobs.push_back(driver_.Submit("ann-" + std::to_string(i), Ask(1), "ann"));
  }
  const std::string bob = driver_.Submit("bob", Ask(1), "bob");
  EXPECT_EQ(driver_.job(bob).queue_position(), 0) << "ann holds a slot, bob none";
  EXPECT_EQ(driver_.job(jobs[0]).queue_position(), 1);
  driver_.BringUp(running);
  driver_.Advance(absl::Seconds(10));
  Succeed(running);
  EXPECT_EQ(state(bob), Job::STATE_STARTING);
}

TEST_F(SchedulingTest, UseIsRememberedAcrossRestartsAndFades) {
  driver_.Join("a");
  const std::string long_ago = driver_.Submit("first", Ask(1), "ann");
  driver_.BringUp(long_ago);
  driver_.Advance(absl::Hours(1));
  Succeed(long_ago);
  driver_.Restart();
  const std::string ann = driver_.Submit("ann", Ask(1), "ann");
  const std::string bob = driver_.Submit("bob", Ask(1), "bob");
  EXPECT_EQ(driver_.job(bob).queue_position(), 0);
  EXPECT_EQ(driver_.job(ann).queue_position(), 1);
}

TEST_F(SchedulingTest, ShortJobsGoAheadWhileAWideOneWaits) {
  driver_.Join("a");
  driver_.Join("b");
  const std::string running = driver_.Submit("running", For(absl::Minutes(10), Ask(1)));
  driver_.BringUp(running);
  const std::string wide = driver_.Submit("wide", Ask(2));
  EXPECT_EQ(ExpectedWait(wide), absl::Minutes(10));
  const std::string endless = driver_.Submit("endless", Ask(1));
  const std::string longer = driver_.Submit("longer", For(absl::Minutes(11), Ask(1)));
  const std::string shorter = driver_.Submit("shorter", For(absl::Minutes(9), Ask(1)));
  EXPECT_TRUE(Queued(endless));
  EXPECT_EQ(driver_.job(endless).state_reason(), "waits for 1 node with 1 free slot; 0 of 1 ready");
  EXPECT_TRUE(Queued(longer)) << "the wide job would wait for it";
  EXPECT_EQ(state(shorter), Job::STATE_STARTING);
  EXPECT_EQ(ExpectedWait(wide), absl::Minutes(10));
  Succeed(shorter);
  EXPECT_EQ(driver_.job(endless).state_reason(), "waits behind jobs/wide");
  Finish(running, AllocationStatus::PHASE_SUCCEEDED);
  EXPECT_EQ(state(wide), Job::STATE_STARTING);
}

TEST_F(SchedulingTest, EtaCountsWhereThereIsNoLimit) {
  driver_.Join("a");
  driver_.Join("b");
  const std::string running = driver_.Submit("running", Ask(1));
  driver_.BringUp(running);
  const std::string wide = driver_.Submit("wide", Ask(2));
  EXPECT_FALSE(driver_.job(wide).has_expected_start_time());
  coordinator::HeartbeatCommand heartbeat;
  heartbeat.session = driver_.session(driver_.NodesOf(running)[0]);
  v1::JobProgress* progress = heartbeat.heartbeat.add_jobs();
  progress->set_job(running);
  progress->set_generation(1);
  progress->mutable_progress()->mutable_eta()->set_seconds(600);
  driver_.Apply(heartbeat);
  driver_.Advance(absl::Seconds(11));
  EXPECT_NEAR(absl::ToDoubleSeconds(ExpectedWait(wide)), 590, 2);
  const std::string shorter = driver_.Submit("shorter", For(absl::Minutes(5), Ask(1)));
  EXPECT_EQ(state(shorter), Job::STATE_STARTING);
}

TEST_F(SchedulingTest, SlotsThatTheWideJobDoesNotNeedAreFree) {
  driver_.Join("a", 4);
  driver_.Join("b", 1);
  const std::string running = driver_.Submit("running", Ask(1, 2));
  const std::string wide = driver_.Submit("wide", Ask(1, 3));
  const std::string small = driver_.Submit("small", Ask(1));
  const std::string beside = driver_.Submit("beside", Ask(1));
  EXPECT_TRUE(Queued(wide));
  EXPECT_THAT(driver_.NodesOf(small), ElementsAre("b"))
      << "a node that the wide job has no use for";
  EXPECT_THAT(driver_.NodesOf(beside), ElementsAre("a")) << "3 of 4 slots are kept";
  EXPECT_TRUE(Queued(driver_.Submit("more", Ask(1))));
  Succeed(running);
  EXPECT_EQ(state(wide), Job::STATE_STARTING);
}

TEST_F(SchedulingTest, HigherPriorityStopsTheYoungestByCheckpoint) {
  driver_.Join("a");
  driver_.Join("b");
  const std::string older = driver_.Submit("older", Ask(1));
  driver_.BringUp(older);
  driver_.Advance(absl::Seconds(5));
  const std::string younger = driver_.Submit("younger", Ask(1));
  driver_.BringUp(younger);
  const std::string urgent = driver_.Submit("urgent", WithPriority(1, Ask(1)));
  EXPECT_EQ(state(older), Job::STATE_RUNNING);
  EXPECT_EQ(state(younger), Job::STATE_RESTARTING);
  EXPECT_EQ(driver_.job(younger).preemptions(), 1);
  EXPECT_TRUE(Queued(urgent)) << "its slot is not free yet";
  // Slots that are on their way are kept.
  const std::string thief = driver_.Submit("thief", WithPriority(1, Ask(1)));
  EXPECT_EQ(state(older), Job::STATE_RUNNING);
  Stop(younger);
  EXPECT_EQ(state(urgent), Job::STATE_STARTING);
  EXPECT_EQ(state(older), Job::STATE_RESTARTING) << "the next one's turn";
  EXPECT_EQ(driver_.job(younger).restarts(), 0);
  Stop(older);
  EXPECT_EQ(state(thief), Job::STATE_STARTING);
}

config::v1::Resources In(const std::string& zone, config::v1::Resources resources) {
  (*resources.mutable_node_labels())["zone"] = zone;
  return resources;
}

// A node with a label, whose slot a job of priority 0 holds.
class PreemptionBehindTest : public SchedulingTest {
 protected:
  std::string Occupy(const std::string& node, const std::string& zone, bool preemptible) {
    coordinator::WorkerHelloCommand hello;
    hello.session = 1000 + static_cast<coordinator::SessionId>(occupied_++);
    hello.hello.set_node(node);
    hello.hello.set_node_uid(node);
    hello.hello.set_instance(node);
    hello.hello.set_protocol_version(coordinator::kProtocolVersion);
    hello.hello.mutable_inventory()->set_slots(1);
    (*hello.hello.mutable_inventory()->mutable_labels())["zone"] = zone;
    driver_.Apply(hello);
    config::v1::Resources resources = In(zone, Ask(1));
    resources.set_preemptible(preemptible);
    const std::string job = driver_.Submit("on-" + node, resources);
    EXPECT_EQ(state(job), Job::STATE_STARTING);
    return job;
  }
  bool Stopped(const std::string& job) const {
    return driver_.job(job).state() == Job::STATE_RESTARTING;
  }
  int occupied_ = 0;
};

TEST_F(PreemptionBehindTest, LaterJobTakesWhatTheFirstCannotUse) {
  const std::string a = Occupy("a", "1", /*preemptible=*/false);
  const std::string b = Occupy("b", "2", true);
  const std::string first = driver_.Submit("first", WithPriority(5, In("1", Ask(1))));
  const std::string second = driver_.Submit("second", WithPriority(3, In("2", Ask(1))));
  EXPECT_TRUE(Queued(first));
  EXPECT_FALSE(Stopped(a));
  EXPECT_TRUE(Stopped(b));
}

TEST_F(PreemptionBehindTest, NothingThatTheFirstCouldUse) {
  Occupy("a", "1", /*preemptible=*/false);
  const std::string b = Occupy("b", "1", true);
  // It needs both, and cannot have a.
  driver_.Submit("first", WithPriority(5, In("1", Ask(2))));
  driver_.Submit("second", WithPriority(3, In("1", Ask(1))));
  driver_.Submit("third", WithPriority(3, Ask(1)));
  EXPECT_FALSE(Stopped(b)) << "it would only be in the way of the first";
}

TEST_F(PreemptionBehindTest, EachVictimOnlyForOne) {
  Occupy("a", "1", /*preemptible=*/false);
  const std::string b = Occupy("b", "2", true);
  const std::string c = Occupy("c", "2", true);
  driver_.Submit("first", WithPriority(5, In("1", Ask(1))));
  driver_.Submit("second", WithPriority(3, In("2", Ask(1))));
  driver_.Submit("third", WithPriority(3, In("2", Ask(1))));
  driver_.Advance(absl::Seconds(1));
  EXPECT_NE(Stopped(b), Stopped(c));
}

TEST_F(PreemptionBehindTest, EqualPriorityStopsNobody) {
  Occupy("a", "1", /*preemptible=*/false);
  const std::string b = Occupy("b", "2", true);
  driver_.Submit("first", WithPriority(5, In("1", Ask(1))));
  driver_.Submit("second", In("2", Ask(1)));
  EXPECT_FALSE(Stopped(b));
}

TEST_F(SchedulingTest, NobodyIsStoppedForNothing) {
  driver_.Join("a");
  driver_.Join("b");
  config::v1::Resources keep = Ask(1);
  keep.set_preemptible(false);
  const std::string kept = driver_.Submit("kept", keep);
  const std::string other = driver_.Submit("other", Ask(1));
  driver_.BringUp(kept);
  driver_.BringUp(other);
  const std::string wide = driver_.Submit("wide", WithPriority(5, Ask(2)));
  EXPECT_EQ(state(kept), Job::STATE_RUNNING);
  EXPECT_EQ(state(other), Job::STATE_RUNNING) << "it would not have been enough";
  const std::string equal = driver_.Submit("equal", Ask(1));
  EXPECT_TRUE(Queued(equal));
}

TEST_F(SchedulingTest, ElasticJobStartsWithWhatIsThereAndShrinksWithoutAWait) {
  driver_.Join("a");
  driver_.Join("b");
  driver_.Join("c");
  const std::string job = driver_.Submit("j", Elastic(1, 3, 3));
  EXPECT_EQ(driver_.job(job).ranks_size(), 3);
  driver_.BringUp(job);
  driver_.Disconnect("c");
  driver_.Advance(absl::Seconds(3));
  driver_.Report("a", job, AllocationStatus::PHASE_STOPPED);
  driver_.Report("b", job, AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(state(job), Job::STATE_STARTING);
  EXPECT_THAT(driver_.NodesOf(job), ElementsAre("a", "b"));
  EXPECT_EQ(driver_.Allocation("a", job)->world_size(), 2);
  EXPECT_EQ(driver_.state().LocateRank(job, 1, 2).status().code(), absl::StatusCode::kUnavailable)
      << "generation 1 had three ranks, the last on c";
  EXPECT_EQ(driver_.state().LocateRank(job, 2, 2).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SchedulingTest, ElasticJobGrowsWhenNobodyWaits) {
  driver_.Join("a");
  const std::string job = driver_.Submit("j", Elastic(1, 2, 3));
  driver_.BringUp(job);
  driver_.Join("b");
  driver_.Advance(absl::Seconds(30));
  driver_.Join("c");
  EXPECT_EQ(state(job), Job::STATE_RUNNING) << "it has hardly begun";
  const std::string waiting = driver_.Submit("waiting", Ask(3));
  driver_.Advance(absl::Seconds(60));
  EXPECT_EQ(state(job), Job::STATE_RUNNING) << "another one waits for the nodes";
  driver_.Cancel(waiting);
  driver_.Advance(absl::Seconds(2));
  EXPECT_EQ(state(job), Job::STATE_RESTARTING);
  Stop(job);
  EXPECT_THAT(driver_.NodesOf(job), ElementsAre("a", "b", "c"));
  EXPECT_EQ(driver_.job(job).preemptions(), 0);
  EXPECT_EQ(driver_.job(job).restarts(), 0);
  EXPECT_THAT(driver_.EventTypes(job), Contains("Growing"));
  driver_.BringUp(job);
  driver_.Advance(absl::Minutes(3));
  EXPECT_EQ(state(job), Job::STATE_RUNNING);
  EXPECT_EQ(driver_.job(job).generation(), 2);
}

TEST_F(SchedulingTest, ElasticJobLeavesMoreThanItsNodesToOthers) {
  for (const char* node : {"a", "b", "c"}) driver_.Join(node);
  driver_.Cordon("a");
  driver_.Cordon("b");
  driver_.Cordon("c");
  const std::string elastic = driver_.Submit("elastic", Elastic(1, 2, 3));
  const std::string other = driver_.Submit("other", Ask(1));
  driver_.Uncordon("a");
  EXPECT_EQ(driver_.job(elastic).ranks_size(), 1);
  driver_.Uncordon("b");
  EXPECT_EQ(state(other), Job::STATE_STARTING);
}

TEST_F(SchedulingTest, RunTimeCountsOverGenerationsAndEndsTheJob) {
  driver_.Join("a");
  const std::string job = driver_.Submit("j", For(absl::Seconds(100), Ask(1)));
  driver_.BringUp(job);
  driver_.Advance(absl::Seconds(60));
  driver_.ReportFailure("a", job, MakeFailure(0, 9, 0));
  ASSERT_EQ(state(job), Job::STATE_STARTING);
  driver_.BringUp(job);
  driver_.Restart();
  driver_.Join("a", 1, {driver_.Status(job, AllocationStatus::PHASE_RUNNING)});
  driver_.Advance(absl::Seconds(39));
  EXPECT_EQ(state(job), Job::STATE_RUNNING);
  driver_.Advance(absl::Seconds(1));
  EXPECT_EQ(state(job), Job::STATE_RESTARTING);
  EXPECT_FALSE(driver_.Allocation("a", job).has_value());
  driver_.ReportFailure("a", job, MakeFailure(0, 0, 10));
  EXPECT_EQ(state(job), Job::STATE_FAILED);
  EXPECT_EQ(driver_.job(job).state_reason(), "max_run_time (1 min 40 s) is used up");
}

TEST_F(SchedulingTest, LabelsDecideWhereAJobMayRun) {
  driver_.Join("a");
  config::v1::Resources resources = Ask(1);
  (*resources.mutable_node_labels())["zone"] = "east";
  const std::string job = driver_.Submit("j", resources);
  EXPECT_TRUE(Queued(job));
  EXPECT_THAT(driver_.job(job).state_reason(), HasSubstr("label zone=east"));
  const std::string anywhere = driver_.Submit("anywhere", Ask(1));
  EXPECT_EQ(state(anywhere), Job::STATE_STARTING);
}

TEST_F(SchedulingTest, PeersAreNamedWithTheAddressesToDial) {
  driver_.Join("a");
  driver_.Join("b");
  const std::string job = driver_.Submit("j", Ask(2));
  const v1::Allocation prepare = *driver_.Allocation("a", job);
  ASSERT_EQ(prepare.peers_size(), 1);
  EXPECT_EQ(prepare.peers(0).node(), "b");
  EXPECT_EQ(prepare.peers(0).probe_address(), "10.0.0.1:9000");
  driver_.BringUp(job);
  EXPECT_EQ(driver_.Allocation("a", job)->peers_size(), 0);
}

}  // namespace
}  // namespace muster::testing
