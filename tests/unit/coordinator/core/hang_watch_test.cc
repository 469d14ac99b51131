#include "coordinator/core/hang_watch.h"

#include <gtest/gtest.h>

namespace muster::coordinator {
namespace {

using Progress = v1::TrainProgress;

constexpr absl::Duration kStart = absl::Seconds(1000);

class HangWatchTest : public ::testing::Test {
 protected:
  // Two ranks, heard once a second, that take so long for each of some steps.
  void Train(absl::Duration step_time, int steps) {
    for (int i = 0; i < steps; ++i) {
      const absl::Duration end = now_ + step_time;
      while (now_ + absl::Seconds(1) < end) {
        now_ += absl::Seconds(1);
        See(Progress::PHASE_TRAINING);
        EXPECT_FALSE(watch_.Overdue(now_)) << "step " << step_ << " of " << step_time;
      }
      now_ = end;
      watch_.Step(++step_, now_);
    }
  }
  // Both, an image each time.
  void Evaluate(absl::Duration image_time, int images, int64_t* left) {
    if (*left > 0) See(Progress::PHASE_EVALUATING);
    watch_.Evaluate(0, *left, now_);
    watch_.Evaluate(1, *left, now_);
    for (int i = 0; i < images; ++i) {
      now_ += image_time;
      EXPECT_FALSE(watch_.Overdue(now_)) << *left;
      --*left;
      watch_.Evaluate(0, *left, now_);
      watch_.Evaluate(1, *left, now_);
    }
  }
  void See(Progress::Phase phase) {
    watch_.See(0, phase);
    watch_.See(1, phase);
  }
  // How long the ranks may stand still from now on.
  absl::Duration TimeToOverdue() {
    absl::Duration waited;
    while (!watch_.Overdue(now_ + waited)) waited += absl::Milliseconds(250);
    return waited;
  }

  absl::Duration now_ = kStart;
  HangWatch watch_{kStart};
  int64_t step_ = 0;
};

TEST_F(HangWatchTest, LearnsTheLimitFromTheJobsOwnSteps) {
  See(Progress::PHASE_TRAINING);
  EXPECT_EQ(watch_.Limit(), HangWatch::kLongLimit);
  Train(absl::Milliseconds(500), 20);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
  // A job whose steps become slower is given more time.
  Train(absl::Seconds(4), 20);
  EXPECT_GE(TimeToOverdue(), absl::Seconds(36));
  EXPECT_LE(TimeToOverdue(), absl::Seconds(41));
}

TEST_F(HangWatchTest, SeveralStepsBetweenTwoHeartbeatsAreToldApart) {
  See(Progress::PHASE_TRAINING);
  for (int i = 0; i < 10; ++i) {
    now_ += absl::Seconds(3);
    watch_.Step(step_ += 10, now_);
  }
  // Four gaps of 3 s, not ten.
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
}

TEST_F(HangWatchTest, TheFirstStepMayTakeLong) {
  See(Progress::PHASE_LOADING);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kLongLimit);
  now_ += absl::Minutes(4);
  watch_.Step(++step_, now_);
  See(Progress::PHASE_TRAINING);
  // One long step says nothing of the others.
  Train(absl::Milliseconds(200), 5);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
}

TEST_F(HangWatchTest, ARankThatHasToldNothingIsNotWatched) {
  EXPECT_FALSE(watch_.Overdue(kStart + absl::Hours(24)));
}

TEST_F(HangWatchTest, StepsOfVaryingLengthAreNoHang) {
  See(Progress::PHASE_TRAINING);
  Train(absl::Seconds(1), 10);
  for (int i = 0; i < 20; ++i) {
    Train(absl::Milliseconds(300), 7);
    Train(absl::Seconds(9), 1);
  }
  EXPECT_GE(TimeToOverdue(), absl::Seconds(36));
}

TEST_F(HangWatchTest, ALongCheckpointIsRemembered) {
  See(Progress::PHASE_TRAINING);
  Train(absl::Milliseconds(500), 30);
  Train(absl::Seconds(12), 1);
  Train(absl::Milliseconds(500), 30);
  EXPECT_EQ(TimeToOverdue(), absl::Seconds(48));
  // But not for ever.
  Train(absl::Milliseconds(500), 100);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
}

TEST_F(HangWatchTest, LearnsAnEvaluationsLimitFromItsOwnPace) {
  See(Progress::PHASE_TRAINING);
  Train(absl::Seconds(8), 30);
  See(Progress::PHASE_EVALUATING);
  int64_t left = 1000;
  Evaluate(absl::Seconds(2), 1, &left);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kLongLimit) << "too little is known";
  Evaluate(absl::Seconds(2), 5, &left);
  // Whatever the steps took.
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
  Evaluate(absl::Seconds(7), 1, &left);
  EXPECT_EQ(TimeToOverdue(), absl::Seconds(28));
  // The next evaluation knows from its start.
  See(Progress::PHASE_TRAINING);
  Train(absl::Seconds(8), 5);
  See(Progress::PHASE_EVALUATING);
  left = 1000;
  Evaluate(absl::Milliseconds(1), 1, &left);
  EXPECT_EQ(TimeToOverdue(), absl::Seconds(28));
}

TEST_F(HangWatchTest, ARankThatEvaluatesForLongerThanOthersHasItsOwnPace) {
  See(Progress::PHASE_EVALUATING);
  watch_.Evaluate(0, 100, now_);
  watch_.Evaluate(1, 100, now_);
  // Rank 0 is soon done, and rank 1 has new images every 10 s only.
  for (int i = 1; i <= 10; ++i) watch_.Evaluate(0, 100 - 10 * i, now_ + absl::Seconds(i));
  for (int i = 1; i <= 4; ++i) {
    now_ += absl::Seconds(10);
    EXPECT_FALSE(watch_.Overdue(now_));
    watch_.Evaluate(1, 100 - i, now_);
  }
  EXPECT_EQ(TimeToOverdue(), absl::Seconds(40));
}

TEST_F(HangWatchTest, ScoringIsNotMeasuredByTheImages) {
  See(Progress::PHASE_EVALUATING);
  int64_t left = 10;
  Evaluate(absl::Seconds(1), 10, &left);
  ASSERT_EQ(left, 0);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kLongLimit);
  // Rank 0 alone is still at it, by an older trainer's count of images.
  left = 10;
  Evaluate(absl::Seconds(1), 9, &left);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
  watch_.See(1, Progress::PHASE_TRAINING);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kLongLimit);
}

TEST_F(HangWatchTest, TimeThatNobodyWatchedIsNoPaceOfAnEvaluation) {
  See(Progress::PHASE_EVALUATING);
  int64_t left = 100;
  Evaluate(absl::Seconds(1), 10, &left);
  now_ += absl::Minutes(10);
  watch_.Forgive(absl::Minutes(10));
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
  Evaluate(absl::Seconds(1), 1, &left);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
}

TEST_F(HangWatchTest, AnOlderWorkersEvaluationHasALongLimit) {
  See(Progress::PHASE_TRAINING);
  Train(absl::Milliseconds(500), 30);
  // One rank is enough: the others wait for it.
  watch_.See(0, Progress::PHASE_EVALUATING);
  now_ += absl::Minutes(4);
  EXPECT_FALSE(watch_.Overdue(now_));
  watch_.Move(now_);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kLongLimit);
  // And is no step.
  now_ += absl::Minutes(1);
  See(Progress::PHASE_TRAINING);
  watch_.Step(++step_, now_);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
}

TEST_F(HangWatchTest, AfterTheLastStepTheLastCheckpointIsWaitedFor) {
  See(Progress::PHASE_TRAINING);
  Train(absl::Milliseconds(500), 30);
  watch_.SetFinished(true);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kLongLimit);
}

TEST_F(HangWatchTest, TimeThatNobodyWatchedDoesNotCount) {
  See(Progress::PHASE_TRAINING);
  Train(absl::Milliseconds(500), 30);
  now_ += absl::Minutes(10);
  watch_.Forgive(absl::Minutes(10));
  EXPECT_FALSE(watch_.Overdue(now_));
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
  watch_.Step(++step_, now_);
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit) << "the pause is no step time";
}

TEST_F(HangWatchTest, AnOlderWorkerSaysNoPhase) {
  See(Progress::PHASE_UNSPECIFIED);
  for (int i = 0; i < 10; ++i) {
    now_ += absl::Seconds(1);
    See(Progress::PHASE_UNSPECIFIED);
    watch_.Step(++step_, now_);
  }
  EXPECT_EQ(TimeToOverdue(), HangWatch::kShortestLimit);
}

}  // namespace
}  // namespace muster::coordinator
