#include "common/base/timer_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "absl/synchronization/notification.h"

#include "tests/support/fake_clock.h"

namespace muster::base {
namespace {

using ::testing::ElementsAre;

TEST(ThreadTimerQueueTest, RunsInOrderOfDeadline) {
  SystemClock clock;
  ThreadTimerQueue timers(clock);
  std::vector<int> order;
  absl::Notification done;
  const absl::Duration now = clock.Monotonic();
  timers.RunAt(now + absl::Milliseconds(40), [&] {
    order.push_back(2);
    done.Notify();
  });
  timers.RunAt(now + absl::Milliseconds(10), [&] { order.push_back(1); });
  const TimerId cancelled = timers.RunAt(now + absl::Milliseconds(20), [&] { order.push_back(9); });
  EXPECT_TRUE(timers.Cancel(cancelled));
  EXPECT_FALSE(timers.Cancel(cancelled));
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_THAT(order, ElementsAre(1, 2));
  EXPECT_GE(clock.Monotonic() - now, absl::Milliseconds(40));
}

TEST(ThreadTimerQueueTest, AFunctionMaySetTimersAndTheEndDropsTheRest) {
  SystemClock clock;
  absl::Notification done;
  bool dropped = true;
  {
    ThreadTimerQueue timers(clock);
    timers.RunAt(clock.Monotonic(),
                 [&] { timers.RunAt(clock.Monotonic(), [&] { done.Notify(); }); });
    timers.RunAt(clock.Monotonic() + absl::Hours(1), [&] { dropped = false; });
    ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
  }
  EXPECT_TRUE(dropped);
}

TEST(FakeClockTest, AdvanceRunsWhatComesDue) {
  muster::testing::FakeClock clock;
  std::vector<int> order;
  clock.RunAt(absl::Seconds(2), [&] { order.push_back(2); });
  clock.RunAt(absl::Seconds(1), [&] {
    order.push_back(1);
    clock.RunAt(absl::Seconds(3), [&] { order.push_back(3); });
  });
  clock.Advance(absl::Milliseconds(1500));
  EXPECT_THAT(order, ElementsAre(1));
  clock.Advance(absl::Seconds(2));
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
  EXPECT_EQ(clock.Monotonic(), absl::Milliseconds(3500));
}

}  // namespace
}  // namespace muster::base
