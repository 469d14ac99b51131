// What a worker answers when the coordinator asks why a job does not advance: the whole daemon over
// real gRPC, with shims and processes, and a test that speaks for the trainers.
#include "worker/daemon/diagnosis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"

#include "common/rpc/channel.h"
#include "muster/internal/trainer_service.grpc.pb.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/fake_coordinator.h"
#include "tests/unit/worker/daemon/fixtures.h"
#include "worker/daemon/rank_files.h"
#include "worker/daemon/stack_reader.h"
#include "worker/daemon/worker.h"

namespace muster::worker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using Status = v1::AllocationStatus;

class DiagnosisTest : public ::testing::Test {
 protected:
  DiagnosisTest() {
    WriteDataSet(folder_.path() / "data");
    const std::filesystem::path trainer = folder_.path() / "muster-trainer";
    WriteText(trainer, "#!/bin/sh\nexec sleep 1000\n");
    chmod(trainer.c_str(), 0755);
    WorkerOptions options;
    options.coordinators = {coordinator_.address()};
    options.name = "w1";
    options.slots = 2;
    options.state_dir = folder_.path() / "state";
    options.data_roots = {folder_.path() / "data"};
    options.trainer = trainer;
    options.shim_command = {(testing::ProgramFolder() / "muster-worker").string(), "shim"};
    options.metrics = {"127.0.0.1", 0};
    absl::StatusOr<std::unique_ptr<Worker>> worker =
        Worker::Start(options, [](const std::string& reason) { ADD_FAILURE() << reason; });
    EXPECT_TRUE(worker.ok()) << worker.status();
    worker_ = *std::move(worker);
  }
  ~DiagnosisTest() override {
    coordinator_.SendDesired(9, {});
    EXPECT_TRUE(coordinator_.WaitForPhase(Status::PHASE_STOPPED).has_value());
  }

  // Both ranks, in RUNNING.
  void Run() {
    ASSERT_TRUE(coordinator_.WaitForHello().has_value());
    coordinator_.SendDesired(1, {MakeAllocation(1, v1::Allocation::GOAL_PREPARE)});
    const std::optional<Status> prepared = coordinator_.WaitForPhase(Status::PHASE_PREPARED);
    ASSERT_TRUE(prepared.has_value());
    v1::Allocation run = MakeAllocation(1, v1::Allocation::GOAL_RUN);
    run.set_master(prepared->master());
    // What is stopped must not hold the test's end up.
    run.mutable_config()->mutable_resources()->mutable_grace_period()->set_seconds(0);
    coordinator_.SendDesired(2, {run});
    ASSERT_TRUE(coordinator_.WaitForPhase(Status::PHASE_STARTING).has_value());
    for (const int rank : {0, 1}) {
      internal::TrainerReport report = From(rank);
      report.mutable_joined();
      Report(report);
      ASSERT_TRUE(testing::WaitUntil([&] { return Process(rank) != 0; }, absl::Seconds(20)));
    }
    ASSERT_TRUE(coordinator_.WaitForPhase(Status::PHASE_RUNNING).has_value());
  }
  // Of the rank's trainer, once it is there.
  pid_t Process(int rank) const {
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(folder_.path() / "state/jobs")) {
      if (entry.path().filename() != absl::StrCat("rank-", rank)) continue;
      const auto processes = ReadRankProcesses(entry.path());
      return processes.ok() ? processes->trainer.pid : 0;
    }
    return 0;
  }

  static internal::TrainerReport From(int rank) {
    internal::TrainerReport report;
    report.set_job("jobs/a");
    report.set_generation(1);
    report.set_rank(rank);
    return report;
  }
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
  internal::TrainerReportReply SayAlive(int rank) {
    internal::TrainerReport report = From(rank);
    report.mutable_alive();
    return Report(report);
  }

  void Ask(const std::string& job, const std::vector<v1::Peer>& peers = {}) {
    v1::CoordinatorMessage message;
    v1::DiagnosisRequest* request = message.mutable_diagnosis_request();
    request->set_request_id(7);
    request->set_job(job);
    request->set_generation(1);
    for (const v1::Peer& peer : peers) *request->add_peers() = peer;
    coordinator_.Send(message);
  }
  v1::Diagnosis AwaitAnswer() {
    const auto message =
        coordinator_.WaitFor([](const v1::WorkerMessage& m) { return m.has_diagnosis(); });
    EXPECT_TRUE(message.has_value());
    return message.has_value() ? message->diagnosis() : v1::Diagnosis();
  }

  testing::TemporaryFolder folder_;
  FakeCoordinator coordinator_;
  std::unique_ptr<Worker> worker_;
};

TEST_F(DiagnosisTest, TellsStateProgressCollectivesAndStack) {
  ASSERT_NO_FATAL_FAILURE(Run());
  EXPECT_FALSE(SayAlive(0).dump_collectives());
  internal::TrainerReport step = From(0);
  step.mutable_step()->mutable_progress()->set_step(17);
  step.mutable_step()->mutable_progress()->set_phase(v1::TrainProgress::PHASE_TRAINING);
  Report(step);
  ASSERT_EQ(kill(Process(1), SIGSTOP), 0);
  ASSERT_TRUE(testing::WaitUntil([&] { return StateOf(Process(1)) == "T"; }, absl::Seconds(20)));

  Ask("jobs/a");
  ASSERT_TRUE(
      testing::WaitUntil([&] { return SayAlive(0).dump_collectives(); }, absl::Seconds(20)));
  internal::TrainerReport dump = From(0);
  v1::CollectiveRecord* record = dump.mutable_collectives()->add_collectives();
  record->set_group("sync_bn");
  record->set_sequence(4711);
  EXPECT_FALSE(Report(dump).dump_collectives()) << "it has come";

  const v1::Diagnosis answer = AwaitAnswer();
  EXPECT_EQ(answer.request_id(), 7);
  EXPECT_EQ(answer.job(), "jobs/a");
  EXPECT_EQ(answer.generation(), 1);
  EXPECT_EQ(answer.error(), "");
  ASSERT_THAT(answer.ranks(), SizeIs(2));
  EXPECT_EQ(answer.ranks(0).rank(), 0);
  EXPECT_EQ(answer.ranks(0).process_state(), "S");
  EXPECT_EQ(answer.ranks(0).step(), 17);
  EXPECT_EQ(answer.ranks(0).phase(), v1::TrainProgress::PHASE_TRAINING);
  ASSERT_THAT(answer.ranks(0).collectives(), SizeIs(1));
  EXPECT_EQ(answer.ranks(0).collectives(0).sequence(), 4711);
  EXPECT_THAT(answer.ranks(0).stack(), AllOf(HasSubstr("(sleep, state S)"), HasSubstr("#0 ")));
  EXPECT_EQ(answer.ranks(1).process_state(), "T");
  EXPECT_THAT(answer.ranks(1).collectives(), SizeIs(0));
  EXPECT_THAT(answer.ranks(1).stack(), AllOf(HasSubstr("(sleep, state T)"), HasSubstr("#0 ")));
  EXPECT_EQ(StateOf(Process(1)), "T") << "it must stay stopped";
  // The question is answered.
  EXPECT_FALSE(SayAlive(1).dump_collectives());
}

TEST_F(DiagnosisTest, NamesPeersThatCannotBeReachedAndTrainersThatDoNotAnswer) {
  ASSERT_NO_FATAL_FAILURE(Run());
  v1::Peer peer;
  peer.set_node("w9");
  peer.set_probe_address("127.0.0.1:1");
  Ask("jobs/a", {peer});
  const v1::Diagnosis answer = AwaitAnswer();
  ASSERT_THAT(answer.unreachable(), SizeIs(1));
  EXPECT_EQ(answer.unreachable(0).node(), "w9");
  EXPECT_THAT(answer.unreachable(0).reason(),
              AllOf(HasSubstr("nodes/w1"), HasSubstr("nodes/w9"), HasSubstr("connection refused")));
  ASSERT_THAT(answer.ranks(), SizeIs(2));
  EXPECT_EQ(answer.ranks(0).process_state(), "S");
  EXPECT_EQ(answer.ranks(0).error(), "its trainer did not answer");
}

TEST_F(DiagnosisTest, AJobThatDoesNotRunHereIsNamed) {
  ASSERT_NO_FATAL_FAILURE(Run());
  Ask("jobs/other");
  const v1::Diagnosis answer = AwaitAnswer();
  EXPECT_EQ(answer.request_id(), 7);
  EXPECT_EQ(answer.error(), "generation 1 of jobs/other does not run on node w1");
  EXPECT_THAT(answer.ranks(), SizeIs(0));
}

}  // namespace
}  // namespace muster::worker
