#include "worker/daemon/scheduled_events_poller.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"

#include "common/base/clock.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/fake_metadata_service.h"
#include "tests/unit/worker/daemon/fixtures.h"

namespace muster::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ScheduledEventsPollerTest : public ::testing::Test {
 protected:
  std::unique_ptr<ScheduledEventsPoller> Poll(const std::string& vm = "") {
    ScheduledEventsPoller::Options options;
    options.url = service_.url();
    options.vm = vm;
    options.interval = absl::Milliseconds(5);
    ScheduledEventsPoller::Deps deps;
    deps.on_answer = [](const std::vector<v1::MaintenanceEvent>&) {};
    deps.on_change = [this](const std::vector<v1::MaintenanceEvent>& events) {
      absl::MutexLock lock(&mutex_);
      std::vector<std::string> words;
      for (const v1::MaintenanceEvent& event : events) {
        words.push_back(event.id() + " " + event.type() + " " + event.status());
      }
      changes_.push_back(words);
    };
    return std::make_unique<ScheduledEventsPoller>(options, std::move(deps));
  }
  // The next change.
  std::vector<std::string> Next() {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !changes_.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20))) return {"nothing"};
    std::vector<std::string> next = changes_.front();
    changes_.pop_front();
    return next;
  }
  bool NoMore() {
    absl::MutexLock lock(&mutex_);
    return changes_.empty();
  }

  FakeMetadataService service_;
  absl::Mutex mutex_;
  std::deque<std::vector<std::string>> changes_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(ScheduledEventsPollerTest, TellsEachChangeOnce) {
  const auto poller = Poll();
  EXPECT_THAT(Next(), IsEmpty());
  for (const char* type : {"Freeze", "Reboot", "Redeploy", "Preempt", "Terminate"}) {
    service_.Announce("e1", type);
    EXPECT_THAT(Next(), ElementsAre(std::string("e1 ") + type + " Scheduled"));
    service_.Announce("e1", type, "Started", "");
    EXPECT_THAT(Next(), ElementsAre(std::string("e1 ") + type + " Started"));
    service_.Withdraw("e1");
    EXPECT_THAT(Next(), IsEmpty());
  }
  service_.WaitForCalls(5);
  EXPECT_TRUE(NoMore());
}

TEST_F(ScheduledEventsPollerTest, ASlowFirstCallIsWaitedFor) {
  service_.Hold(true);
  service_.Announce("e1", "Preempt");
  const auto poller = Poll("vm-7");
  ASSERT_TRUE(testing::WaitUntil([&] { return service_.calls() > 0; }, absl::Seconds(20)));
  service_.Hold(false);
  EXPECT_THAT(Next(), ElementsAre("e1 Preempt Scheduled"));
}

TEST_F(ScheduledEventsPollerTest, ACallUnderWayEndsWithThePoller) {
  service_.Hold(true);
  auto poller = Poll();
  ASSERT_TRUE(testing::WaitUntil([&] { return service_.calls() > 0; }, absl::Seconds(20)));
  const absl::Duration start = base::SystemClock().Monotonic();
  poller.reset();
  EXPECT_LT(base::SystemClock().Monotonic() - start, absl::Seconds(10));
}

TEST_F(ScheduledEventsPollerTest, WhatIsKnownOutlivesFailures) {
  service_.Announce("e1", "Reboot");
  const auto poller = Poll();
  EXPECT_THAT(Next(), ElementsAre("e1 Reboot Scheduled"));
  for (const auto& [status, body] :
       std::vector<std::pair<int, std::string>>{{500, "oops"},
                                                {410, "gone"},
                                                {429, "slow down"},
                                                {200, "<html>a proxy</html>"},
                                                {200, "{\"Events\": 3}"},
                                                {200, std::string(1 << 20, ' ')},
                                                {404, ""}}) {
    service_.Answer(status, body);
    service_.WaitForCalls(3);
    EXPECT_TRUE(NoMore()) << status << body.substr(0, 20);
  }
  service_.Withdraw("e1");
  service_.Answer(200, "");
  EXPECT_THAT(Next(), IsEmpty());
}

TEST_F(ScheduledEventsPollerTest, ApprovesWhatIsAnnouncedUntilItIsAccepted) {
  service_.Announce("e1", "Reboot");
  service_.Announce("e2", "Redeploy", "Started");
  const auto poller = Poll();
  Next();
  service_.Answer(500, "");
  poller->Approve("e1");
  poller->Approve("e2");
  poller->Approve("nobody knows it");
  service_.WaitForCalls(4);
  EXPECT_THAT(service_.approvals(), IsEmpty());
  service_.Answer(200, "");
  EXPECT_TRUE(testing::WaitUntil([&] { return !service_.approvals().empty(); }, absl::Seconds(20)));
  service_.WaitForCalls(4);
  EXPECT_THAT(service_.approvals(), ElementsAre(R"({"StartRequests":[{"EventId":"e1"}]})"));
}

TEST(ScheduledEventsUrlTest, AzuresMachinesAreKnownByTheirTag) {
  testing::TemporaryFolder folder;
  const std::string tag = folder.path() / "chassis_asset_tag";
  EXPECT_EQ(ScheduledEventsUrl("", tag), "");
  WriteText(tag, "No Asset Tag\n");
  EXPECT_EQ(ScheduledEventsUrl("", tag), "");
  EXPECT_EQ(ScheduledEventsUrl("http://127.0.0.1:80", tag), "http://127.0.0.1:80");
  WriteText(tag, "7783-7084-3265-9085-8269-3286-77\n");
  EXPECT_EQ(ScheduledEventsUrl("", tag), "http://169.254.169.254");
  EXPECT_EQ(ScheduledEventsUrl("off", tag), "");
  for (const char* wrong : {"", "https://a", "http://", "http://a/b", "http://a:b", "a:80"}) {
    EXPECT_FALSE(ScheduledEventsPoller::CheckUrl(wrong).ok()) << wrong;
  }
  EXPECT_TRUE(ScheduledEventsPoller::CheckUrl("http://169.254.169.254").ok());
}

}  // namespace
}  // namespace muster::worker
