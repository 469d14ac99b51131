// Which of the jobs that have ended are forgotten, and when.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kTick = absl::Milliseconds(250);

coordinator::ClusterState::Options Keep(size_t finished, absl::Duration duration) {
  coordinator::ClusterState::Options options;
  options.keep_finished = finished;
  options.keep_finished_for = duration;
  return options;
}

std::vector<std::string> Names(ClusterDriver* driver) {
  int64_t next = 0;
  std::vector<std::string> names;
  for (const v1::Job& job : driver->state().ListJobs(100, 0, {}, &next)) {
    names.push_back(job.name());
  }
  return names;
}

std::vector<int64_t> Events(ClusterDriver* driver, const std::string& parent) {
  bool more = false;
  std::vector<int64_t> sequences;
  for (const v1::JobEvent& event : driver->state().ListEvents(parent, 0, 100, &more)) {
    sequences.push_back(event.sequence());
  }
  return sequences;
}

TEST(RetentionTest, OfTooManyThoseThatEndedFirstGo) {
  ClusterDriver driver(Keep(2, absl::Hours(1)));
  for (int i = 0; i < 4; ++i) driver.Submit(absl::StrCat("j", i), 1);
  const std::string live = driver.Submit("live", 1);
  // Not in the order of submission.
  for (const int i : {2, 0, 3, 1}) {
    driver.Cancel(absl::StrCat("jobs/j", i));
    driver.Advance(kTick);
  }
  EXPECT_THAT(Names(&driver), ElementsAre(live, "jobs/j3", "jobs/j1"));
  EXPECT_EQ(driver.state().FindJob("jobs/j2"), nullptr);
  EXPECT_THAT(Events(&driver, "jobs/j2"), IsEmpty());
  EXPECT_FALSE(Events(&driver, "jobs/j3").empty());
  driver.Restart();
  EXPECT_THAT(Names(&driver), ElementsAre(live, "jobs/j3", "jobs/j1"));
  EXPECT_THAT(Events(&driver, "jobs/j2"), IsEmpty());
}

TEST(RetentionTest, OldOnesGoAndLiveOnesStay) {
  ClusterDriver driver(Keep(100, absl::Seconds(20)));
  const std::string live = driver.Submit("live", 1);
  const std::string first = driver.Submit("first", 1);
  driver.Cancel(first);
  driver.Advance(absl::Seconds(10));
  // A restart does not begin the time anew.
  driver.Restart();
  const std::string second = driver.Submit("second", 1);
  driver.Cancel(second);
  driver.Advance(absl::Seconds(11));
  EXPECT_THAT(Names(&driver), ElementsAre(second, live));
  driver.Advance(absl::Seconds(20));
  EXPECT_THAT(Names(&driver), ElementsAre(live));
}

TEST(RetentionTest, NameOfAForgottenJobIsFree) {
  ClusterDriver driver(Keep(0, absl::Hours(1)));
  const std::string name = driver.Submit("a", 1);
  driver.Cancel(name);
  driver.Advance(kTick);
  ASSERT_THAT(Names(&driver), IsEmpty());
  EXPECT_EQ(driver.Submit("a", 1), name);
  EXPECT_EQ(driver.job(name).state(), v1::Job::STATE_QUEUED);
  driver.Restart();
  EXPECT_THAT(Names(&driver), ElementsAre(name));
  EXPECT_EQ(Events(&driver, name).size(), 1u);
}

TEST(RetentionTest, ManyAreForgottenBitByBit) {
  ClusterDriver driver(Keep(0, absl::Hours(1)));
  for (int i = 0; i < 300; ++i) driver.Cancel(driver.Submit(absl::StrCat("j", i), 1));
  const coordinator::Effects first = driver.Apply(coordinator::TickCommand{});
  const coordinator::Effects second = driver.Apply(coordinator::TickCommand{});
  EXPECT_LT(first.writes.expired_jobs.size(), 300u);
  EXPECT_EQ(first.writes.expired_jobs.size() + second.writes.expired_jobs.size(), 300u);
  EXPECT_THAT(Names(&driver), IsEmpty());
}

}  // namespace
}  // namespace muster::testing
