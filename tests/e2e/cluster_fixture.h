#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"

#include "tests/support/local_cluster.h"

namespace muster {

using testing::Finished;
using testing::LocalCluster;

inline constexpr absl::Duration kJobTimeout = absl::Minutes(5);
// Epochs of a job that is interrupted: it must not be over by the time that its progress is seen,
// with the next heartbeat.
inline constexpr int kLongEnough = 5;

class ClusterTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    data_ = new testing::TemporaryFolder;
    const Finished made =
        testing::Run({testing::ProgramFolder() / "muster-trainer", "make-shapes", "--output",
                      data_->path() / "shapes", "--train", "24", "--val", "6", "--seed", "3"},
                     absl::Minutes(1));
    ASSERT_EQ(made.exit_code, 0) << made.output;
  }
  static void TearDownTestSuite() { delete data_; }

  static LocalCluster::Options Options(int workers = 2) {
    LocalCluster::Options options;
    options.workers = workers;
    options.data_root = data_->path();
    return options;
  }

  // The demo's model on the small set: 6 steps an epoch.
  static std::vector<std::string> SubmitArguments(int epochs, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {
        "submit", testing::SourceFolder() / "configs/quick/demo.textproto",
        "--set",  absl::StrCat("schedule.epochs=", epochs),
        "--set",  "schedule.step_epochs=[]",
        "--set",  "schedule.warmup_steps=4",
        "--set",  "evaluation.every_epochs=1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  static std::string Submit(const LocalCluster& cluster, int epochs,
                            std::vector<std::string> more = {}) {
    const Finished submitted = cluster.Muster(SubmitArguments(epochs, std::move(more)));
    EXPECT_EQ(submitted.exit_code, 0) << submitted.output;
    const std::string name(absl::StripAsciiWhitespace(submitted.output));
    EXPECT_THAT(name, ::testing::MatchesRegex("jobs/[a-z0-9-]+"));
    return name;
  }

  static bool IsPast(const v1::Job& job, int64_t step) {
    return job.state() == v1::Job::STATE_RUNNING && job.progress().step() >= step;
  }

  // The running job once it is past a step and has a checkpoint to come back to.
  static void AwaitCheckpoint(const LocalCluster& cluster, const std::string& name) {
    const v1::Job running = cluster.WaitForJob(
        name,
        [](const v1::Job& job) { return job.newest_checkpoint().epoch() >= 1 && IsPast(job, 7); },
        kJobTimeout);
    ASSERT_TRUE(IsPast(running, 7)) << running.DebugString();
  }

  // Both trainers of the job once it is past a step.
  static std::vector<pid_t> AwaitTrainers(const LocalCluster& cluster, const std::string& name) {
    const v1::Job running = cluster.WaitForJob(
        name, [](const v1::Job& job) { return IsPast(job, 3); }, kJobTimeout);
    EXPECT_TRUE(IsPast(running, 3)) << running.DebugString();
    const std::vector<pid_t> trainers = cluster.AllTrainers();
    EXPECT_EQ(trainers.size(), 2u);
    return trainers;
  }

  static void ExpectFinished(const v1::Job& job, int epochs) {
    EXPECT_EQ(job.state(), v1::Job::STATE_SUCCEEDED) << job.DebugString();
    EXPECT_EQ(job.progress().epoch(), epochs);
    EXPECT_EQ(job.progress().step(), job.progress().total_steps());
    std::set<int> evaluated;
    for (const v1::EvalResult& result : job.evaluations()) evaluated.insert(result.epoch());
    EXPECT_EQ(evaluated.size(), static_cast<size_t>(epochs));
  }

  static inline testing::TemporaryFolder* data_ = nullptr;
};

}  // namespace muster
