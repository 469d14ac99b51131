#include "worker/daemon/job_pruner.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"

#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/fixtures.h"

namespace muster::worker {
namespace {

using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using v1::Job;

constexpr absl::Duration kDay = absl::Hours(24);

class JobPrunerTest : public ::testing::Test {
 protected:
  JobPrunerTest() : state_(*StateFolder::Open(folder_.path() / "state")) {}

  static v1::Allocation Allocation(const std::string& job, int64_t generation,
                                   const std::string& uid = "0123456789abcdef") {
    v1::Allocation allocation;
    allocation.set_job("jobs/" + job);
    allocation.set_job_uid(uid);
    allocation.set_generation(generation);
    return allocation;
  }
  std::filesystem::path Folder(const v1::Allocation& allocation) const {
    return state_.OutputFolder(allocation).parent_path();
  }
  // A job's checkpoint of so many bytes and one rank's log, all last written so long ago.
  std::filesystem::path MakeJob(const v1::Allocation& allocation, absl::Duration age,
                                size_t bytes = 1000) {
    WriteText(state_.OutputFolder(allocation) / "epoch_1.pth", std::string(bytes, 'x'));
    WriteText(state_.RankFolder(allocation, 0) / "stderr.log", "log\n");
    const std::filesystem::path folder = Folder(allocation);
    SetAge(folder, age);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      SetAge(entry.path(), age);
    }
    return folder;
  }
  void SetAge(const std::filesystem::path& path, absl::Duration age) {
    const timespec time = absl::ToTimespec(clock_.Now() - age);
    const timespec times[] = {time, time};
    ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  }
  // What the coordinator says of it; without this it knows no such job.
  void Know(const std::string& job, Job::State state, const std::string& uid = "0123456789abcdef") {
    Job& known = known_["jobs/" + job];
    known.set_uid(uid);
    known.set_state(state);
  }
  JobPruner::Deps Deps() {
    JobPruner::Deps deps;
    deps.state = &state_;
    deps.clock = &clock_;
    deps.held = [this] { return held_; };
    deps.find_job = [this](const std::string& job) -> absl::StatusOr<std::optional<Job>> {
      asked_.insert(job);
      if (!reachable_) return absl::UnavailableError("no coordinator");
      const auto found = known_.find(job);
      return found == known_.end() ? std::nullopt : std::optional<Job>(found->second);
    };
    return deps;
  }
  void Prune(JobPruner::Options options = {}) { JobPruner(options, Deps()).Prune(); }
  std::set<std::string> Left() const {
    std::set<std::string> left;
    for (const StateFolder::JobFolder& folder : state_.ListJobs()) left.insert(folder.job);
    return left;
  }

  testing::TemporaryFolder folder_;
  base::SystemClock clock_;
  StateFolder state_;
  std::set<std::string> held_;
  std::map<std::string, Job> known_;
  std::set<std::string> asked_;
  bool reachable_ = true;
};

TEST_F(JobPrunerTest, OldJobsThatHaveEndedGo) {
  for (const char* job : {"done", "failed", "cancelled", "forgotten"}) {
    MakeJob(Allocation(job, 1), 31 * kDay);
  }
  MakeJob(Allocation("young", 1), 29 * kDay);
  Know("done", Job::STATE_SUCCEEDED);
  Know("failed", Job::STATE_FAILED);
  Know("cancelled", Job::STATE_CANCELLED);
  Know("young", Job::STATE_SUCCEEDED);
  ::testing::internal::CaptureStderr();
  Prune();
  EXPECT_THAT(
      ::testing::internal::GetCapturedStderr(),
      ::testing::AllOf(::testing::HasSubstr("removed the files of a job that ended"),
                       ::testing::HasSubstr("jobs/forgotten"), ::testing::HasSubstr("bytes=1004")));
  EXPECT_THAT(Left(), UnorderedElementsAre("jobs/young"));
  EXPECT_FALSE(std::filesystem::exists(state_.path() / "trash" / "x"));
  EXPECT_TRUE(std::filesystem::is_empty(state_.path() / "trash"));
}

TEST_F(JobPrunerTest, JobsThatMayGoOnStayHoweverOld) {
  for (const auto& [job, state] :
       std::map<std::string, Job::State>{{"queued", Job::STATE_QUEUED},
                                         {"starting", Job::STATE_STARTING},
                                         {"running", Job::STATE_RUNNING},
                                         {"restarting", Job::STATE_RESTARTING},
                                         {"cancelling", Job::STATE_CANCELLING},
                                         // Of a newer coordinator.
                                         {"newstate", static_cast<Job::State>(99)}}) {
    MakeJob(Allocation(job, 1), 400 * kDay);
    Know(job, state);
  }
  // The coordinator knows nothing of these, but they are here.
  MakeJob(Allocation("held", 1), 400 * kDay);
  held_ = {"jobs/held"};
  MakeJob(Allocation("recorded", 1), 400 * kDay);
  ASSERT_TRUE(state_.WriteRecord(Allocation("recorded", 1)).ok());
  SetAge(Folder(Allocation("recorded", 1)), 400 * kDay);
  JobPruner::Options options;
  options.keep_bytes = 1;
  Prune(options);
  EXPECT_EQ(Left().size(), 8u);
}

TEST_F(JobPrunerTest, WithoutTheCoordinatorsWordNothingGoes) {
  MakeJob(Allocation("a", 1), 400 * kDay);
  reachable_ = false;
  Prune();
  EXPECT_THAT(Left(), UnorderedElementsAre("jobs/a"));
  EXPECT_THAT(asked_, UnorderedElementsAre("jobs/a"));
}

TEST_F(JobPrunerTest, NobodyIsAskedForWhatStaysAnyway) {
  MakeJob(Allocation("a", 1), kDay);
  Prune();
  EXPECT_THAT(asked_, IsEmpty());
}

TEST_F(JobPrunerTest, NameThatAnotherJobHasNow) {
  MakeJob(Allocation("a", 1, "11111111-old"), 31 * kDay);
  MakeJob(Allocation("a", 1, "22222222-new"), 31 * kDay);
  Know("a", Job::STATE_RUNNING, "22222222-new");
  Prune();
  ASSERT_EQ(state_.ListJobs().size(), 1u);
  EXPECT_EQ(state_.ListJobs()[0].uid, "22222222");
}

TEST_F(JobPrunerTest, OldestGoFirstWhileThereIsTooMuch) {
  for (int i = 1; i <= 4; ++i) {
    const std::string job = absl::StrCat("j", i);
    MakeJob(Allocation(job, 1), i * kDay, 1000);
    Know(job, Job::STATE_SUCCEEDED);
  }
  MakeJob(Allocation("justnow", 1), absl::Minutes(10), 5000);
  MakeJob(Allocation("runs", 1), 9 * kDay, 5000);
  Know("runs", Job::STATE_RUNNING);
  held_ = {"jobs/runs"};
  JobPruner::Options options;
  // What runs does not count; of what has ended 9,020 bytes are there.
  options.keep_bytes = 7100;
  Prune(options);
  EXPECT_THAT(Left(), UnorderedElementsAre("jobs/j1", "jobs/j2", "jobs/justnow", "jobs/runs"));
}

TEST_F(JobPrunerTest, LogsOfOldGenerationsGoAlsoWhileTheJobRuns) {
  for (int64_t generation = 1; generation <= 30; ++generation) {
    MakeJob(Allocation("a", generation), absl::ZeroDuration());
  }
  // Still ends.
  ASSERT_TRUE(state_.WriteRecord(Allocation("a", 3)).ok());
  held_ = {"jobs/a"};
  Know("a", Job::STATE_RUNNING);
  JobPruner::Options options;
  options.keep_generations = 5;
  Prune(options);
  ASSERT_EQ(state_.ListJobs().size(), 1u);
  EXPECT_THAT(state_.ListJobs()[0].generations, ::testing::ElementsAre(3, 26, 27, 28, 29, 30));
  EXPECT_TRUE(std::filesystem::exists(state_.OutputFolder(Allocation("a", 1)) / "epoch_1.pth"));
}

TEST_F(JobPrunerTest, WhatAKilledDaemonLeftInTheTrashGoes) {
  WriteText(state_.path() / "trash" / "00ff" / "output" / "epoch_1.pth", "x");
  Prune();
  EXPECT_FALSE(std::filesystem::exists(state_.path() / "trash"));
}

TEST_F(JobPrunerTest, OtherFilesStay) {
  WriteText(state_.path() / "jobs" / "notes.txt", "mine");
  WriteText(state_.path() / "jobs" / "nodash" / "x", "mine");
  JobPruner::Options options;
  options.keep_for = absl::Nanoseconds(1);
  Prune(options);
  EXPECT_TRUE(std::filesystem::exists(state_.path() / "jobs" / "notes.txt"));
  EXPECT_TRUE(std::filesystem::exists(state_.path() / "jobs" / "nodash" / "x"));
}

TEST_F(JobPrunerTest, RunsByItself) {
  absl::Notification asked;
  JobPruner::Deps deps = Deps();
  deps.held = [&] {
    if (!asked.HasBeenNotified()) asked.Notify();
    return std::set<std::string>();
  };
  JobPruner::Options options;
  options.interval = absl::Milliseconds(1);
  JobPruner pruner(options, deps);
  pruner.Start();
  EXPECT_TRUE(asked.WaitForNotificationWithTimeout(absl::Seconds(20)));
}

}  // namespace
}  // namespace muster::worker
