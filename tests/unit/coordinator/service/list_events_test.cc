// JobService.ListEvents over real gRPC.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "coordinator/service/app.h"
#include "coordinator/store/memory_state_store.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "tests/support/small_job.h"

namespace muster::coordinator {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

class ListEventsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto app = App::Start(App::Options(), std::make_unique<MemoryStateStore>(), clock_, timers_);
    ASSERT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    jobs_ = v1::JobService::NewStub(
        grpc::CreateChannel(app_->grpc_address(), grpc::InsecureChannelCredentials()));
    // Two events each.
    for (const char* id : {"a", "b"}) {
      grpc::ClientContext create;
      v1::Job job;
      ASSERT_TRUE(jobs_->CreateJob(&create, testing::SmallJobRequest(id), &job).ok());
      grpc::ClientContext cancel;
      v1::CancelJobRequest request;
      request.set_name(job.name());
      ASSERT_TRUE(jobs_->CancelJob(&cancel, request, &job).ok());
    }
  }
  grpc::Status List(const v1::ListEventsRequest& request, v1::ListEventsResponse* response) {
    grpc::ClientContext context;
    return jobs_->ListEvents(&context, request, response);
  }
  // All pages.
  std::vector<v1::JobEvent> All(v1::ListEventsRequest request) {
    std::vector<v1::JobEvent> events;
    do {
      v1::ListEventsResponse response;
      const grpc::Status status = List(request, &response);
      EXPECT_TRUE(status.ok()) << status.error_message();
      events.insert(events.end(), response.events().begin(), response.events().end());
      request.set_page_token(response.next_page_token());
    } while (!request.page_token().empty());
    return events;
  }

  base::SystemClock clock_;
  base::ThreadTimerQueue timers_{clock_};
  std::unique_ptr<App> app_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
};

TEST_F(ListEventsTest, PagesOfAllInOrder) {
  const std::vector<v1::JobEvent> whole = All({});
  ASSERT_GE(whole.size(), 4u);
  EXPECT_EQ(whole[0].type(), "Submitted");
  v1::ListEventsRequest one_by_one;
  one_by_one.set_page_size(1);
  const std::vector<v1::JobEvent> single = All(one_by_one);
  ASSERT_EQ(single.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(single[i].sequence(), whole[i].sequence());
    EXPECT_GT(whole[i].sequence(), i == 0 ? 0 : whole[i - 1].sequence());
  }
}

TEST_F(ListEventsTest, OfOneJob) {
  v1::ListEventsRequest request;
  request.set_parent("jobs/b");
  request.set_page_size(1);
  const std::vector<v1::JobEvent> events = All(request);
  ASSERT_GE(events.size(), 2u);
  EXPECT_THAT(events, Each(::testing::Property(&v1::JobEvent::job, "jobs/b")));
}

TEST_F(ListEventsTest, BadRequestsAreNamed) {
  struct Case {
    std::string parent;
    int page_size;
    std::string page_token;
    grpc::StatusCode code;
    std::string message;
  };
  v1::ListEventsRequest of_a;
  of_a.set_parent("jobs/a");
  of_a.set_page_size(1);
  v1::ListEventsResponse page;
  ASSERT_TRUE(List(of_a, &page).ok());
  for (const Case& one :
       std::vector<Case>{{"users/x", 0, "", grpc::StatusCode::INVALID_ARGUMENT, "users/x"},
                         {"jobs/none", 0, "", grpc::StatusCode::NOT_FOUND, "jobs/none"},
                         {"nodes/none", 0, "", grpc::StatusCode::NOT_FOUND, "nodes/none"},
                         {"", -1, "", grpc::StatusCode::INVALID_ARGUMENT, "page_size"},
                         {"", 0, "x", grpc::StatusCode::INVALID_ARGUMENT, "page_token"},
                         // Of another list.
                         {"jobs/b", 0, page.next_page_token(), grpc::StatusCode::INVALID_ARGUMENT,
                          "page_token"}}) {
    v1::ListEventsRequest request;
    request.set_parent(one.parent);
    request.set_page_size(one.page_size);
    request.set_page_token(one.page_token);
    const grpc::Status status = List(request, &page);
    EXPECT_EQ(status.error_code(), one.code) << one.message;
    EXPECT_THAT(status.error_message(), HasSubstr(one.message));
  }
}

}  // namespace
}  // namespace muster::coordinator
