#include "worker/daemon/worker.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"

#include "common/base/files.h"
#include "common/rpc/channel.h"
#include "muster/internal/trainer_service.grpc.pb.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/fake_coordinator.h"
#include "tests/unit/worker/daemon/fake_metadata_service.h"
#include "tests/unit/worker/daemon/fixtures.h"
#include "worker/daemon/rank_files.h"

namespace muster::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Status = v1::AllocationStatus;

// The whole daemon, with a real session, real shims and a trainer that is a shell script: it runs
// until the test makes the file `<state>/end` hold an exit code, or until it is told to stop.
class WorkerTest : public ::testing::Test {
 protected:
  WorkerTest() {
    WriteDataSet(folder_.path() / "data");
    WriteText(trainer(),
              "#!/bin/sh\n"
              "trap 'echo stopping >&2; exit 0' TERM\n"
              "echo \"rank $RANK of $WORLD_SIZE starts\" >&2\n"
              "while [ ! -e \"" +
                  end().string() +
                  "-$RANK\" ]; do sleep 0.02; done\n"
                  "echo \"rank $RANK fails\" >&2\n"
                  "exit $(cat \"" +
                  end().string() + "-$RANK\")\n");
    chmod(trainer().c_str(), 0755);
  }

  std::filesystem::path trainer() const { return folder_.path() / "muster-trainer"; }
  std::filesystem::path end() const { return folder_.path() / "end"; }
  void EndRank(int rank, int exit_code) {
    ASSERT_TRUE(
        base::WriteFileAtomically(absl::StrCat(end().string(), "-", rank), absl::StrCat(exit_code))
            .ok());
  }

  WorkerOptions Options() const {
    WorkerOptions options;
    options.coordinators = {coordinator_.address()};
    options.name = "w1";
    options.slots = 2;
    options.state_dir = folder_.path() / "state";
    options.data_roots = {folder_.path() / "data"};
    options.trainer = trainer();
    options.shim_command = {(testing::ProgramFolder() / "muster-worker").string(), "shim"};
    options.metrics = {"127.0.0.1", 0};
    return options;
  }
  std::unique_ptr<Worker> StartWorker() {
    absl::StatusOr<std::unique_ptr<Worker>> worker =
        Worker::Start(Options(), [this](const std::string& reason) {
          refused_with_ = reason;
          refused_.Notify();
        });
    EXPECT_TRUE(worker.ok()) << worker.status();
    return worker.ok() ? *std::move(worker) : nullptr;
  }

  // Up to STARTING of generation 1 with two local ranks.
  void PrepareAndRun() {
    ASSERT_TRUE(coordinator_.WaitForHello().has_value());
    coordinator_.SendDesired(1, {MakeAllocation(1, v1::Allocation::GOAL_PREPARE)});
    const std::optional<Status> prepared = coordinator_.WaitForPhase(Status::PHASE_PREPARED);
    ASSERT_TRUE(prepared.has_value());
    v1::Allocation run = MakeAllocation(1, v1::Allocation::GOAL_RUN);
    run.set_master(prepared->master());
    coordinator_.SendDesired(2, {run});
    ASSERT_TRUE(coordinator_.WaitForPhase(Status::PHASE_STARTING).has_value());
    const std::optional<v1::Ack> ack = coordinator_.WaitForAck(2);
    ASSERT_TRUE(ack.has_value());
    EXPECT_EQ(ack->error(), "");
  }

  // What a trainer reports over the socket.
  internal::TrainerReportReply Report(const internal::TrainerReport& report) {
    const auto stub = internal::TrainerService::NewStub(
        rpc::CreateChannel("unix:" + (folder_.path() / "state/trainer.sock").string()));
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(20));
    internal::TrainerReportReply reply;
    const grpc::Status status = stub->Report(&context, report, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return reply;
  }
  static internal::TrainerReport From(int rank) {
    internal::TrainerReport report;
    report.set_job("jobs/a");
    report.set_generation(1);
    report.set_rank(rank);
    return report;
  }
  void JoinBoth() {
    for (int rank : {0, 1}) {
      internal::TrainerReport report = From(rank);
      report.mutable_joined();
      Report(report);
    }
    ASSERT_TRUE(coordinator_.WaitForPhase(Status::PHASE_RUNNING).has_value());
  }

  std::vector<pid_t> Trainers() const {
    return testing::ProcessesWith((folder_.path() / "state").string());
  }

  testing::TemporaryFolder folder_;
  FakeCoordinator coordinator_;
  absl::Notification refused_;
  std::string refused_with_;
};

TEST_F(WorkerTest, TellsWhatItBrings) {
  const std::unique_ptr<Worker> worker = StartWorker();
  const std::optional<v1::Hello> hello = coordinator_.WaitForHello();
  ASSERT_TRUE(hello.has_value());
  EXPECT_EQ(hello->node(), "w1");
  EXPECT_FALSE(hello->node_uid().empty());
  EXPECT_FALSE(hello->instance().empty());
  EXPECT_EQ(hello->inventory().slots(), 2);
  EXPECT_EQ(hello->inventory().address(), "127.0.0.1");
  EXPECT_EQ(hello->inventory().metrics_address(), worker->metrics_address());
  EXPECT_GT(hello->inventory().cores(), 0);
  EXPECT_THAT(hello->inventory().data_roots(), SizeIs(1));
  const auto heartbeat = [](int64_t sequence) {
    return [sequence](const v1::WorkerMessage& m) {
      return m.has_heartbeat() && m.heartbeat().sequence() == sequence;
    };
  };
  EXPECT_TRUE(coordinator_.WaitFor(heartbeat(1)).has_value());
  EXPECT_TRUE(coordinator_.WaitFor(heartbeat(2)).has_value());
}

TEST_F(WorkerTest, PreparesRunsReportsAndFails) {
  const std::unique_ptr<Worker> worker = StartWorker();
  PrepareAndRun();
  JoinBoth();

  internal::TrainerReport step = From(0);
  step.mutable_step()->mutable_progress()->set_step(17);
  (*step.mutable_step()->mutable_progress()->mutable_losses())["loss"] = 2.5;
  EXPECT_FALSE(Report(step).stop());
  const auto heartbeat = coordinator_.WaitFor([](const v1::WorkerMessage& m) {
    return m.has_heartbeat() && m.heartbeat().ranks_size() > 0;
  });
  ASSERT_TRUE(heartbeat.has_value());
  EXPECT_EQ(heartbeat->heartbeat().ranks(0).step(), 17);
  ASSERT_THAT(heartbeat->heartbeat().jobs(), SizeIs(1));
  EXPECT_EQ(heartbeat->heartbeat().jobs(0).progress().losses().at("loss"), 2.5);

  internal::TrainerReport evaluation = From(0);
  evaluation.mutable_evaluation()->set_ap50(0.75);
  Report(evaluation);
  const auto evaluated =
      coordinator_.WaitFor([](const v1::WorkerMessage& m) { return m.has_evaluation(); });
  ASSERT_TRUE(evaluated.has_value());
  EXPECT_EQ(evaluated->evaluation().result().ap50(), 0.75);
  EXPECT_EQ(evaluated->evaluation().job(), "jobs/a");

  EndRank(1, 12);
  const std::optional<Status> failed = coordinator_.WaitForPhase(Status::PHASE_FAILED);
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(failed->failure().rank(), 1);
  EXPECT_EQ(failed->failure().exit_code(), 12);
  EXPECT_EQ(failed->failure().message(), "exited with code 12 (data error)");
  EXPECT_THAT(failed->failure().stderr_tail(), ElementsAre("rank 1 of 2 starts", "rank 1 fails"));
  EXPECT_THAT(Trainers(), IsEmpty());
}

TEST_F(WorkerTest, StopsWhatIsNoLongerWanted) {
  const std::unique_ptr<Worker> worker = StartWorker();
  PrepareAndRun();
  JoinBoth();
  coordinator_.SendDesired(3, {});
  EXPECT_TRUE(coordinator_.WaitForPhase(Status::PHASE_STOPPED).has_value());
  EXPECT_THAT(Trainers(), IsEmpty());
}

TEST_F(WorkerTest, TellsLabelsAndWhereItCanBeProbed) {
  WorkerOptions options = Options();
  options.labels = {{"zone", "1"}, {"disk", "nvme"}};
  const auto worker = Worker::Start(options, [](const std::string&) {});
  ASSERT_TRUE(worker.ok()) << worker.status();
  const std::optional<v1::Hello> hello = coordinator_.WaitForHello();
  ASSERT_TRUE(hello.has_value());
  EXPECT_EQ(hello->inventory().labels().at("zone"), "1");
  EXPECT_EQ(hello->inventory().labels().at("disk"), "nvme");
  EXPECT_THAT(hello->inventory().probe_address(), ::testing::StartsWith("127.0.0.1:"));
  // It answers there: another node that looks for w1 finds it.
  v1::Allocation prepare = MakeAllocation(1, v1::Allocation::GOAL_PREPARE);
  prepare.set_world_size(4);
  prepare.add_peers()->set_node("w1");
  prepare.mutable_peers(0)->set_probe_address(hello->inventory().probe_address());
  coordinator_.SendDesired(1, {prepare});
  EXPECT_TRUE(coordinator_.WaitForPhase(Status::PHASE_PREPARED).has_value());
}

TEST_F(WorkerTest, HandsOnScheduledEventsAndApprovesThem) {
  FakeMetadataService metadata;
  metadata.Announce("e1", "Redeploy");
  WorkerOptions options = Options();
  options.scheduled_events = metadata.url();
  const auto worker = Worker::Start(options, [](const std::string&) {});
  ASSERT_TRUE(worker.ok()) << worker.status();
  const auto announced = [](int events) {
    return [events](const v1::WorkerMessage& m) {
      return m.has_maintenance() && m.maintenance().events_size() == events;
    };
  };
  const auto first = coordinator_.WaitFor(announced(1));
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->maintenance().events(0).type(), "Redeploy");
  // A coordinator that comes back hears of it again.
  coordinator_.Restart();
  ASSERT_TRUE(coordinator_.WaitForHello().has_value());
  EXPECT_TRUE(coordinator_.WaitFor(announced(1)).has_value());
  v1::CoordinatorMessage approval;
  approval.mutable_approval()->set_event_id("e1");
  coordinator_.Send(approval);
  EXPECT_TRUE(testing::WaitUntil([&] { return !metadata.approvals().empty(); }, absl::Seconds(20)));
  metadata.Withdraw("e1");
  EXPECT_TRUE(coordinator_.WaitFor(announced(0)).has_value());
}

TEST_F(WorkerTest, WithoutSuchAServiceThereIsNoMaintenance) {
  const std::unique_ptr<Worker> worker = StartWorker();
  const auto message =
      coordinator_.WaitFor([](const v1::WorkerMessage& m) { return m.has_maintenance(); });
  ASSERT_TRUE(message.has_value());
  EXPECT_THAT(message->maintenance().events(), IsEmpty());
}

TEST_F(WorkerTest, NacksWhatItCannotHold) {
  const std::unique_ptr<Worker> worker = StartWorker();
  ASSERT_TRUE(coordinator_.WaitForHello().has_value());
  coordinator_.SendDesired(9, {MakeAllocation(1, v1::Allocation::GOAL_PREPARE, {0, 1, 2})});
  const std::optional<v1::Ack> ack = coordinator_.WaitForAck(9);
  ASSERT_TRUE(ack.has_value());
  EXPECT_THAT(ack->error(), HasSubstr("3 ranks do not fit the 2 slots"));
}

TEST_F(WorkerTest, ALostCoordinatorEndsNothingAndHearsOfWhatHappened) {
  const std::unique_ptr<Worker> worker = StartWorker();
  PrepareAndRun();
  JoinBoth();
  coordinator_.Shutdown();
  internal::TrainerReport checkpoint = From(0);
  checkpoint.mutable_checkpoint()->set_step(40);
  EXPECT_FALSE(Report(checkpoint).stop());
  EXPECT_FALSE(Trainers().empty());
  coordinator_.Restart();
  const std::optional<v1::Hello> hello = coordinator_.WaitForHello();
  ASSERT_TRUE(hello.has_value());
  ASSERT_THAT(hello->allocations(), SizeIs(1));
  EXPECT_EQ(hello->allocations(0).phase(), Status::PHASE_RUNNING);
  const auto registered =
      coordinator_.WaitFor([](const v1::WorkerMessage& m) { return m.has_checkpoint(); });
  ASSERT_TRUE(registered.has_value());
  EXPECT_EQ(registered->checkpoint().step(), 40);
  EXPECT_EQ(registered->checkpoint().job(), "jobs/a");
  worker->StopTrainers();
  EXPECT_THAT(Trainers(), IsEmpty());
}

TEST_F(WorkerTest, ARestartedDaemonAdoptsItsTrainers) {
  std::unique_ptr<Worker> worker = StartWorker();
  PrepareAndRun();
  JoinBoth();
  // Its destructor leaves trainers alone, as a kill would.
  worker.reset();
  EXPECT_FALSE(Trainers().empty());
  worker = StartWorker();
  const auto again = coordinator_.WaitFor([](const v1::WorkerMessage& m) {
    return m.has_hello() && m.hello().allocations_size() == 1;
  });
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->hello().allocations(0).phase(), Status::PHASE_RUNNING);
  // What the trainers were given is read from themselves.
  EXPECT_EQ(again->hello().allocations(0).environment().at("NCCL_SOCKET_IFNAME"), "=lo");
  coordinator_.SendDesired(1, {MakeAllocation(1, v1::Allocation::GOAL_RUN)});
  ASSERT_TRUE(coordinator_.WaitForAck(1).has_value());
  EndRank(0, 0);
  EndRank(1, 0);
  EXPECT_TRUE(coordinator_.WaitForPhase(Status::PHASE_SUCCEEDED).has_value());
}

TEST_F(WorkerTest, ADaemonKilledWithItsTrainersComesBackEmptyHanded) {
  std::unique_ptr<Worker> worker = StartWorker();
  PrepareAndRun();
  JoinBoth();
  worker.reset();
  const std::filesystem::path generation = folder_.path() / "state/jobs/a-01234567/generations/1";
  for (const char* rank : {"rank-0", "rank-1"}) {
    const absl::StatusOr<ProcessIdentity> shim = ReadLaunchedShim(generation / rank);
    ASSERT_TRUE(shim.ok()) << shim.status();
    ASSERT_EQ(kill(shim->pid, SIGKILL), 0);
  }
  ASSERT_TRUE(testing::WaitUntil([&] { return Trainers().empty(); }, absl::Seconds(20)));
  worker = StartWorker();
  const std::optional<v1::Hello> again = coordinator_.WaitForHello();
  ASSERT_TRUE(again.has_value());
  EXPECT_THAT(again->allocations(), IsEmpty());
}

TEST_F(WorkerTest, SendsLogsToTheirEnd) {
  const std::unique_ptr<Worker> worker = StartWorker();
  PrepareAndRun();
  v1::CoordinatorMessage request;
  request.mutable_log_request()->set_request_id(5);
  request.mutable_log_request()->mutable_request()->set_name("jobs/a");
  request.mutable_log_request()->mutable_request()->set_rank(1);
  request.mutable_log_request()->mutable_request()->set_follow(true);
  coordinator_.Send(request);
  std::string text;
  const auto collect = [&text](const v1::WorkerMessage& m) {
    if (!m.has_log_chunk() || m.log_chunk().request_id() != 5) return false;
    text += m.log_chunk().data();
    return m.log_chunk().end() || text == "rank 1 of 2 starts\n";
  };
  ASSERT_TRUE(coordinator_.WaitFor(collect).has_value());
  EndRank(1, 3);
  const auto last = coordinator_.WaitFor(collect);
  ASSERT_TRUE(last.has_value());
  EXPECT_TRUE(last->log_chunk().end());
  EXPECT_EQ(last->log_chunk().generation(), 1);
  EXPECT_EQ(text, "rank 1 of 2 starts\nrank 1 fails\n");

  // The end of what is there, and a rank that is not here.
  request.mutable_log_request()->set_request_id(6);
  request.mutable_log_request()->mutable_request()->set_tail_lines(1);
  coordinator_.Send(request);
  text.clear();
  const auto tail = coordinator_.WaitFor([&text](const v1::WorkerMessage& m) {
    if (m.has_log_chunk()) text += m.log_chunk().data();
    return m.has_log_chunk() && m.log_chunk().end();
  });
  ASSERT_TRUE(tail.has_value());
  EXPECT_EQ(text, "rank 1 fails\n");
  request.mutable_log_request()->set_request_id(7);
  request.mutable_log_request()->mutable_request()->set_rank(8);
  coordinator_.Send(request);
  const auto error = coordinator_.WaitFor(
      [](const v1::WorkerMessage& m) { return m.has_log_chunk() && m.log_chunk().end(); });
  ASSERT_TRUE(error.has_value());
  EXPECT_THAT(error->log_chunk().error(), HasSubstr("rank 8 of jobs/a has not been started"));
  // The log's end comes before the daemon sees that of the rank, and kills the other one.
  EXPECT_TRUE(testing::WaitUntil([&] { return Trainers().empty(); }, absl::Seconds(20)));
}

TEST_F(WorkerTest, ARefusedWorkerIsToldWhy) {
  v1::Goodbye goodbye;
  goodbye.set_reason("node name w1 is taken by another worker: choose another --name");
  coordinator_.Refuse(goodbye);
  const std::unique_ptr<Worker> worker = StartWorker();
  ASSERT_TRUE(refused_.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_EQ(refused_with_, goodbye.reason());
}

TEST_F(WorkerTest, AStateFolderHasOneDaemon) {
  const std::unique_ptr<Worker> worker = StartWorker();
  const absl::Status second = Worker::Start(Options(), [](const std::string&) {}).status();
  EXPECT_TRUE(absl::IsAlreadyExists(second));
  EXPECT_THAT(second.message(), HasSubstr("choose another --state-dir"));
}

TEST_F(WorkerTest, TheProgramEndsCleanlyAndSaysOnceThatNobodyIsThere) {
  testing::Process process(
      {{(testing::ProgramFolder() / "muster-worker").string(), "--coordinator", "127.0.0.1:1",
        "--name", "w1", "--state-dir", (folder_.path() / "state").string(), "--data-root",
        (folder_.path() / "data").string()},
       {},
       folder_.path() / "worker.log"});
  ASSERT_TRUE(testing::WaitUntil(
      [&] { return process.Output().find("cannot reach the coordinator") != std::string::npos; },
      absl::Seconds(20)));
  EXPECT_THAT(process.Output(), HasSubstr("127.0.0.1:1"));
  process.Signal(SIGTERM);
  const std::optional<int> status = process.Wait(absl::Seconds(20));
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(*status, 0);

  const testing::Finished usage =
      testing::Run({(testing::ProgramFolder() / "muster-worker").string(), "--name", "Not A Name"},
                   absl::Seconds(20));
  EXPECT_EQ(usage.exit_code, 2);
}

}  // namespace
}  // namespace muster::worker
