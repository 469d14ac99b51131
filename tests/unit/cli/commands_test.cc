// The commands against a scripted coordinator on a real gRPC port.
#include "cli/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"

#include "cli/node_commands.h"
#include "common/base/exit_codes.h"
#include "common/rpc/errors.h"
#include "common/rpc/server.h"
#include "tests/support/fake_clock.h"
#include "tests/support/shared_data.h"
#include <nlohmann/json.hpp>

namespace muster::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Keeps one job; the test scripts what a watch sees. Served by gRPC's threads and scripted and read
// by the test's, so its members are used under its mutex.
class ScriptedCoordinator : public v1::JobService::Service, public v1::NodeService::Service {
 public:
  grpc::Status CreateJob(grpc::ServerContext*, const v1::CreateJobRequest* request,
                         v1::Job* job) override {
    absl::MutexLock lock(&mutex);
    created = *request;
    request_ids.insert(request->request_id());
    ++creations;
    if (unavailable_creations > 0) {
      --unavailable_creations;
      return {grpc::StatusCode::UNAVAILABLE, "starting"};
    }
    if (request->job_id() == "taken") {
      return rpc::ToGrpcStatus(
          rpc::Error(absl::StatusCode::kAlreadyExists, "JOB_EXISTS", "jobs/taken exists"));
    }
    *job = request->job();
    job->set_name(absl::StrCat("jobs/", request->job_id().empty() ? "made-1" : request->job_id()));
    job->set_state(v1::Job::STATE_QUEUED);
    return grpc::Status::OK;
  }
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                      v1::Job* job) override {
    absl::MutexLock lock(&mutex);
    if (request->name() != watched.name()) {
      return rpc::ToGrpcStatus(rpc::Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND",
                                          absl::StrCat(request->name(), " not found")));
    }
    *job = watched;
    return grpc::Status::OK;
  }
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override {
    absl::MutexLock lock(&mutex);
    // Two jobs a page, whatever was asked for.
    const int first = request->page_token().empty() ? 0 : std::stoi(request->page_token());
    for (int i = first; i < std::min(first + 2, jobs_in_list); ++i) {
      response->add_jobs()->set_name(absl::StrCat("jobs/j", i));
    }
    if (first + 2 < jobs_in_list) response->set_next_page_token(absl::StrCat(first + 2));
    return grpc::Status::OK;
  }
  grpc::Status WatchJob(grpc::ServerContext*, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
    absl::MutexLock lock(&mutex);
    watches.push_back(request->after_sequence());
    const size_t watch = watches.size() - 1;
    if (watch >= script.size()) return {grpc::StatusCode::NOT_FOUND, "no such job"};
    for (const v1::WatchJobResponse& response : script[watch]) writer->Write(response);
    return watch + 1 < script.size() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting")
                                     : grpc::Status::OK;
  }
  grpc::Status StreamLogs(grpc::ServerContext*, const v1::StreamLogsRequest* request,
                          grpc::ServerWriter<v1::StreamLogsResponse>* writer) override {
    v1::StreamLogsResponse response;
    response.set_data(absl::StrCat("rank ", request->rank(), " of ", request->name(), "\n"));
    writer->Write(response);
    return grpc::Status::OK;
  }
  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest* request,
                         v1::Job* job) override {
    job->set_name(request->name());
    job->set_state(v1::Job::STATE_CANCELLING);
    return grpc::Status::OK;
  }

  absl::Mutex mutex;
  v1::CreateJobRequest created ABSL_GUARDED_BY(mutex);
  int creations ABSL_GUARDED_BY(mutex) = 0;
  std::set<std::string> request_ids ABSL_GUARDED_BY(mutex);
  int unavailable_creations ABSL_GUARDED_BY(mutex) = 0;
  v1::Job watched ABSL_GUARDED_BY(mutex);
  int jobs_in_list ABSL_GUARDED_BY(mutex) = 0;
  // Of each WatchJob call.
  std::vector<std::vector<v1::WatchJobResponse>> script ABSL_GUARDED_BY(mutex);
  std::vector<int64_t> watches ABSL_GUARDED_BY(mutex);
};

class CommandsTest : public ::testing::Test {
 protected:
  CommandsTest() {
    rpc::ServerOptions options;
    options.address = "127.0.0.1:0";
    options.services = {static_cast<v1::JobService::Service*>(&coordinator_),
                        static_cast<v1::NodeService::Service*>(&coordinator_)};
    auto server = rpc::Server::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    client_ = std::make_unique<CoordinatorClient>(server_->address());
  }

  Context context() { return {*client_, clock_, out_, err_}; }

  static v1::WatchJobResponse Seen(v1::Job::State state, int64_t sequence,
                                   const std::string& event) {
    v1::WatchJobResponse response;
    response.mutable_job()->set_name("jobs/a");
    response.mutable_job()->set_state(state);
    v1::JobEvent* added = response.add_events();
    added->set_sequence(sequence);
    added->set_type(event);
    return response;
  }

  static std::string DemoConfig() {
    return testing::SourceFolder() / "configs/quick/demo.textproto";
  }

  ScriptedCoordinator coordinator_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<CoordinatorClient> client_;
  testing::FakeClock clock_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(CommandsTest, SubmitPrintsTheNameAndSendsTheEffectiveConfig) {
  SubmitOptions options;
  options.config = DemoConfig();
  options.overrides = {"schedule.epochs=7", "schedule.step_epochs=[]"};
  options.labels = {"team=vision"};
  options.nodes = 3;
  EXPECT_EQ(Submit(options, context()), base::kExitCompleted) << err_.str();
  EXPECT_EQ(out_.str(), "jobs/made-1\n");
  absl::MutexLock lock(&coordinator_.mutex);
  const config::v1::TrainJob& config = coordinator_.created.job().config();
  EXPECT_EQ(config.schedule().epochs(), 7u);
  EXPECT_EQ(config.resources().nodes(), 3u);
  EXPECT_EQ(config.schedule().optimizer().momentum(), 0.9);  // a default
  EXPECT_TRUE(config.bases().empty());
  EXPECT_EQ(coordinator_.created.job().labels().at("team"), "vision");
  EXPECT_EQ(coordinator_.created.job().display_name(), "demo");
  EXPECT_EQ(coordinator_.created.request_id().size(), 36u);
}

TEST_F(CommandsTest, SubmitRetriesWithTheSameRequestId) {
  {
    absl::MutexLock lock(&coordinator_.mutex);
    coordinator_.unavailable_creations = 2;
  }
  SubmitOptions options;
  options.config = DemoConfig();
  EXPECT_EQ(Submit(options, context()), base::kExitCompleted) << err_.str();
  absl::MutexLock lock(&coordinator_.mutex);
  EXPECT_EQ(coordinator_.creations, 3);
}

TEST_F(CommandsTest, SubmitWaitsForATakeoverWithTheSameRequest) {
  {
    absl::MutexLock lock(&coordinator_.mutex);
    // More than the channel's own retries.
    coordinator_.unavailable_creations = 9;
  }
  SubmitOptions options;
  options.config = DemoConfig();
  EXPECT_EQ(Submit(options, context()), base::kExitCompleted) << err_.str();
  EXPECT_EQ(out_.str(), "jobs/made-1\n");
  EXPECT_EQ(err_.str(), "muster: the coordinator is away; trying again for 15s\n");
  absl::MutexLock lock(&coordinator_.mutex);
  EXPECT_EQ(coordinator_.creations, 10);
  EXPECT_EQ(coordinator_.request_ids.size(), 1u);
}

TEST_F(CommandsTest, SubmitFindsTheOneThatLeads) {
  CoordinatorClient both(absl::StrCat("127.0.0.1:1,", server_->address()));
  SubmitOptions options;
  options.config = DemoConfig();
  EXPECT_EQ(Submit(options, Context{both, clock_, out_, err_}), base::kExitCompleted);
  EXPECT_EQ(err_.str(), "");
}

TEST_F(CommandsTest, SubmitGivesUpInTheEnd) {
  CoordinatorClient nobody("127.0.0.1:1");
  SubmitOptions options;
  options.config = DemoConfig();
  // The channel alone takes almost a second.
  options.patience = absl::Seconds(2);
  EXPECT_EQ(Submit(options, Context{nobody, clock_, out_, err_}), base::kExitUnavailable);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("trying again for 2s"), HasSubstr("127.0.0.1:1")));
}

TEST_F(CommandsTest, BadConfigIsToldWhollyAndNothingIsSent) {
  const testing::TemporaryFolder folder;
  const std::string path = folder.path() / "bad.textproto";
  std::ofstream(path) << "data { images_per_rank: 0 }\nschedule { epochs: 0 }\n";
  SubmitOptions options;
  options.config = path;
  EXPECT_EQ(Submit(options, context()), base::kExitBadConfig);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("data.images_per_rank"), HasSubstr("schedule.epochs"),
                                HasSubstr(path)));
  absl::MutexLock lock(&coordinator_.mutex);
  EXPECT_EQ(coordinator_.creations, 0);
}

TEST_F(CommandsTest, SubmitTellsErrorsOfTheCoordinator) {
  SubmitOptions options;
  options.config = DemoConfig();
  options.job_id = "taken";
  EXPECT_EQ(Submit(options, context()), base::kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("jobs/taken exists"));
  EXPECT_EQ(out_.str(), "");
}

TEST_F(CommandsTest, WatchGoesOnAfterTheCoordinatorWasAwayAndFailsWithTheJob) {
  {
    absl::MutexLock lock(&coordinator_.mutex);
    coordinator_.script = {{Seen(v1::Job::STATE_RUNNING, 4, "Running")},
                           {Seen(v1::Job::STATE_FAILED, 5, "Failed")}};
    coordinator_.script[1][0].mutable_job()->set_state_reason("rank 1 died");
  }
  EXPECT_EQ(Watch("a", false, context()), base::kExitJobFailed);
  absl::MutexLock lock(&coordinator_.mutex);
  EXPECT_EQ(coordinator_.watches, (std::vector<int64_t>{0, 4}));
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("Running"), HasSubstr("Failed")));
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("away"), HasSubstr("rank 1 died")));
}

TEST_F(CommandsTest, WatchOfASucceededJobEndsWithZero) {
  {
    absl::MutexLock lock(&coordinator_.mutex);
    coordinator_.script = {{Seen(v1::Job::STATE_SUCCEEDED, 1, "Succeeded")}};
  }
  EXPECT_EQ(Watch("jobs/a", true, context()), base::kExitCompleted);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["job"]["state"], "STATE_SUCCEEDED");
}

TEST_F(CommandsTest, ListFollowsPagesUpToTheLimit) {
  {
    absl::MutexLock lock(&coordinator_.mutex);
    coordinator_.jobs_in_list = 5;
  }
  EXPECT_EQ(List({}, context()), base::kExitCompleted);
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("jobs/j0"), HasSubstr("jobs/j4")));
  out_.str("");
  ListOptions options;
  options.states = {"sleeping"};
  EXPECT_EQ(List(options, context()), base::kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("sleeping"));
}

TEST_F(CommandsTest, DescribeShowsTheFirstFailure) {
  {
    absl::MutexLock lock(&coordinator_.mutex);
    coordinator_.watched.set_name("jobs/a");
    coordinator_.watched.set_state(v1::Job::STATE_FAILED);
    v1::RankFailure* failure = coordinator_.watched.mutable_first_failure();
    failure->set_rank(3);
    failure->set_node("nodes/n1");
    failure->set_signal(9);
    failure->set_message("killed by SIGKILL");
    failure->add_stderr_tail("last words");
  }
  EXPECT_EQ(Describe("a", false, context()), base::kExitCompleted) << err_.str();
  EXPECT_THAT(out_.str(),
              AllOf(HasSubstr("rank 3"), HasSubstr("nodes/n1"), HasSubstr("killed by SIGKILL"),
                    HasSubstr("last words"), Not(HasSubstr("\033"))));
  EXPECT_EQ(Describe("b", false, context()), base::kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("jobs/b not found"));
}

TEST_F(CommandsTest, LogsAndCancel) {
  LogsOptions logs;
  logs.job = "a";
  logs.rank = 1;
  EXPECT_EQ(Logs(logs, context()), base::kExitCompleted);
  EXPECT_EQ(out_.str(), "rank 1 of jobs/a\n");
  out_.str("");
  EXPECT_EQ(Cancel("a", "", false, context()), base::kExitCompleted);
  EXPECT_EQ(out_.str(), "jobs/a CANCELLING\n");
}

TEST_F(CommandsTest, AnAbsentCoordinatorIsNamed) {
  CoordinatorClient nobody("127.0.0.1:1");
  const Context context{nobody, clock_, out_, err_};
  EXPECT_EQ(Nodes(false, context), base::kExitUnavailable);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("127.0.0.1:1"), HasSubstr("MUSTER_COORDINATOR")));
}

}  // namespace
}  // namespace muster::cli
