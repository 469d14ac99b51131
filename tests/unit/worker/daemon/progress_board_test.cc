#include "worker/daemon/progress_board.h"

#include <gtest/gtest.h>

namespace muster::worker {
namespace {

// What a heartbeat tells of the rank after this.
v1::RankProgress Told(v1::TrainProgress::Phase phase, int64_t done, int64_t total) {
  internal::TrainerReport report;
  report.set_job("jobs/a");
  report.set_generation(3);
  report.set_rank(1);
  v1::TrainProgress* progress = report.mutable_step()->mutable_progress();
  progress->set_phase(phase);
  progress->set_step(40);
  progress->set_eval_images(done);
  progress->set_eval_images_total(total);
  ProgressBoard board;
  board.Update(report);
  v1::Heartbeat heartbeat;
  board.Fill(&heartbeat);
  EXPECT_EQ(heartbeat.jobs_size(), 0) << "of rank 0 only";
  return heartbeat.ranks_size() == 1 ? heartbeat.ranks(0) : v1::RankProgress();
}

TEST(ProgressBoardTest, EveryRankTellsWhatItHasLeftOfAnEvaluation) {
  const v1::RankProgress evaluating = Told(v1::TrainProgress::PHASE_EVALUATING, 8, 24);
  EXPECT_EQ(evaluating.phase(), v1::TrainProgress::PHASE_EVALUATING);
  EXPECT_EQ(evaluating.step(), 40);
  EXPECT_EQ(evaluating.eval_images_left(), 16);
  EXPECT_EQ(Told(v1::TrainProgress::PHASE_EVALUATING, 24, 24).eval_images_left(), 0);
  EXPECT_EQ(Told(v1::TrainProgress::PHASE_TRAINING, 0, 0).eval_images_left(), 0);
}

}  // namespace
}  // namespace muster::worker
