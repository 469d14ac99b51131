// NodeService over real gRPC, with workers played by the test.
#include "coordinator/service/node_service.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <memory>
#include <string>

#include "common/rpc/errors.h"
#include "coordinator/service/app.h"
#include "coordinator/store/memory_state_store.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "muster/v1/node_service.grpc.pb.h"
#include "tests/support/process.h"
#include "tests/support/small_job.h"
#include "tests/support/worker_session.h"

namespace muster::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::WorkerSession;
using v1::AllocationStatus;

class NodeServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto app = App::Start(App::Options(), std::make_unique<MemoryStateStore>(), clock_, timers_);
    ASSERT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    channel_ = grpc::CreateChannel(app_->grpc_address(), grpc::InsecureChannelCredentials());
    nodes_ = v1::NodeService::NewStub(channel_);
    jobs_ = v1::JobService::NewStub(channel_);
  }

  std::unique_ptr<WorkerSession> Join(const std::string& name) {
    auto worker = std::make_unique<WorkerSession>(channel_);
    v1::WorkerMessage hello = WorkerSession::Hello(name);
    (*hello.mutable_hello()->mutable_inventory()->mutable_labels())["zone"] = "1";
    worker->Send(hello);
    EXPECT_TRUE(worker->Await([](const auto& message) { return message.has_welcome(); }));
    return worker;
  }

  v1::Node Get(const std::string& name) {
    grpc::ClientContext context;
    v1::GetNodeRequest request;
    request.set_name(name);
    v1::Node node;
    EXPECT_TRUE(nodes_->GetNode(&context, request, &node).ok());
    return node;
  }
  grpc::Status Cordon(const std::string& name, const std::string& reason, v1::Node* node) {
    grpc::ClientContext context;
    v1::CordonNodeRequest request;
    request.set_name(name);
    request.set_reason(reason);
    return nodes_->CordonNode(&context, request, node);
  }
  grpc::Status Uncordon(const std::string& name, v1::Node* node) {
    grpc::ClientContext context;
    v1::UncordonNodeRequest request;
    request.set_name(name);
    return nodes_->UncordonNode(&context, request, node);
  }
  grpc::Status Drain(const std::string& name, const std::string& reason, v1::Node* node) {
    grpc::ClientContext context;
    v1::DrainNodeRequest request;
    request.set_name(name);
    request.set_reason(reason);
    return nodes_->DrainNode(&context, request, node);
  }
  static std::string ReasonOf(const grpc::Status& status) {
    return rpc::ErrorReason(rpc::FromGrpcStatus(status));
  }
  std::string StatusPage() const {
    const auto page = httplib::Client("http://" + app_->http_address()).Get("/");
    return page ? page->body : "no page";
  }
  // The job's share on the worker, told to run.
  v1::Allocation Run(WorkerSession& worker, const std::string& job) {
    grpc::ClientContext context;
    v1::Job created;
    EXPECT_TRUE(jobs_->CreateJob(&context, testing::SmallJobRequest(job), &created).ok());
    const std::string name = "jobs/" + job;
    auto prepare = worker.AwaitAllocation(name, v1::Allocation::GOAL_PREPARE);
    EXPECT_TRUE(prepare.has_value());
    worker.SendStatus(*prepare, AllocationStatus::PHASE_PREPARED);
    auto run = worker.AwaitAllocation(name, v1::Allocation::GOAL_RUN);
    EXPECT_TRUE(run.has_value());
    worker.SendStatus(*run, AllocationStatus::PHASE_RUNNING);
    return run.value_or(v1::Allocation());
  }

  base::SystemClock clock_;
  base::ThreadTimerQueue timers_{clock_};
  std::unique_ptr<App> app_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::NodeService::Stub> nodes_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
};

TEST_F(NodeServiceTest, CordonAndUncordonChangeTheNodeAndThePage) {
  const auto worker = Join("a");
  v1::Node node;
  ASSERT_TRUE(Cordon("nodes/a", "fan 3 <fails>", &node).ok());
  EXPECT_TRUE(node.cordoned());
  EXPECT_FALSE(node.draining());
  EXPECT_THAT(node.cordon_reason(), HasSubstr("fan 3 <fails>"));
  EXPECT_TRUE(Get("nodes/a").cordoned());
  EXPECT_THAT(StatusPage(), AllOf(HasSubstr("class=\"cordoned\">cordoned<"),
                                  HasSubstr("fan 3 &lt;fails&gt;"), HasSubstr("zone=1")));
  ASSERT_TRUE(Uncordon("nodes/a", &node).ok());
  EXPECT_FALSE(node.cordoned());
  EXPECT_EQ(node.cordon_reason(), "");
}

TEST_F(NodeServiceTest, ErrorsNameTheirReason) {
  v1::Node node;
  for (const grpc::Status& status :
       {Cordon("nodes/x", "", &node), Drain("nodes/x", "", &node), Uncordon("nodes/x", &node)}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_EQ(ReasonOf(status), "NODE_NOT_FOUND");
  }
  const auto worker = Join("a");
  for (const std::string& reason : {std::string("two\nlines"), std::string(501, 'r')}) {
    const grpc::Status status = Drain("nodes/a", reason, &node);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(ReasonOf(status), "INVALID_REQUEST");
  }
  EXPECT_FALSE(Get("nodes/a").cordoned());
}

TEST_F(NodeServiceTest, ADrainIsOverWhenTheNodesJobsHaveStopped) {
  const auto worker = Join("a");
  v1::Allocation run = Run(*worker, "moving");
  v1::Node node;
  ASSERT_TRUE(Drain("nodes/a", "new driver", &node).ok());
  EXPECT_TRUE(node.draining());
  EXPECT_THAT(node.jobs(), ElementsAre("jobs/moving"));
  const auto unwanted = worker->Await([](const auto& message) {
    return message.has_desired() && message.desired().allocations().empty();
  });
  ASSERT_TRUE(unwanted.has_value());
  worker->SendStatus(run, AllocationStatus::PHASE_STOPPED);
  worker->SendHeartbeat();
  EXPECT_TRUE(testing::WaitUntil([&] { return Get("nodes/a").jobs().empty(); }, absl::Seconds(20)));
  EXPECT_THAT(StatusPage(), HasSubstr("class=\"drained\">drained<"));
}

TEST_F(NodeServiceTest, MaintenanceIsShownAndApprovedOnceTheNodeIsEmpty) {
  const auto worker = Join("a");
  v1::WorkerMessage message;
  v1::MaintenanceEvent& event = *message.mutable_maintenance()->add_events();
  event.set_id("e1");
  event.set_type("Redeploy");
  event.set_status("Scheduled");
  event.mutable_not_before()->set_seconds(4'000'000'000);
  worker->Send(message);
  const auto approval = worker->Await([](const auto& received) { return received.has_approval(); });
  ASSERT_TRUE(approval.has_value());
  EXPECT_EQ(approval->approval().event_id(), "e1");
  const v1::Node node = Get("nodes/a");
  ASSERT_EQ(node.maintenance_size(), 1);
  EXPECT_EQ(node.maintenance(0).type(), "Redeploy");
  EXPECT_THAT(StatusPage(), HasSubstr("Redeploy Scheduled"));
}

}  // namespace
}  // namespace muster::coordinator
