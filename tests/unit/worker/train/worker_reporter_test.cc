#include "worker/train/worker_reporter.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/grpcpp.h"

namespace muster::train {
namespace {

// A worker that notes what it is told.
class RecordingWorker : public internal::TrainerService::Service {
 public:
  grpc::Status Report(grpc::ServerContext*, const internal::TrainerReport* request,
                      internal::TrainerReportReply* reply) override {
    const absl::MutexLock lock(&mutex_);
    reports_.push_back(*request);
    reply->set_stop(stop_);
    reply->set_dump_collectives(ask_ && !request->has_collectives());
    return grpc::Status::OK;
  }

  void Stop() {
    const absl::MutexLock lock(&mutex_);
    stop_ = true;
  }

  void AskForCollectives() {
    const absl::MutexLock lock(&mutex_);
    ask_ = true;
  }

  // Waits for the first report that `wanted` accepts.
  template <typename Wanted>
  internal::TrainerReport WaitFor(Wanted wanted) {
    internal::TrainerReport found;
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      for (const auto& report : reports_) {
        if (wanted(report)) {
          found = report;
          return true;
        }
      }
      return false;
    };
    const absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20)));
    return found;
  }

  std::vector<internal::TrainerReport> reports() {
    const absl::MutexLock lock(&mutex_);
    return reports_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<internal::TrainerReport> reports_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool ask_ ABSL_GUARDED_BY(mutex_) = false;
};

class WorkerReporterTest : public ::testing::Test {
 protected:
  WorkerReporterTest()
      : socket_(std::filesystem::temp_directory_path() /
                absl::StrCat("muster-reporter-", getpid(), ".sock")) {}
  ~WorkerReporterTest() override { std::filesystem::remove(socket_); }

  std::unique_ptr<grpc::Server> Serve(RecordingWorker* worker) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket_.string(), grpc::InsecureServerCredentials());
    builder.RegisterService(worker);
    return builder.BuildAndStart();
  }

  WorkerReporter::Options Options() const {
    return {.socket = socket_.string(),
            .job = "jobs/a",
            .generation = 3,
            .rank = 1,
            .dump_collectives = nullptr};
  }

  static internal::StepReport StepAt(int64_t step) {
    internal::StepReport report;
    report.mutable_progress()->set_step(step);
    report.set_steps_total(step);
    report.add_step_durations_seconds(0.5);
    report.set_wait_seconds(0.25);
    return report;
  }

  const std::filesystem::path socket_;
};

TEST_F(WorkerReporterTest, MergesStepsAndLosesNoDuration) {
  RecordingWorker worker;
  const auto server = Serve(&worker);
  {
    WorkerReporter reporter(Options());
    reporter.Joined();
    for (int step = 1; step <= 50; ++step) reporter.Step(StepAt(step));
    const internal::TrainerReport last = worker.WaitFor([](const internal::TrainerReport& report) {
      return report.step().progress().step() == 50;
    });
    EXPECT_EQ(last.job(), "jobs/a");
    EXPECT_EQ(last.generation(), 3);
    EXPECT_EQ(last.rank(), 1);
  }
  EXPECT_TRUE(worker.reports().front().has_joined());
  int durations = 0;
  double waits = 0;
  for (const auto& report : worker.reports()) {
    durations += report.step().step_durations_seconds_size();
    waits += report.step().wait_seconds();
  }
  EXPECT_EQ(durations, 50);
  EXPECT_DOUBLE_EQ(waits, 50 * 0.25);
  EXPECT_LT(worker.reports().size(), 30u);
}

TEST_F(WorkerReporterTest, EventsWaitForAWorkerThatIsAway) {
  WorkerReporter reporter(Options());
  reporter.Joined();
  v1::EvalResult result;
  result.set_ap(0.5);
  reporter.Evaluation(result);
  RecordingWorker worker;
  const auto server = Serve(&worker);
  const internal::TrainerReport report = worker.WaitFor(
      [](const internal::TrainerReport& candidate) { return candidate.has_evaluation(); });
  EXPECT_EQ(report.evaluation().ap(), 0.5);
  EXPECT_TRUE(worker.reports().front().has_joined());
}

TEST_F(WorkerReporterTest, AFailureIsSentBeforeTheEnd) {
  RecordingWorker worker;
  const auto server = Serve(&worker);
  {
    WorkerReporter reporter(Options());
    reporter.Failure(13, "the loss is not finite");
  }
  ASSERT_EQ(worker.reports().size(), 1u);
  EXPECT_EQ(worker.reports()[0].failure().exit_code(), 13);
}

TEST_F(WorkerReporterTest, HearsThatItShouldStop) {
  RecordingWorker worker;
  worker.Stop();
  const auto server = Serve(&worker);
  WorkerReporter reporter(Options());
  EXPECT_FALSE(reporter.stop_requested());
  reporter.Step(StepAt(1));
  worker.WaitFor([](const internal::TrainerReport&) { return true; });
  // The reply follows the report at once; a second round trip bounds the wait.
  reporter.Joined();
  worker.WaitFor([](const internal::TrainerReport& report) { return report.has_joined(); });
  EXPECT_TRUE(reporter.stop_requested());
}

TEST_F(WorkerReporterTest, WithNothingToTellItHearsThatItsCollectivesAreWanted) {
  RecordingWorker worker;
  const auto server = Serve(&worker);
  WorkerReporter::Options options = Options();
  options.dump_collectives = [] {
    internal::CollectiveDump dump;
    dump.add_collectives()->set_sequence(4711);
    return dump;
  };
  WorkerReporter reporter(options);
  const internal::TrainerReport alive =
      worker.WaitFor([](const internal::TrainerReport& report) { return report.has_alive(); });
  EXPECT_EQ(alive.rank(), 1);
  worker.AskForCollectives();
  const internal::TrainerReport dump = worker.WaitFor(
      [](const internal::TrainerReport& report) { return report.has_collectives(); });
  ASSERT_EQ(dump.collectives().collectives_size(), 1);
  EXPECT_EQ(dump.collectives().collectives(0).sequence(), 4711);
}

TEST_F(WorkerReporterTest, WithoutAWorkerNothingHappens) {
  WorkerReporter reporter({});
  reporter.Joined();
  reporter.Step(StepAt(1));
  EXPECT_FALSE(reporter.stop_requested());
}

}  // namespace
}  // namespace muster::train
