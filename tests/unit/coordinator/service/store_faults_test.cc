// A coordinator whose store fails: nothing is acknowledged that is not stored, nothing is done
// twice, and what another coordinator has taken is left alone.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"

#include "coordinator/service/app.h"
#include "coordinator/store/sqlite_state_store.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "tests/support/faulty_state_store.h"
#include "tests/support/shared_data.h"
#include "tests/support/small_job.h"
#include "tests/support/worker_session.h"

namespace muster::coordinator {
namespace {

using testing::FaultyStateStore;
using testing::WorkerSession;

class StoreFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto sqlite = SqliteStateStore::Open(folder_.path() / "store.db");
    ASSERT_TRUE(sqlite.ok()) << sqlite.status();
    inner_ = *std::move(sqlite);
    Start();
  }
  void Start() {
    auto store = std::make_unique<FaultyStateStore>(inner_);
    store_ = store.get();
    App::Options options;
    options.store_lost = [this] { lost_.Notify(); };
    auto app = App::Start(options, std::move(store), clock_, timers_);
    ASSERT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    channel_ = grpc::CreateChannel(app_->grpc_address(), grpc::InsecureChannelCredentials());
    jobs_ = v1::JobService::NewStub(channel_);
  }
  grpc::Status Create(const std::string& id) {
    grpc::ClientContext context;
    v1::Job job;
    return jobs_->CreateJob(&context, testing::SmallJobRequest(id, absl::StrCat("request-", id)),
                            &job);
  }
  // Names of the stored jobs, and how many events say that one was submitted.
  std::pair<std::vector<std::string>, int> Stored() {
    const Snapshot snapshot = *inner_->Load();
    std::vector<std::string> names;
    for (const internal::JobRecord& job : snapshot.jobs) names.push_back(job.job().name());
    const auto submitted =
        std::count_if(snapshot.events.begin(), snapshot.events.end(),
                      [](const v1::JobEvent& event) { return event.type() == "Submitted"; });
    return {names, static_cast<int>(submitted)};
  }

  testing::TemporaryFolder folder_;
  base::SystemClock clock_;
  base::ThreadTimerQueue timers_{clock_};
  std::shared_ptr<StateStore> inner_;
  FaultyStateStore* store_ = nullptr;
  absl::Notification lost_;
  std::unique_ptr<App> app_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
};

TEST_F(StoreFaultsTest, ReplyWaitsUntilTheStoreWorks) {
  for (const auto fault : {FaultyStateStore::Fault::kBefore, FaultyStateStore::Fault::kAfter}) {
    const std::string id = fault == FaultyStateStore::Fault::kBefore ? "before" : "after";
    store_->Fail(fault, 3);
    auto created = std::async(std::launch::async, [&] { return Create(id); });
    store_->AwaitFailures(3);
    const grpc::Status status = created.get();
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_THAT(Stored().first, ::testing::Contains(absl::StrCat("jobs/", id)));
  }
  EXPECT_EQ(Stored().second, 2) << "a commit that was tried again wrote its events twice";
}

TEST_F(StoreFaultsTest, StopWhileTheStoreFailsAcknowledgesNothing) {
  store_->Fail(FaultyStateStore::Fault::kBefore, 1'000'000);
  auto created = std::async(std::launch::async, [&] { return Create("a"); });
  store_->AwaitFailures(2);
  app_.reset();
  EXPECT_EQ(created.get().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Stored().first.empty());
}

TEST_F(StoreFaultsTest, CoordinatorThatLostItsStoreAnswersAndCommandsNothing) {
  WorkerSession worker(channel_);
  worker.Send(WorkerSession::Hello("a"));
  ASSERT_TRUE(worker.Await([](const auto& message) { return message.has_welcome(); }));
  store_->Fail(FaultyStateStore::Fault::kLost, 1);
  // It would be placed on the worker at once.
  EXPECT_EQ(Create("a").error_code(), grpc::StatusCode::UNAVAILABLE);
  lost_.WaitForNotification();
  EXPECT_EQ(Create("b").error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext context;
  v1::GetJobRequest get;
  get.set_name("jobs/a");
  v1::Job job;
  EXPECT_EQ(jobs_->GetJob(&context, get, &job).error_code(), grpc::StatusCode::UNAVAILABLE);
  app_.reset();
  EXPECT_FALSE(worker.AwaitAllocation("jobs/a", v1::Allocation::GOAL_PREPARE).has_value());
  EXPECT_TRUE(Stored().first.empty());
}

}  // namespace
}  // namespace muster::coordinator
