// Allocations whose checkpoint lies on another node.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "common/base/exit_codes.h"
#include "tests/support/fake_clock.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/checkpoint_files.h"
#include "tests/unit/worker/daemon/fake_trainer_launcher.h"
#include "tests/unit/worker/daemon/fixtures.h"
#include "tests/unit/worker/daemon/scripted_source.h"
#include "worker/daemon/allocation_manager.h"
#include "worker/daemon/checkpoint_server.h"

namespace muster::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Status = v1::AllocationStatus;

class AllocationFetchTest : public ::testing::Test {
 protected:
  AllocationFetchTest() {
    WriteDataSet(folder_.path() / "data");
    state_.emplace(*StateFolder::Open(folder_.path() / "state"));
    other_state_.emplace(*StateFolder::Open(folder_.path() / "other"));
    data_.emplace(*DataAccess::Open({folder_.path() / "data"}, "c"));
    wanted_ = MakeAllocation(2, v1::Allocation::GOAL_PREPARE);
    checkpoint_ = WriteCheckpoint(other_state_->OutputFolder(wanted_), 120, testing::SmallestPth());
    *wanted_.mutable_fetch()->mutable_checkpoint() = checkpoint_;
    AllocationContext context;
    context.node = "c";
    context.trainer = "/opt/muster-trainer";
    context.state = &*state_;
    context.data = &*data_;
    context.launcher = &launcher_;
    context.dialler = &dialler_;
    context.fetcher = &fetcher_;
    context.clock = &clock_;
    AllocationManager::Deps deps;
    deps.timers = &clock_;
    deps.outbox = &outbox_;
    deps.on_ended = [](const std::string&, int64_t) {};
    deps.on_slots_used = [](int) {};
    manager_.emplace(context, /*slots=*/2, deps);
    manager_->SetNodeAddress("127.0.0.1");
  }

  static CheckpointFetcher::Options Impatient() {
    CheckpointFetcher::Options options;
    options.patience = absl::Milliseconds(100);
    options.pause = absl::Milliseconds(10);
    options.progress_interval = absl::ZeroDuration();
    return options;
  }

  absl::Status Apply(const std::vector<v1::Allocation>& allocations) {
    v1::DesiredState desired;
    for (const v1::Allocation& allocation : allocations) *desired.add_allocations() = allocation;
    return manager_->Apply(desired);
  }
  Status Only() const {
    const std::vector<Status> statuses = manager_->Statuses();
    EXPECT_THAT(statuses, SizeIs(1));
    return statuses.empty() ? Status() : statuses[0];
  }
  Status Await(Status::Phase phase) {
    EXPECT_TRUE(testing::WaitUntil([&] { return Only().phase() == phase; }, absl::Seconds(20)))
        << Only().DebugString();
    return Only();
  }
  void AddSource(const v1::CheckpointServer& source) {
    *wanted_.mutable_fetch()->add_sources() = source;
  }

  testing::TemporaryFolder folder_;
  testing::FakeClock clock_;
  Outbox outbox_{clock_};
  FakeTrainerLauncher launcher_;
  base::SystemClock real_clock_;
  PeerDialler dialler_{"c", real_clock_};
  CheckpointFetcher fetcher_{"c", real_clock_, Impatient()};
  std::optional<StateFolder> state_;
  std::optional<StateFolder> other_state_;
  std::optional<DataAccess> data_;
  v1::Allocation wanted_;
  v1::Checkpoint checkpoint_;
  CheckpointServer server_{"b", *other_state_, real_clock_};
  ScriptedSource silent_{"d", [](const ScriptedSource::Request&, TlsSocket* socket) {
                           ScriptedSource::FallSilent(socket);
                         }};
  std::optional<AllocationManager> manager_;
};

TEST_F(AllocationFetchTest, FetchesBeforeItIsPreparedAndResumesFromIt) {
  AddSource(*server_.Listen("127.0.0.1"));
  ASSERT_TRUE(Apply({wanted_}).ok());
  const Status prepared = Await(Status::PHASE_PREPARED);
  ASSERT_THAT(prepared.checkpoints(), SizeIs(1));
  EXPECT_EQ(prepared.checkpoints(0).SerializeAsString(), checkpoint_.SerializeAsString());
  EXPECT_EQ(prepared.detail(), "");
  EXPECT_THAT(prepared.not_held_by(), IsEmpty());

  v1::Allocation run = MakeAllocation(2, v1::Allocation::GOAL_RUN);
  run.set_master(prepared.master());
  *run.mutable_resume_from() = checkpoint_;
  run.add_resume_holders(0);
  ASSERT_TRUE(Apply({run}).ok());
  ASSERT_EQ(Only().phase(), Status::PHASE_STARTING) << Only().failure().message();
  const std::vector<std::string> command = launcher_.specs().at(0).command;
  EXPECT_THAT(command, ::testing::Contains((state_->OutputFolder(run) / "step_120.pth").string()));
}

TEST_F(AllocationFetchTest, WhatIsHeldIsNotFetched) {
  WriteCheckpoint(state_->OutputFolder(wanted_), 120, testing::SmallestPth());
  AddSource(silent_.described());
  ASSERT_TRUE(Apply({wanted_}).ok());
  EXPECT_EQ(Only().phase(), Status::PHASE_PREPARED);
  EXPECT_THAT(silent_.requests(), IsEmpty());
}

TEST_F(AllocationFetchTest, FailedFetchFailsThePreparationButMayBeRetried) {
  v1::CheckpointServer gone = *server_.Listen("127.0.0.1");
  gone.set_address("127.0.0.1:1");
  AddSource(gone);
  ASSERT_TRUE(Apply({wanted_}).ok());
  const Status failed = Await(Status::PHASE_FAILED);
  EXPECT_EQ(failed.failure().exit_code(), base::kExitCollectiveLost);
  EXPECT_THAT(failed.failure().message(),
              HasSubstr("nodes/c cannot fetch step_120.pth from nodes/b at 127.0.0.1:1"));
}

TEST_F(AllocationFetchTest, StopEndsAFetchAtOnce) {
  AddSource(silent_.described());
  ASSERT_TRUE(Apply({wanted_}).ok());
  EXPECT_TRUE(testing::WaitUntil([&] { return !silent_.requests().empty(); }, absl::Seconds(20)));
  EXPECT_EQ(Only().phase(), Status::PHASE_PREPARING);
  ASSERT_TRUE(Apply({}).ok());
  EXPECT_EQ(Only().phase(), Status::PHASE_STOPPED);
  EXPECT_TRUE(manager_->WaitUntilIdle(absl::ZeroDuration()));
}

TEST_F(AllocationFetchTest, GoesOnWithoutWhenTheCoordinatorGivesTheCheckpointUp) {
  AddSource(silent_.described());
  ASSERT_TRUE(Apply({wanted_}).ok());
  EXPECT_TRUE(testing::WaitUntil([&] { return !silent_.requests().empty(); }, absl::Seconds(20)));
  wanted_.clear_fetch();
  ASSERT_TRUE(Apply({wanted_}).ok());
  EXPECT_EQ(Only().phase(), Status::PHASE_PREPARED);
  EXPECT_THAT(Only().checkpoints(), IsEmpty());
}

TEST_F(AllocationFetchTest, CheckpointThatIsAskedForLater) {
  v1::Allocation without = wanted_;
  without.clear_fetch();
  ASSERT_TRUE(Apply({without}).ok());
  ASSERT_EQ(Only().phase(), Status::PHASE_PREPARED);
  const std::string master = Only().master();
  AddSource(silent_.described());
  ASSERT_TRUE(Apply({wanted_}).ok());
  EXPECT_EQ(Only().phase(), Status::PHASE_PREPARING);
  // The silent one is lost, and there is another.
  wanted_.mutable_fetch()->clear_sources();
  AddSource(*server_.Listen("127.0.0.1"));
  ASSERT_TRUE(Apply({wanted_}).ok());
  silent_.HangUp();
  const Status prepared = Await(Status::PHASE_PREPARED);
  EXPECT_THAT(prepared.checkpoints(), SizeIs(1));
  EXPECT_EQ(prepared.master(), master);
}

TEST_F(AllocationFetchTest, TellsWhoHasNothing) {
  std::filesystem::remove_all(other_state_->OutputFolder(wanted_));
  AddSource(*server_.Listen("127.0.0.1"));
  ASSERT_TRUE(Apply({wanted_}).ok());
  const Status prepared = Await(Status::PHASE_PREPARED);
  EXPECT_THAT(prepared.not_held_by(), ElementsAre("b"));
  EXPECT_THAT(prepared.checkpoints(), IsEmpty());
  // The next one to be tried.
  v1::Checkpoint older =
      WriteCheckpoint(other_state_->OutputFolder(wanted_), 60, testing::SmallestPth());
  *wanted_.mutable_fetch()->mutable_checkpoint() = older;
  ASSERT_TRUE(Apply({wanted_}).ok());
  EXPECT_TRUE(
      testing::WaitUntil([&] { return Only().checkpoints_size() == 1; }, absl::Seconds(20)));
  EXPECT_EQ(Only().checkpoints(0).step(), 60);
  EXPECT_THAT(Only().not_held_by(), IsEmpty());
}

TEST_F(AllocationFetchTest, WaitsForASource) {
  ASSERT_TRUE(Apply({wanted_}).ok());
  EXPECT_TRUE(testing::WaitUntil(
      [&] { return Only().detail() == "waits for a node that holds step_120.pth"; },
      absl::Seconds(20)));
  AddSource(*server_.Listen("127.0.0.1"));
  ASSERT_TRUE(Apply({wanted_}).ok());
  EXPECT_THAT(Await(Status::PHASE_PREPARED).checkpoints(), SizeIs(1));
}

TEST_F(AllocationFetchTest, NamesThatLeadElsewhereAreRefused) {
  for (const char* file : {"../step_1.pth", "", ".pth", "a/b.pth", "config.textproto"}) {
    wanted_.mutable_fetch()->mutable_checkpoint()->set_file(file);
    EXPECT_THAT(std::string(Apply({wanted_}).message()), HasSubstr("no plain file name")) << file;
  }
}

}  // namespace
}  // namespace muster::worker
