// Records of a store that an earlier release has written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/core/cluster_state.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using v1::AllocationStatus;
using v1::Job;

constexpr absl::Duration kTick = absl::Milliseconds(250);
constexpr char kNode[] = "a";

// A store of a release that knew none of these fields, and jobs whose configs have no limits.
class OldRecordTest : public ::testing::Test {
 protected:
  static internal::JobRecord Record(Job::State state) {
    internal::JobRecord record;
    record.mutable_job()->set_name("jobs/j");
    record.mutable_job()->set_state(state);
    record.mutable_job()->set_generation(1);
    record.mutable_job()->mutable_config()->mutable_resources()->set_nodes(1);
    record.mutable_job()->mutable_config()->mutable_resources()->set_max_restarts(3);
    record.set_submit_sequence(1);
    record.set_started(state != Job::STATE_STARTING);
    internal::GenerationRecord* generation = record.add_generations();
    generation->set_generation(1);
    *generation->add_nodes() = std::string(kNode);
    record.add_shares()->set_node("a");
    record.mutable_shares(0)->add_ranks(0);
    return record;
  }
  void Start(internal::JobRecord record) {
    coordinator::Snapshot stored;
    stored.jobs.push_back(std::move(record));
    state_.emplace(coordinator::ClusterState::Options{}, std::move(stored), now_);
    coordinator::WorkerHelloCommand hello;
    hello.session = 1;
    hello.hello.set_node("a");
    hello.hello.set_protocol_version(coordinator::kProtocolVersion);
    hello.hello.mutable_inventory()->set_slots(1);
    AllocationStatus* held = hello.hello.add_allocations();
    held->set_job("jobs/j");
    held->set_generation(1);
    held->add_ranks(0);
    held->set_phase(job().state() == Job::STATE_STARTING ? AllocationStatus::PHASE_PREPARING
                                                         : AllocationStatus::PHASE_RUNNING);
    state_->Apply(hello, now_);
  }
  void Advance(absl::Duration duration) {
    for (absl::Duration passed; passed < duration; passed += kTick) {
      now_.wall += kTick;
      now_.monotonic += kTick;
      state_->Apply(coordinator::HeartbeatCommand{1, {}}, now_);
      state_->Apply(coordinator::TickCommand{}, now_);
    }
  }
  const Job& job() const { return *state_->FindJob("jobs/j"); }

  coordinator::Instant now_{absl::FromUnixSeconds(1'800'000'000), absl::Seconds(1000)};
  std::optional<coordinator::ClusterState> state_;
};

TEST_F(OldRecordTest, JobWithoutAStartTimeoutMayTakeItsTime) {
  Start(Record(Job::STATE_STARTING));
  Advance(absl::Hours(1));
  EXPECT_EQ(job().state(), Job::STATE_STARTING);
  EXPECT_EQ(job().generation(), 1);
}

TEST_F(OldRecordTest, EndingGenerationHasItsLimitFromTheStart) {
  Start(Record(Job::STATE_RESTARTING));
  Advance(absl::Seconds(30) - kTick);
  EXPECT_EQ(job().state(), Job::STATE_RESTARTING);
  Advance(kTick);
  EXPECT_EQ(job().state(), Job::STATE_QUEUED);
  std::vector<std::string> messages;
  for (const v1::JobEvent& event : state_->EventsAfter("jobs/j", 0)) {
    messages.push_back(event.message());
  }
  EXPECT_THAT(messages, Contains(HasSubstr("has not ended its part of the job within 30 s")));
}

TEST_F(OldRecordTest, QueuedJobIsPlacedAtOnceAndFailuresAreRetriedAtOnce) {
  internal::JobRecord record = Record(Job::STATE_QUEUED);
  Start(record);
  // What the node still runs of the old generation comes first.
  EXPECT_EQ(job().state(), Job::STATE_QUEUED);
  AllocationStatus status;
  status.set_job("jobs/j");
  status.set_generation(1);
  status.set_phase(AllocationStatus::PHASE_STOPPED);
  state_->Apply(coordinator::AllocationStatusCommand{1, status}, now_);
  EXPECT_EQ(job().state(), Job::STATE_STARTING);
  status.set_generation(2);
  status.set_phase(AllocationStatus::PHASE_PREPARED);
  status.set_master("10.0.0.1:4000");
  state_->Apply(coordinator::AllocationStatusCommand{1, status}, now_);
  status.set_phase(AllocationStatus::PHASE_FAILED);
  *status.mutable_failure() = MakeFailure(0, 9, 0);
  state_->Apply(coordinator::AllocationStatusCommand{1, status}, now_);
  EXPECT_EQ(job().state(), Job::STATE_STARTING);
  EXPECT_EQ(job().generation(), 3);
  EXPECT_EQ(job().restarts(), 1);
}

}  // namespace
}  // namespace muster::testing
