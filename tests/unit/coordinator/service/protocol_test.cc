// Workers of other releases, over real gRPC: the release before speaks with us, others are told
// what to do, and what a newer one says beyond our messages does no harm.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "coordinator/core/cluster_state.h"
#include "coordinator/service/app.h"
#include "coordinator/store/memory_state_store.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "muster/v1/node_service.grpc.pb.h"
#include "tests/support/small_job.h"
#include "tests/support/worker_session.h"

namespace muster::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::IsSubsetOf;
using testing::WorkerSession;
using v1::Allocation;
using v1::AllocationStatus;
using v1::CoordinatorMessage;

constexpr int kUnknownNumber = 999;

void AddUnknownField(google::protobuf::Message* message) {
  message->GetReflection()->MutableUnknownFields(message)->AddVarint(kUnknownNumber, 7);
}

bool HasUnknownField(const google::protobuf::Message& message) {
  const auto& fields = message.GetReflection()->GetUnknownFields(message);
  return fields.field_count() == 1 && fields.field(0).number() == kUnknownNumber &&
         fields.field(0).varint() == 7;
}

class ProtocolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto app = App::Start(App::Options(), std::make_unique<MemoryStateStore>(), clock_, timers_);
    ASSERT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    channel_ = grpc::CreateChannel(app_->grpc_address(), grpc::InsecureChannelCredentials());
  }

  static v1::WorkerMessage Hello(int version) {
    v1::WorkerMessage hello = WorkerSession::Hello("a");
    hello.mutable_hello()->set_protocol_version(version);
    return hello;
  }
  // What the coordinator answers to that version.
  CoordinatorMessage Answer(int version) {
    WorkerSession worker(channel_);
    worker.Send(Hello(version));
    return worker.Await([](const CoordinatorMessage&) { return true; })
        .value_or(CoordinatorMessage());
  }
  // The worker's job, until it has succeeded; `look` sees each message.
  void RunJob(WorkerSession* worker, const std::function<void(const CoordinatorMessage&)>& look) {
    const auto jobs = v1::JobService::NewStub(channel_);
    grpc::ClientContext context;
    v1::Job job;
    ASSERT_TRUE(jobs->CreateJob(&context, testing::SmallJobRequest("j"), &job).ok());
    std::optional<Allocation> run;
    for (const auto goal : {Allocation::GOAL_PREPARE, Allocation::GOAL_RUN}) {
      const auto message = worker->Await([&](const CoordinatorMessage& next) {
        look(next);
        return next.desired().allocations_size() == 1 &&
               next.desired().allocations(0).goal() == goal;
      });
      ASSERT_TRUE(message.has_value());
      run = message->desired().allocations(0);
      worker->SendStatus(*run, goal == Allocation::GOAL_PREPARE ? AllocationStatus::PHASE_PREPARED
                                                                : AllocationStatus::PHASE_RUNNING);
    }
    worker->SendStatus(*run, AllocationStatus::PHASE_SUCCEEDED);
    grpc::ClientContext watching;
    v1::WatchJobRequest watch;
    watch.set_name(job.name());
    const auto stream = jobs->WatchJob(&watching, watch);
    v1::WatchJobResponse news;
    while (stream->Read(&news)) {
    }
    EXPECT_EQ(news.job().state(), v1::Job::STATE_SUCCEEDED);
  }

  base::SystemClock clock_;
  base::ThreadTimerQueue timers_{clock_};
  std::unique_ptr<App> app_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(ProtocolTest, ReleaseBeforeGetsNothingThatItDoesNotKnow) {
  WorkerSession worker(channel_);
  worker.Send(Hello(kOldestProtocolVersion));
  std::set<CoordinatorMessage::BodyCase> bodies;
  bool has_fetch = false;
  const auto look = [&](const CoordinatorMessage& message) {
    bodies.insert(message.body_case());
    for (const Allocation& allocation : message.desired().allocations()) {
      has_fetch |= allocation.has_fetch();
    }
  };
  const auto welcome = worker.Await([&](const CoordinatorMessage& message) {
    look(message);
    return message.has_welcome();
  });
  ASSERT_TRUE(welcome.has_value());
  EXPECT_EQ(welcome->welcome().protocol_version(), kOldestProtocolVersion);
  RunJob(&worker, look);
  EXPECT_THAT(bodies, IsSubsetOf({CoordinatorMessage::kWelcome, CoordinatorMessage::kDesired,
                                  CoordinatorMessage::kLogRequest, CoordinatorMessage::kLogCancel,
                                  CoordinatorMessage::kGoodbye, CoordinatorMessage::kApproval}));
  EXPECT_FALSE(has_fetch);
}

TEST_F(ProtocolTest, EachKnownVersionIsAnsweredWithItself) {
  for (int version = kOldestProtocolVersion; version <= kProtocolVersion; ++version) {
    EXPECT_EQ(Answer(version).welcome().protocol_version(), version);
  }
}

// It still speaks ours, as we do that of the release before.
TEST_F(ProtocolTest, ReleaseAfterIsAnsweredWithOurs) {
  EXPECT_EQ(Answer(kProtocolVersion + 1).welcome().protocol_version(), kProtocolVersion);
}

TEST_F(ProtocolTest, OtherVersionsAreToldWhatToDo) {
  const CoordinatorMessage old = Answer(0);
  EXPECT_FALSE(old.goodbye().retry());
  EXPECT_THAT(old.goodbye().reason(),
              ::testing::AllOf(HasSubstr("speaks protocol versions 1 to 2, the worker 0"),
                               HasSubstr("newer release of the worker")));
  const CoordinatorMessage future = Answer(99);
  ASSERT_TRUE(future.has_goodbye());
  EXPECT_FALSE(future.goodbye().retry());
  EXPECT_THAT(future.goodbye().reason(),
              ::testing::AllOf(HasSubstr("the worker 99"),
                               HasSubstr("newer release of the coordinator first")));
}

// A newer worker's fields, messages and enum values.
TEST_F(ProtocolTest, UnknownContentIsKeptAndDoesNoHarm) {
  WorkerSession worker(channel_);
  v1::WorkerMessage hello = Hello(kProtocolVersion);
  AddUnknownField(hello.mutable_hello()->mutable_inventory());
  worker.Send(hello);
  ASSERT_TRUE(worker.Await([](const CoordinatorMessage& m) { return m.has_welcome(); }));
  v1::WorkerMessage unknown;
  AddUnknownField(&unknown);
  worker.Send(unknown);
  bool sent = false;
  RunJob(&worker, [&](const CoordinatorMessage& message) {
    if (sent || message.desired().allocations().empty()) return;
    sent = true;
    v1::WorkerMessage odd;
    odd.mutable_allocation()->set_job(message.desired().allocations(0).job());
    odd.mutable_allocation()->set_generation(message.desired().allocations(0).generation());
    odd.mutable_allocation()->set_phase(static_cast<AllocationStatus::Phase>(99));
    worker.Send(odd);
  });
  EXPECT_TRUE(sent);
  const auto nodes = v1::NodeService::NewStub(channel_);
  grpc::ClientContext context;
  v1::GetNodeRequest request;
  request.set_name("nodes/a");
  v1::Node node;
  ASSERT_TRUE(nodes->GetNode(&context, request, &node).ok());
  EXPECT_TRUE(HasUnknownField(node.inventory())) << node.DebugString();
}

}  // namespace
}  // namespace muster::coordinator
