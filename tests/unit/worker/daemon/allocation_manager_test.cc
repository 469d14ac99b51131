#include "worker/daemon/allocation_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "tests/support/fake_clock.h"
#include "tests/support/process.h"
#include "tests/support/pth_builder.h"
#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/fake_trainer_launcher.h"
#include "tests/unit/worker/daemon/fixtures.h"
#include "worker/daemon/probe_server.h"
#include "worker/daemon/tcp_socket.h"

namespace muster::worker {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;
using Status = v1::AllocationStatus;

class AllocationManagerTest : public ::testing::Test {
 protected:
  AllocationManagerTest() {
    WriteDataSet(folder_.path() / "data");
    state_.emplace(*StateFolder::Open(folder_.path() / "state"));
    data_.emplace(*DataAccess::Open({folder_.path() / "data"}, "w1"));
    MakeManager();
  }

  void MakeManager() {
    AllocationContext context;
    context.node = "w1";
    context.trainer = "/opt/muster-trainer";
    context.cores = 7;
    context.trainer_socket = "/run/trainer.sock";
    context.state = &*state_;
    context.data = &*data_;
    context.launcher = &launcher_;
    context.dialler = &dialler_;
    context.inherited = {{"NCCL_DEBUG", "WARN"}};
    context.clock = &clock_;
    AllocationManager::Deps deps;
    deps.timers = &clock_;
    deps.outbox = &outbox_;
    deps.on_ended = [this](const std::string& job, int64_t generation) {
      ended_.emplace_back(job, generation);
    };
    deps.on_slots_used = [this](int used) { slots_used_ = used; };
    manager_.emplace(context, /*slots=*/2, deps);
    manager_->SetNodeAddress("127.0.0.1");
  }

  absl::Status Apply(const std::vector<v1::Allocation>& allocations) {
    v1::DesiredState desired;
    for (const v1::Allocation& allocation : allocations) *desired.add_allocations() = allocation;
    return manager_->Apply(desired);
  }

  // The only allocation's, once it is no longer PREPARING.
  Status WaitUntilDialled() {
    EXPECT_TRUE(testing::WaitUntil([&] { return Only().phase() != Status::PHASE_PREPARING; },
                                   absl::Seconds(20)));
    return Only();
  }

  // The status of the only allocation held.
  Status Only() const {
    const std::vector<Status> statuses = manager_->Statuses();
    EXPECT_THAT(statuses, SizeIs(1));
    return statuses.empty() ? Status() : statuses[0];
  }

  void PrepareAndRun(v1::Allocation run) {
    v1::Allocation prepare = run;
    prepare.set_goal(v1::Allocation::GOAL_PREPARE);
    prepare.clear_master();
    ASSERT_TRUE(Apply({prepare}).ok());
    ASSERT_EQ(Only().phase(), Status::PHASE_PREPARED) << Only().failure().message();
    if (run.node_rank() == 0) run.set_master(Only().master());
    ASSERT_TRUE(Apply({run}).ok());
  }

  RankExit Code(int code) const {
    RankExit exit;
    exit.exit_code = code;
    exit.time = clock_.Now();
    return exit;
  }
  RankExit Killed(int signal) const {
    RankExit exit;
    exit.signal = signal;
    exit.time = clock_.Now();
    return exit;
  }
  absl::StatusOr<bool> Join(int rank) {
    internal::TrainerReport report;
    report.set_job("jobs/a");
    report.set_generation(1);
    report.set_rank(rank);
    report.mutable_joined();
    return manager_->OnReport(report);
  }

  testing::TemporaryFolder folder_;
  testing::FakeClock clock_;
  Outbox outbox_{clock_};
  FakeTrainerLauncher launcher_;
  base::SystemClock real_clock_;
  PeerDialler dialler_{"w1", real_clock_, {absl::Milliseconds(300), absl::Milliseconds(20)}};
  std::vector<std::pair<std::string, int64_t>> ended_;
  int slots_used_ = 0;
  std::optional<StateFolder> state_;
  std::optional<DataAccess> data_;
  std::optional<AllocationManager> manager_;
};

TEST_F(AllocationManagerTest, PrepareBindsTheMasterAndWritesTheConfig) {
  ASSERT_TRUE(Apply({MakeAllocation(1, v1::Allocation::GOAL_PREPARE)}).ok());
  const Status status = Only();
  EXPECT_EQ(status.phase(), Status::PHASE_PREPARED);
  EXPECT_THAT(status.master(), ::testing::StartsWith("127.0.0.1:"));
  EXPECT_THAT(status.ranks(), ElementsAre(0, 1));
  // The port is taken: nobody else gets it.
  const auto master = SplitAddress(status.master());
  EXPECT_FALSE(ListenOn(master->first, master->second).ok());
  const auto config =
      base::ReadFile(folder_.path() / "state/jobs/a-01234567/output/config.textproto");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(*config, HasSubstr("images/train.zip"));
  EXPECT_THAT(launcher_.specs(), IsEmpty());
  EXPECT_EQ(slots_used_, 2);
}

TEST_F(AllocationManagerTest, PrepareNamesTheMissingFile) {
  v1::Allocation allocation = MakeAllocation(1, v1::Allocation::GOAL_PREPARE);
  allocation.mutable_config()->mutable_data()->mutable_train()->set_images("images/absent.zip");
  ASSERT_TRUE(Apply({allocation}).ok());
  const Status status = Only();
  EXPECT_EQ(status.phase(), Status::PHASE_FAILED);
  EXPECT_EQ(status.failure().exit_code(), base::kExitDataError);
  EXPECT_EQ(status.failure().message(),
            "data.train.images: " + (data_->roots()[0] / "set/images/absent.zip").string() +
                " not found on node w1");
  EXPECT_EQ(status.failure().node(), "nodes/w1");
  EXPECT_EQ(slots_used_, 0);
}

TEST_F(AllocationManagerTest, PrepareListsValidCheckpointsNewestFirst) {
  const std::filesystem::path output = folder_.path() / "state/jobs/a-01234567/output";
  const std::string whole = testing::SmallestPth();
  const auto add = [&](const std::string& name, int step, const std::string& bytes, size_t said) {
    WriteText(output / name, bytes);
    WriteText(output / (name + ".json"),
              absl::StrCat("{\"job\": \"jobs/a\", \"generation\": \"1\", \"step\": \"", step,
                           "\", \"digest\": \"d", step, "\", \"sizeBytes\": \"", said, "\"}"));
  };
  add("epoch_1.pth", 10, whole, whole.size());
  add("epoch_2.pth", 20, whole, whole.size());
  add("epoch_3.pth", 30, whole.substr(1), whole.size());  // cut off
  add("epoch_4.pth", 40, std::string(100, '\0'), 100);    // never reached the disk
  WriteText(output / "step_40.pth", "written, but not described: no checkpoint yet");
  WriteText(output / "epoch_0.pth.json", "{\"step\": \"1\", \"sizeBytes\": \"5\"}");
  WriteText(output / "epoch_9.pth", "x");
  WriteText(output / "epoch_9.pth.json", "not json");
  ASSERT_TRUE(Apply({MakeAllocation(2, v1::Allocation::GOAL_PREPARE)}).ok());
  ASSERT_THAT(Only().checkpoints(), SizeIs(2));
  EXPECT_EQ(Only().checkpoints(0).file(), "epoch_2.pth");
  EXPECT_EQ(Only().checkpoints(1).file(), "epoch_1.pth");
}

TEST_F(AllocationManagerTest, RunStartsEveryRankWithItsEnvironment) {
  v1::Allocation run = MakeAllocation(1, v1::Allocation::GOAL_RUN);
  run.set_world_size(4);
  run.set_machine_slots(2);
  PrepareAndRun(run);
  EXPECT_EQ(Only().phase(), Status::PHASE_STARTING);
  const std::vector<LaunchSpec> specs = launcher_.specs();
  ASSERT_THAT(specs, SizeIs(2));
  const std::map<std::string, std::string> zero(specs[0].environment.begin(),
                                                specs[0].environment.end());
  EXPECT_THAT(zero, IsSupersetOf({Pair("RANK", "0"), Pair("LOCAL_RANK", "0"),
                                  Pair("WORLD_SIZE", "4"), Pair("LOCAL_WORLD_SIZE", "2"),
                                  Pair("NODE_RANK", "0"), Pair("MASTER_ADDR", "127.0.0.1"),
                                  Pair("OMP_NUM_THREADS", "3"), Pair("MUSTER_JOB", "jobs/a"),
                                  Pair("MUSTER_GENERATION", "1"), Pair("MUSTER_MASTER_FD", "3"),
                                  Pair("MUSTER_WORKER_SOCKET", "/run/trainer.sock"),
                                  Pair("MUSTER_NODE_ADDRESS", "127.0.0.1")}));
  EXPECT_GE(specs[0].inherited_fd, 0);
  EXPECT_EQ(Only().master(), "127.0.0.1:" + zero.at("MASTER_PORT"));
  const std::map<std::string, std::string> one(specs[1].environment.begin(),
                                               specs[1].environment.end());
  EXPECT_EQ(one.at("RANK"), "1");
  EXPECT_EQ(one.count("MUSTER_MASTER_FD"), 0u);
  EXPECT_EQ(specs[1].inherited_fd, -1);
  EXPECT_EQ(specs[1].command[0], "/opt/muster-trainer");
  EXPECT_EQ(specs[1].command[1], "train");
  EXPECT_THAT(specs[1].command, Contains(data_->roots()[0].string()));
  EXPECT_THAT(specs[1].command, Not(Contains("--resume-holders")));

  // The same state again starts nothing more.
  run.set_master(Only().master());
  ASSERT_TRUE(Apply({run}).ok());
  EXPECT_THAT(launcher_.specs(), SizeIs(2));
}

TEST_F(AllocationManagerTest, TheTrainersLearnTheInterfaceAndItIsReported) {
  v1::Allocation run = MakeAllocation(1, v1::Allocation::GOAL_RUN);
  (*run.mutable_config()->mutable_distributed()->mutable_environment())["NCCL_ALGO"] = "Ring";
  PrepareAndRun(run);
  const Status status = Only();
  const std::map<std::string, std::string> reported(status.environment().begin(),
                                                    status.environment().end());
  EXPECT_THAT(reported,
              IsSupersetOf({Pair("GLOO_SOCKET_IFNAME", "lo"), Pair("NCCL_SOCKET_IFNAME", "=lo"),
                            Pair("NCCL_ALGO", "Ring"), Pair("NCCL_DEBUG", "WARN")}));
  const LaunchSpec spec = launcher_.specs().at(0);
  EXPECT_THAT(spec.environment, IsSupersetOf(reported));
}

TEST_F(AllocationManagerTest, AnInterfaceThatIsNotThereFailsThePreparation) {
  v1::Allocation allocation = MakeAllocation(1, v1::Allocation::GOAL_PREPARE);
  allocation.mutable_config()->mutable_distributed()->set_interface("eth77");
  ASSERT_TRUE(Apply({allocation}).ok());
  EXPECT_EQ(Only().phase(), Status::PHASE_FAILED);
  EXPECT_EQ(Only().failure().exit_code(), base::kExitBadConfig);
  EXPECT_THAT(Only().failure().message(), HasSubstr("node w1 has no interface 'eth77'"));
}

TEST_F(AllocationManagerTest, PreparedWhenThePeersAreReached) {
  ProbeServer peer("w2", real_clock_);
  v1::Allocation allocation = MakeAllocation(1, v1::Allocation::GOAL_PREPARE);
  allocation.set_world_size(4);
  allocation.add_peers()->set_node("w2");
  allocation.mutable_peers(0)->set_probe_address(*peer.Listen("127.0.0.1"));
  allocation.add_peers()->set_node("an-older-worker");
  ASSERT_TRUE(Apply({allocation}).ok());
  EXPECT_EQ(WaitUntilDialled().phase(), Status::PHASE_PREPARED);
  EXPECT_FALSE(Only().master().empty());
}

TEST_F(AllocationManagerTest, APeerThatIsNotReachedFailsThePreparation) {
  const std::string gone = ListenOn("127.0.0.1")->address;
  v1::Allocation allocation = MakeAllocation(1, v1::Allocation::GOAL_PREPARE);
  allocation.set_world_size(4);
  allocation.add_peers()->set_node("w2");
  allocation.mutable_peers(0)->set_probe_address(gone);
  ASSERT_TRUE(Apply({allocation}).ok());
  const Status status = WaitUntilDialled();
  EXPECT_EQ(status.phase(), Status::PHASE_FAILED);
  EXPECT_EQ(status.failure().exit_code(), base::kExitCollectiveLost);
  EXPECT_THAT(status.failure().message(),
              HasSubstr("nodes/w1 (lo 127.0.0.1) cannot reach nodes/w2 at " + gone));
  EXPECT_EQ(slots_used_, 0);
}

TEST_F(AllocationManagerTest, WhatIsStoppedWhileItDialsStaysStopped) {
  const ListeningSocket silent = *ListenOn("127.0.0.1");
  v1::Allocation allocation = MakeAllocation(1, v1::Allocation::GOAL_PREPARE);
  allocation.set_world_size(4);
  allocation.add_peers()->set_node("w2");
  allocation.mutable_peers(0)->set_probe_address(silent.address);
  ASSERT_TRUE(Apply({allocation}).ok());
  EXPECT_EQ(Only().phase(), Status::PHASE_PREPARING);
  ASSERT_TRUE(Apply({}).ok());
  EXPECT_EQ(Only().phase(), Status::PHASE_STOPPED);
  EXPECT_THAT(ended_, ElementsAre(Pair("jobs/a", 1)));
  // The dial's end finds nothing to fail.
  ASSERT_TRUE(Apply({}).ok());
  EXPECT_THAT(manager_->Statuses(), IsEmpty());
}

TEST_F(AllocationManagerTest, OnlyHoldersGetTheCheckpointsFile) {
  const std::filesystem::path output = state_->path() / "jobs/a-01234567/output";
  const std::string whole = testing::SmallestPth();
  WriteText(output / "step_7.pth", whole);
  WriteText(output / "step_7.pth.json",
            absl::StrCat(R"({"generation": "1", "step": "7", "digest": "d", "sizeBytes": ")",
                         whole.size(), "\"}"));
  v1::Allocation run = MakeAllocation(2, v1::Allocation::GOAL_RUN);
  run.mutable_resume_from()->set_generation(1);
  run.mutable_resume_from()->set_step(7);
  run.mutable_resume_from()->set_digest("d");
  run.add_resume_holders(1);
  PrepareAndRun(run);
  const std::vector<LaunchSpec> specs = launcher_.specs();
  ASSERT_THAT(specs, SizeIs(2));
  EXPECT_THAT(specs[0].command, Not(Contains("--resume-from")));
  EXPECT_THAT(specs[1].command,
              IsSupersetOf({std::string("--resume-from"), (output / "step_7.pth").string()}));
  for (const LaunchSpec& spec : specs) {
    const std::vector<std::string> tail(spec.command.end() - 6, spec.command.end());
    EXPECT_THAT(tail, ElementsAre("--resume-holders", "1", "--resume-step", "7",
                                  "--resume-generation", "1"));
  }
}

TEST_F(AllocationManagerTest, RunningWhenAllJoinedAndSucceededWhenAllCompleted) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  EXPECT_EQ(Join(0).value(), false);
  EXPECT_EQ(Only().phase(), Status::PHASE_STARTING);
  EXPECT_EQ(Join(1).value(), false);
  EXPECT_EQ(Only().phase(), Status::PHASE_RUNNING);
  launcher_.End("rank-0", Code(0));
  EXPECT_EQ(Only().phase(), Status::PHASE_RUNNING);
  launcher_.End("rank-1", Code(0));
  EXPECT_EQ(Only().phase(), Status::PHASE_SUCCEEDED);
  EXPECT_THAT(ended_, ElementsAre(Pair("jobs/a", 1)));
  EXPECT_TRUE(absl::IsNotFound(Join(2).status()));

  // It goes, with its record, once it is not wanted any more.
  EXPECT_THAT(state_->ReadRecords(), SizeIs(1));
  ASSERT_TRUE(Apply({}).ok());
  EXPECT_THAT(manager_->Statuses(), IsEmpty());
  EXPECT_THAT(state_->ReadRecords(), IsEmpty());
}

TEST_F(AllocationManagerTest, FirstFailureKillsTheOthersAndIsReported) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  std::string errors;
  for (int i = 0; i < 60; ++i) errors += absl::StrCat("line ", i, "\n");
  WriteText(StderrLog(state_->RankFolder(MakeAllocation(1, v1::Allocation::GOAL_RUN), 1)), errors);
  launcher_.End("rank-1", Killed(SIGKILL));
  EXPECT_THAT(launcher_.signals("rank-0"), ElementsAre(SIGKILL));
  // Not over before no process is left.
  EXPECT_NE(Only().phase(), Status::PHASE_FAILED);
  clock_.Advance(absl::Seconds(1));
  launcher_.End("rank-0", Killed(SIGKILL));
  const Status status = Only();
  EXPECT_EQ(status.phase(), Status::PHASE_FAILED);
  EXPECT_EQ(status.failure().rank(), 1);
  EXPECT_EQ(status.failure().signal(), SIGKILL);
  EXPECT_EQ(status.failure().message(), "killed by SIGKILL");
  ASSERT_THAT(status.failure().stderr_tail(), SizeIs(50));
  EXPECT_EQ(status.failure().stderr_tail(49), "line 59");
}

TEST_F(AllocationManagerTest, ARankThatLostItsPeersIsNotTheCause) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  const RankExit cause = Killed(SIGKILL);
  clock_.Advance(absl::Milliseconds(5));
  launcher_.End("rank-0", Code(base::kExitCollectiveLost));
  // It had been killed before we did it.
  launcher_.End("rank-1", cause);
  EXPECT_EQ(Only().failure().rank(), 1);
  EXPECT_EQ(Only().failure().signal(), SIGKILL);
}

TEST_F(AllocationManagerTest, TheTrainersOwnWordsAreTheMessage) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  internal::TrainerReport report;
  report.set_job("jobs/a");
  report.set_generation(1);
  report.set_rank(0);
  report.mutable_failure()->set_message("loss_cls is not finite at step 3");
  ASSERT_TRUE(manager_->OnReport(report).ok());
  launcher_.End("rank-0", Code(base::kExitNonFinite));
  launcher_.End("rank-1", Killed(SIGKILL));
  EXPECT_EQ(Only().failure().message(), "loss_cls is not finite at step 3");
  EXPECT_EQ(Only().failure().exit_code(), base::kExitNonFinite);
}

TEST_F(AllocationManagerTest, StopAsksThenKillsAndEndsWithTheLastProcess) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  ASSERT_TRUE(Apply({}).ok());
  EXPECT_THAT(launcher_.signals("rank-0"), ElementsAre(SIGTERM));
  EXPECT_EQ(Join(0).value(), true);  // told to stop in the reply, too
  launcher_.End("rank-0", Code(0));
  clock_.Advance(absl::Seconds(9));
  EXPECT_THAT(launcher_.signals("rank-1"), ElementsAre(SIGTERM));
  clock_.Advance(absl::Seconds(2));
  EXPECT_THAT(launcher_.signals("rank-1"), ElementsAre(SIGTERM, SIGKILL));
  EXPECT_FALSE(manager_->WaitUntilIdle(absl::ZeroDuration()));
  launcher_.End("rank-1", Killed(SIGKILL));
  EXPECT_EQ(Only().phase(), Status::PHASE_STOPPED);
  EXPECT_TRUE(manager_->WaitUntilIdle(absl::ZeroDuration()));
  EXPECT_THAT(state_->ReadRecords(), IsEmpty());
}

TEST_F(AllocationManagerTest, AnAbortedGenerationIsKilledAtOnceAlsoWhileItIsStopping) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  ASSERT_TRUE(Apply({}).ok());
  EXPECT_THAT(launcher_.signals("rank-0"), ElementsAre(SIGTERM));
  v1::DesiredState desired;
  desired.add_aborted()->set_job("jobs/a");
  desired.mutable_aborted(0)->set_generation(2);
  ASSERT_TRUE(manager_->Apply(desired).ok());
  EXPECT_THAT(launcher_.signals("rank-0"), ElementsAre(SIGTERM)) << "another generation was meant";
  desired.mutable_aborted(0)->set_generation(1);
  ASSERT_TRUE(manager_->Apply(desired).ok());
  EXPECT_THAT(launcher_.signals("rank-0"), ElementsAre(SIGTERM, SIGKILL));
  launcher_.End("rank-0", Killed(SIGKILL));
  launcher_.End("rank-1", Killed(SIGKILL));
  EXPECT_EQ(Only().phase(), Status::PHASE_STOPPED);
}

TEST_F(AllocationManagerTest, ANewGenerationWaitsForTheEndOfTheOld) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  ASSERT_TRUE(Apply({MakeAllocation(2, v1::Allocation::GOAL_PREPARE)}).ok());
  EXPECT_THAT(launcher_.signals("rank-0"), ElementsAre(SIGTERM));
  EXPECT_THAT(manager_->Statuses(), SizeIs(1));
  launcher_.End("rank-0", Killed(SIGTERM));
  launcher_.End("rank-1", Killed(SIGTERM));
  const std::vector<Status> statuses = manager_->Statuses();
  ASSERT_THAT(statuses, SizeIs(2));
  EXPECT_EQ(statuses[0].phase(), Status::PHASE_STOPPED);
  EXPECT_EQ(statuses[1].phase(), Status::PHASE_PREPARED);
  EXPECT_EQ(statuses[1].generation(), 2);
}

TEST_F(AllocationManagerTest, RefusesWhatMakesNoSenseAndChangesNothing) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  v1::Allocation escape = MakeAllocation(1, v1::Allocation::GOAL_PREPARE);
  escape.set_job("jobs/../../etc");
  EXPECT_TRUE(absl::IsInvalidArgument(Apply({escape})));
  EXPECT_THAT(Apply({MakeAllocation(1, v1::Allocation::GOAL_PREPARE, {0, 1, 2})}).message(),
              HasSubstr("3 ranks do not fit the 2 slots of node w1"));
  EXPECT_TRUE(absl::IsInvalidArgument(Apply({MakeAllocation(0, v1::Allocation::GOAL_PREPARE)})));
  EXPECT_EQ(Only().phase(), Status::PHASE_STARTING);
  EXPECT_THAT(launcher_.signals("rank-0"), IsEmpty());
}

TEST_F(AllocationManagerTest, ARestartedDaemonAdoptsAndGoesOn) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  const v1::Allocation run = state_->ReadRecords().at(0);
  for (int rank : {0, 1}) std::filesystem::create_directories(state_->RankFolder(run, rank));
  manager_.reset();
  MakeManager();
  manager_->AdoptRecorded();
  EXPECT_EQ(Only().phase(), Status::PHASE_RUNNING);
  EXPECT_EQ(slots_used_, 2);
  ASSERT_TRUE(Apply({run}).ok());
  EXPECT_THAT(launcher_.specs(), SizeIs(2));
  launcher_.End("rank-0", Code(0));
  launcher_.End("rank-1", Code(0));
  EXPECT_EQ(Only().phase(), Status::PHASE_SUCCEEDED);
}

TEST_F(AllocationManagerTest, ARankThatWasNeverStartedFailsTheAdopted) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  const v1::Allocation run = state_->ReadRecords().at(0);
  std::filesystem::create_directories(state_->RankFolder(run, 1));
  manager_.reset();
  MakeManager();
  manager_->AdoptRecorded();
  EXPECT_THAT(launcher_.signals("rank-1"), ElementsAre(SIGKILL));
  launcher_.End("rank-1", Killed(SIGKILL));
  EXPECT_EQ(Only().phase(), Status::PHASE_FAILED);
  EXPECT_EQ(Only().failure().rank(), 0);
}

TEST_F(AllocationManagerTest, RanksThatAllVanishedWithTheOldDaemonAreForgotten) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  ASSERT_THAT(state_->ReadRecords(), SizeIs(1));
  manager_.reset();
  MakeManager();
  // The launcher finds nothing in either rank's folder.
  manager_->AdoptRecorded();
  EXPECT_THAT(manager_->Statuses(), IsEmpty());
  EXPECT_THAT(state_->ReadRecords(), IsEmpty());
  EXPECT_EQ(slots_used_, 0);
  // The next generation is not held up by it.
  ASSERT_TRUE(Apply({MakeAllocation(2, v1::Allocation::GOAL_PREPARE)}).ok());
  EXPECT_EQ(Only().phase(), Status::PHASE_PREPARED);
}

TEST_F(AllocationManagerTest, StopAllEndsEverythingAndTakesNothingNew) {
  PrepareAndRun(MakeAllocation(1, v1::Allocation::GOAL_RUN));
  manager_->StopAll();
  EXPECT_TRUE(absl::IsUnavailable(Apply({MakeAllocation(2, v1::Allocation::GOAL_PREPARE)})));
  launcher_.End("rank-0", Code(0));
  launcher_.End("rank-1", Code(0));
  EXPECT_EQ(Only().phase(), Status::PHASE_STOPPED);
}

}  // namespace
}  // namespace muster::worker
