#include "cli/job_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_join.h"

namespace muster::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

v1::Job RunningJob() {
  v1::Job job;
  job.set_name("jobs/a");
  job.set_state(v1::Job::STATE_RUNNING);
  job.set_generation(2);
  job.add_ranks()->set_node("nodes/w0");
  job.add_ranks()->set_node("nodes/w1");
  v1::TrainProgress& progress = *job.mutable_progress();
  progress.set_phase(v1::TrainProgress::PHASE_TRAINING);
  progress.set_step(45);
  progress.set_total_steps(90);
  progress.set_epoch(2);
  progress.set_total_epochs(4);
  (*progress.mutable_losses())["loss"] = 1.5;
  (*progress.mutable_losses())["loss_cls"] = 0.5;
  progress.set_learning_rate(0.005);
  progress.set_images_per_second(12.34);
  progress.mutable_eta()->set_seconds(192);
  v1::EvalResult& result = *job.add_evaluations();
  result.set_epoch(2);
  result.set_ap(0.25);
  result.set_ap50(0.5);
  return job;
}

TEST(JobViewTest, LiveViewShowsWhatADetectionTeamLooksFor) {
  const std::string view = absl::StrJoin(LiveView(RunningJob(), {}), "\n");
  EXPECT_THAT(view,
              AllOf(HasSubstr("jobs/a  RUNNING  generation 2  on w0, w1"), HasSubstr("epoch 3/4"),
                    HasSubstr("step 45/90"), HasSubstr(" 50 %"), HasSubstr("ETA 3m 12s"),
                    HasSubstr("12.3 images/s"), HasSubstr("loss 1.5000  cls 0.5000"),
                    HasSubstr("AP 0.250  AP50 0.500"), Not(HasSubstr("\033"))));
  EXPECT_THAT(absl::StrJoin(LiveView(RunningJob(), {.color = true}), "\n"), HasSubstr("\033[1m"));
}

TEST(JobViewTest, TheLastEpochIsNotCountedBeyond) {
  v1::Job job = RunningJob();
  job.mutable_progress()->set_epoch(4);
  EXPECT_THAT(ProgressLine(job), HasSubstr("epoch 4/4"));
}

TEST(JobViewTest, EvaluationIsToldWithItsProgress) {
  v1::Job job = RunningJob();
  job.mutable_progress()->set_phase(v1::TrainProgress::PHASE_EVALUATING);
  job.mutable_progress()->set_eval_images(3);
  job.mutable_progress()->set_eval_images_total(72);
  EXPECT_THAT(ProgressLine(job), HasSubstr("evaluating 3/72 images"));
}

TEST(JobViewTest, TablesHaveARowForEach) {
  EXPECT_THAT(JobTable({RunningJob()}, absl::UnixEpoch()),
              AllOf(HasSubstr("NAME"), HasSubstr("jobs/a  RUNNING  2/4    45/90  0.250")));
}

TEST(JobViewTest, FirstFailureNamesTheRankThatEnded) {
  v1::Job job = RunningJob();
  v1::RankFailure& failure = *job.mutable_first_failure();
  failure.set_rank(1);
  failure.set_node("nodes/w1");
  failure.set_generation(1);
  failure.set_signal(9);
  failure.set_message("killed by SIGKILL");
  EXPECT_THAT(Description(job, {}, absl::UnixEpoch(), {}),
              HasSubstr("First failure of generation 1: rank 1 on nodes/w1: killed by SIGKILL\n"));
  failure.clear_signal();
  failure.set_message("nodes/w1 has not prepared the job within 15 min");
  EXPECT_THAT(Description(job, {}, absl::UnixEpoch(), {}),
              HasSubstr("First failure of generation 1: nodes/w1 has not prepared the job within "
                        "15 min\n"));
}

TEST(JobViewTest, SaysWhatTakesTimeBeforeTheStart) {
  v1::Job job;
  job.set_state(v1::Job::STATE_STARTING);
  v1::RankPlacement* rank = job.add_ranks();
  rank->set_node("nodes/b");
  rank->set_phase("PREPARING");
  rank->set_detail("fetching step_120.pth from nodes/a: 40 of 312 MB");
  EXPECT_THAT(absl::StrJoin(LiveView(job, {}), "\n"),
              HasSubstr("nodes/b: fetching step_120.pth from nodes/a: 40 of 312 MB"));
  EXPECT_THAT(Description(job, {}, absl::UnixEpoch(), {}),
              HasSubstr("PREPARING: fetching step_120.pth from nodes/a: 40 of 312 MB"));
}

TEST(JobViewTest, ShowsWhatRanksWaitForOnceItIsKnown) {
  v1::Job job;
  for (int rank : {0, 1}) {
    v1::RankPlacement* placement = job.add_ranks();
    placement->set_rank(rank);
    placement->set_node(rank == 0 ? "nodes/a" : "nodes/b");
    placement->set_phase("RUNNING");
    placement->set_step(12);
  }
  EXPECT_THAT(Description(job, {}, absl::UnixEpoch(), {}), ::testing::Not(HasSubstr("SCORE")));
  job.mutable_ranks(0)->set_compute_seconds(0.4);
  job.mutable_ranks(0)->set_wait_seconds(0.21);
  job.mutable_ranks(0)->set_straggler_score(1);
  job.mutable_ranks(1)->set_compute_seconds(0.6);
  const std::string text = Description(job, {}, absl::UnixEpoch(), {});
  EXPECT_THAT(text, ::testing::ContainsRegex("WORKS +WAITS +SCORE"));
  EXPECT_THAT(text, ::testing::ContainsRegex("12 +0.400 s +0.210 s +1.00"));
  EXPECT_THAT(text, ::testing::ContainsRegex("12 +0.600 s +0.000 s +-"));
}

}  // namespace
}  // namespace muster::cli
