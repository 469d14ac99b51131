// The services over real gRPC and HTTP on free ports, with workers played by the test.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <memory>

#include "common/rpc/errors.h"
#include "coordinator/service/app.h"
#include "coordinator/store/memory_state_store.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "muster/v1/node_service.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "tests/support/small_job.h"
#include "tests/support/worker_session.h"

namespace muster::coordinator {
namespace {

using ::testing::HasSubstr;
using testing::WorkerSession;
using v1::Allocation;
using v1::AllocationStatus;

class ApiTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto app = App::Start(App::Options(), std::make_unique<MemoryStateStore>(), clock_, timers_);
    ASSERT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    channel_ = grpc::CreateChannel(app_->grpc_address(), grpc::InsecureChannelCredentials());
    jobs_ = v1::JobService::NewStub(channel_);
    nodes_ = v1::NodeService::NewStub(channel_);
  }

  static v1::CreateJobRequest Request(int nodes = 1) {
    v1::CreateJobRequest request = testing::SmallJobRequest("");
    request.mutable_job()->set_display_name("Small run");
    request.mutable_job()->mutable_config()->mutable_model()->set_num_classes(3);
    request.mutable_job()->mutable_config()->mutable_resources()->set_nodes(nodes);
    return request;
  }
  absl::StatusOr<v1::Job> Create(const v1::CreateJobRequest& request) {
    grpc::ClientContext context;
    v1::Job job;
    const grpc::Status status = jobs_->CreateJob(&context, request, &job);
    if (!status.ok()) return rpc::FromGrpcStatus(status);
    return job;
  }
  absl::StatusOr<v1::Job> Get(const std::string& name) {
    grpc::ClientContext context;
    v1::GetJobRequest request;
    request.set_name(name);
    v1::Job job;
    const grpc::Status status = jobs_->GetJob(&context, request, &job);
    if (!status.ok()) return rpc::FromGrpcStatus(status);
    return job;
  }
  std::unique_ptr<WorkerSession> Join(const std::string& node) {
    auto worker = std::make_unique<WorkerSession>(channel_);
    worker->Send(WorkerSession::Hello(node));
    EXPECT_TRUE(worker->Await([](const auto& message) { return message.has_welcome(); }));
    return worker;
  }
  // Plays the job's only node until its ranks run.
  Allocation BringUp(WorkerSession* worker, const std::string& job) {
    const auto prepare = worker->AwaitAllocation(job, Allocation::GOAL_PREPARE);
    EXPECT_TRUE(prepare.has_value());
    worker->SendStatus(*prepare, AllocationStatus::PHASE_PREPARED);
    const auto run = worker->AwaitAllocation(job, Allocation::GOAL_RUN);
    EXPECT_TRUE(run.has_value());
    worker->SendStatus(*run, AllocationStatus::PHASE_RUNNING);
    return *run;
  }
  std::string HttpGet(const std::string& path, int status = 200) {
    httplib::Client client("http://" + app_->http_address());
    const auto result = client.Get(path.c_str());
    EXPECT_TRUE(result) << path;
    if (!result) return "";
    EXPECT_EQ(result->status, status) << path;
    return result->body;
  }

  base::SystemClock clock_;
  base::ThreadTimerQueue timers_{clock_};
  std::unique_ptr<App> app_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::NodeService::Stub> nodes_;
};

TEST_F(ApiTest, JobRunsFromSubmissionToSuccess) {
  auto worker = Join("a");
  const absl::StatusOr<v1::Job> job = Create(Request());
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_THAT(job->name(), ::testing::MatchesRegex("jobs/small-run-[0-9a-f]+"));
  EXPECT_EQ(job->config().data().loader_threads(), 1u) << "defaults are not filled";

  v1::WatchJobRequest watch;
  watch.set_name(job->name());
  grpc::ClientContext context;
  auto stream = jobs_->WatchJob(&context, watch);
  const Allocation run = BringUp(worker.get(), job->name());
  EXPECT_EQ(run.config().model().num_classes(), 3u);
  worker->SendStatus(run, AllocationStatus::PHASE_SUCCEEDED);

  v1::WatchJobResponse news;
  std::vector<std::string> events;
  int64_t sequence = 0;
  while (stream->Read(&news)) {
    for (const v1::JobEvent& event : news.events()) {
      EXPECT_GT(event.sequence(), sequence);
      sequence = event.sequence();
      events.push_back(event.type());
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(news.job().state(), v1::Job::STATE_SUCCEEDED);
  EXPECT_THAT(events,
              ::testing::ElementsAre("Submitted", "Placed", "Started", "Running", "Succeeded"));
  ASSERT_TRUE(worker->Await([](const auto& message) {
    return message.has_desired() && message.desired().allocations().empty();
  }));
}

TEST_F(ApiTest, BadRequestsNameEveryViolation) {
  v1::CreateJobRequest request = Request();
  request.set_job_id("Bad Id");
  absl::Status status = Create(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(rpc::FieldViolations(status).size(), 1u);
  EXPECT_EQ(rpc::FieldViolations(status)[0].field, "job_id");

  request = Request();
  request.mutable_job()->mutable_config()->mutable_data()->clear_images_per_rank();
  request.mutable_job()->mutable_config()->mutable_schedule()->clear_epochs();
  status = Create(request).status();
  std::vector<std::string> fields;
  for (const auto& violation : rpc::FieldViolations(status)) fields.push_back(violation.field);
  EXPECT_THAT(fields, ::testing::UnorderedElementsAre("job.config.data.images_per_rank",
                                                      "job.config.schedule.epochs"));
}

TEST_F(ApiTest, ErrorsCarryAReason) {
  const absl::Status missing = Get("jobs/none").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(rpc::ErrorReason(missing), "JOB_NOT_FOUND");
  v1::CreateJobRequest request = Request();
  request.set_job_id("one");
  ASSERT_TRUE(Create(request).ok());
  EXPECT_EQ(rpc::ErrorReason(Create(request).status()), "JOB_ALREADY_EXISTS");
  for (const char* reason : {"", "JOB_STATE"}) {
    grpc::ClientContext context;
    v1::CancelJobRequest cancel;
    cancel.set_name("jobs/one");
    v1::Job job;
    const grpc::Status status = jobs_->CancelJob(&context, cancel, &job);
    EXPECT_EQ(rpc::ErrorReason(rpc::FromGrpcStatus(status)), reason);
  }
}

TEST_F(ApiTest, RequestIdSubmitsOnce) {
  v1::CreateJobRequest request = Request();
  request.set_request_id("11111111-2222-4333-8444-555555555555");
  const absl::StatusOr<v1::Job> first = Create(request);
  const absl::StatusOr<v1::Job> second = Create(request);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->uid(), second->uid());
  request.mutable_job()->set_display_name("Another");
  EXPECT_EQ(Create(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ApiTest, ValidateOnlyStoresNothingAndWarns) {
  v1::CreateJobRequest request = Request(/*nodes=*/5);
  request.set_validate_only(true);
  request.set_job_id("five");
  const absl::StatusOr<v1::Job> job = Create(request);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_THAT(job->state_reason(), HasSubstr("would wait for more nodes"));
  EXPECT_EQ(Get("jobs/five").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ApiTest, ListsInPages) {
  for (int i = 0; i < 3; ++i) {
    v1::CreateJobRequest request = Request();
    request.set_job_id("j" + std::to_string(i));
    ASSERT_TRUE(Create(request).ok());
  }
  v1::ListJobsRequest list;
  list.set_page_size(2);
  std::vector<std::string> names;
  do {
    grpc::ClientContext context;
    v1::ListJobsResponse page;
    ASSERT_TRUE(jobs_->ListJobs(&context, list, &page).ok());
    for (const v1::Job& job : page.jobs()) names.push_back(job.name());
    list.set_page_token(page.next_page_token());
  } while (!list.page_token().empty());
  EXPECT_THAT(names, ::testing::ElementsAre("jobs/j2", "jobs/j1", "jobs/j0"));
  for (auto [size, token] : {std::pair{-1, ""}, {1, "nonsense"}}) {
    grpc::ClientContext context;
    v1::ListJobsResponse page;
    list.set_page_size(size);
    list.set_page_token(token);
    EXPECT_EQ(jobs_->ListJobs(&context, list, &page).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(ApiTest, LogsAreRelayedFromTheWorkerThatHasTheRank) {
  auto worker = Join("a");
  const absl::StatusOr<v1::Job> job = Create(Request());
  BringUp(worker.get(), job->name());
  v1::StreamLogsRequest request;
  request.set_name(job->name());
  request.set_tail_lines(5);
  grpc::ClientContext context;
  auto stream = jobs_->StreamLogs(&context, request);
  const auto asked = worker->Await([](const auto& message) { return message.has_log_request(); });
  ASSERT_TRUE(asked.has_value());
  EXPECT_EQ(asked->log_request().request().tail_lines(), 5);
  EXPECT_EQ(asked->log_request().request().generation(), 1);
  v1::WorkerMessage chunk;
  chunk.mutable_log_chunk()->set_request_id(asked->log_request().request_id());
  chunk.mutable_log_chunk()->set_data("line one\n");
  chunk.mutable_log_chunk()->set_generation(1);
  worker->Send(chunk);
  chunk.mutable_log_chunk()->set_data("line two\n");
  chunk.mutable_log_chunk()->set_end(true);
  worker->Send(chunk);
  std::string text;
  v1::StreamLogsResponse response;
  while (stream->Read(&response)) text += response.data();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(text, "line one\nline two\n");
}

TEST_F(ApiTest, LogsOfANodeThatIsGoneAreUnavailable) {
  auto worker = Join("a");
  const absl::StatusOr<v1::Job> job = Create(Request());
  BringUp(worker.get(), job->name());
  v1::StreamLogsRequest request;
  request.set_name(job->name());
  grpc::ClientContext context;
  auto stream = jobs_->StreamLogs(&context, request);
  ASSERT_TRUE(worker->Await([](const auto& message) { return message.has_log_request(); }));
  worker.reset();
  v1::StreamLogsResponse response;
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("rank 0"));
}

TEST_F(ApiTest, FollowedLogGoesOnWithTheNextGeneration) {
  auto worker = Join("a");
  v1::CreateJobRequest create = Request();
  // The played worker sends no heartbeats while the job would wait.
  create.mutable_job()->mutable_config()->mutable_resources()->mutable_restart_backoff();
  const absl::StatusOr<v1::Job> job = Create(create);
  v1::StreamLogsRequest request;
  request.set_name(job->name());
  request.set_follow(true);
  grpc::ClientContext context;
  auto stream = jobs_->StreamLogs(&context, request);
  std::string text;
  for (int generation = 1; generation <= 2; ++generation) {
    // The log is asked for as soon as the generation is placed, before or after its messages.
    Allocation run;
    int64_t log_request = 0;
    ASSERT_TRUE(worker->Await([&](const v1::CoordinatorMessage& message) {
      if (message.has_log_request()) {
        EXPECT_EQ(message.log_request().request().generation(), generation);
        log_request = message.log_request().request_id();
      }
      for (const Allocation& allocation : message.desired().allocations()) {
        if (allocation.generation() != generation) continue;
        if (allocation.goal() == Allocation::GOAL_PREPARE) {
          worker->SendStatus(allocation, AllocationStatus::PHASE_PREPARED);
        } else {
          run = allocation;
          worker->SendStatus(allocation, AllocationStatus::PHASE_RUNNING);
        }
      }
      return log_request != 0 && run.generation() == generation;
    }));
    v1::WorkerMessage chunk;
    chunk.mutable_log_chunk()->set_request_id(log_request);
    chunk.mutable_log_chunk()->set_data("generation " + std::to_string(generation) + "\n");
    chunk.mutable_log_chunk()->set_end(true);
    worker->Send(chunk);
    worker->SendStatus(
        run, generation == 1 ? AllocationStatus::PHASE_FAILED : AllocationStatus::PHASE_SUCCEEDED);
  }
  v1::StreamLogsResponse response;
  while (stream->Read(&response)) text += response.data();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(text, "generation 1\ngeneration 2\n");
}

TEST_F(ApiTest, StreamMustBeginWithHello) {
  WorkerSession worker(channel_);
  worker.SendHeartbeat();
  EXPECT_EQ(worker.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ApiTest, SecondWorkerUnderOneNameIsTurnedAway) {
  auto first = Join("a");
  WorkerSession second(channel_);
  v1::WorkerMessage hello = WorkerSession::Hello("a");
  hello.mutable_hello()->set_node_uid("another");
  second.Send(hello);
  const auto goodbye = second.Await([](const auto& message) { return message.has_goodbye(); });
  ASSERT_TRUE(goodbye.has_value());
  EXPECT_FALSE(goodbye->goodbye().retry());
  EXPECT_TRUE(second.Finish().ok());
}

TEST_F(ApiTest, NodesAreListed) {
  auto a = Join("a");
  auto b = Join("b");
  grpc::ClientContext context;
  v1::ListNodesRequest request;
  request.set_page_size(1);
  v1::ListNodesResponse page;
  ASSERT_TRUE(nodes_->ListNodes(&context, request, &page).ok());
  EXPECT_EQ(page.nodes(0).name(), "nodes/a");
  EXPECT_EQ(page.nodes(0).inventory().address(), "127.0.0.1") << "not taken from the stream";
  grpc::ClientContext next;
  request.set_page_token(page.next_page_token());
  ASSERT_TRUE(nodes_->ListNodes(&next, request, &page).ok());
  EXPECT_EQ(page.nodes(0).name(), "nodes/b");
  EXPECT_EQ(page.next_page_token(), "");
  grpc::ClientContext missing;
  v1::GetNodeRequest get;
  get.set_name("nodes/none");
  v1::Node node;
  EXPECT_EQ(nodes_->GetNode(&missing, get, &node).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ApiTest, HttpServesTargetsMetricsJsonAndAPage) {
  auto worker = Join("a");
  v1::CreateJobRequest request = Request();
  request.set_job_id("shown");
  request.mutable_job()->set_display_name("<script>alert(1)</script>");
  ASSERT_TRUE(Create(request).ok());

  const auto targets = nlohmann::json::parse(HttpGet("/v1/sd/prometheus"));
  ASSERT_EQ(targets.size(), 2u);
  EXPECT_EQ(targets[0]["targets"][0], app_->http_address());
  EXPECT_EQ(targets[1]["targets"][0], "127.0.0.1:9999");
  EXPECT_EQ(targets[1]["labels"]["node"], "a");
  EXPECT_EQ(targets[1]["labels"]["__meta_muster_role"], "worker");

  const std::string metrics = HttpGet("/metrics");
  EXPECT_THAT(metrics, HasSubstr("muster_coordinator_jobs{state=\"starting\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("muster_coordinator_nodes{state=\"ready\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("muster_coordinator_job_state_transitions_total{from=\"queued\","
                                 "to=\"starting\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("muster_coordinator_queue_wait_seconds_count 1"));
  EXPECT_THAT(metrics, HasSubstr("muster_coordinator_heartbeat_age_seconds{node=\"a\"}"));
  EXPECT_THAT(metrics, HasSubstr("muster_coordinator_store_commit_duration_seconds_count"));
  EXPECT_THAT(metrics, HasSubstr("muster_build_info{"));

  EXPECT_EQ(nlohmann::json::parse(HttpGet("/v1/jobs"))["jobs"][0]["name"], "jobs/shown");
  EXPECT_EQ(nlohmann::json::parse(HttpGet("/v1/jobs/shown"))["state"], "STATE_STARTING");
  EXPECT_EQ(nlohmann::json::parse(HttpGet("/v1/nodes"))["nodes"][0]["name"], "nodes/a");
  EXPECT_THAT(HttpGet("/v1/jobs/none", 404), HasSubstr("there is no job"));
  HttpGet("/v1/jobs?page_size=-1", 400);
  EXPECT_EQ(HttpGet("/healthz"), "ok\n");
  const std::string page = HttpGet("/");
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;"));
  EXPECT_THAT(page, ::testing::Not(HasSubstr("<script>")));
}

TEST_F(ApiTest, StoppingTellsWorkersToComeBackAndEndsWatches) {
  auto worker = Join("a");
  const absl::StatusOr<v1::Job> job = Create(Request());
  v1::WatchJobRequest watch;
  watch.set_name(job->name());
  grpc::ClientContext context;
  auto stream = jobs_->WatchJob(&context, watch);
  v1::WatchJobResponse news;
  ASSERT_TRUE(stream->Read(&news));
  app_.reset();
  const auto goodbye = worker->Await([](const auto& message) { return message.has_goodbye(); });
  ASSERT_TRUE(goodbye.has_value());
  EXPECT_TRUE(goodbye->goodbye().retry());
  while (stream->Read(&news)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ApiTest, PortInUseIsNamed) {
  App::Options options;
  options.listen_address = app_->grpc_address();
  const auto second = App::Start(options, std::make_unique<MemoryStateStore>(), clock_, timers_);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(app_->grpc_address()));
  options.listen_address = "127.0.0.1:0";
  options.http_address = app_->http_address();
  const auto third = App::Start(options, std::make_unique<MemoryStateStore>(), clock_, timers_);
  ASSERT_FALSE(third.ok());
  EXPECT_THAT(std::string(third.status().message()), HasSubstr(app_->http_address()));
}

TEST_F(ApiTest, PlaintextBeyondLoopbackIsRefused) {
  App::Options options;
  options.listen_address = "0.0.0.0:0";
  EXPECT_FALSE(App::Start(options, std::make_unique<MemoryStateStore>(), clock_, timers_).ok());
  options.listen_address = "127.0.0.1:0";
  options.http_address = "0.0.0.0:0";
  EXPECT_FALSE(App::Start(options, std::make_unique<MemoryStateStore>(), clock_, timers_).ok());
}

}  // namespace
}  // namespace muster::coordinator
