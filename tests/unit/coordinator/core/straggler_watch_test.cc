#include "coordinator/core/straggler_watch.h"

#include <gtest/gtest.h>

#include <vector>

namespace muster::coordinator {
namespace {

class StragglerWatchTest : public ::testing::Test {
 protected:
  // A report a second of each rank, for so long; all changes.
  std::vector<StragglerWatch::Change> Run(StragglerWatch* watch, const std::vector<double>& compute,
                                          absl::Duration time) {
    std::vector<StragglerWatch::Change> changes;
    for (absl::Duration passed; passed < time; passed += absl::Seconds(1)) {
      now_ += absl::Seconds(1);
      for (size_t rank = 0; rank < compute.size(); ++rank) {
        watch->Note(static_cast<int>(rank), compute[rank], 1.0 - compute[rank]);
      }
      for (const StragglerWatch::Change& change : watch->Judge(now_)) changes.push_back(change);
    }
    return changes;
  }

  absl::Duration now_ = absl::Seconds(1000);
};

TEST_F(StragglerWatchTest, ARankThatStaysSlowIsNamedOnceAndLaterCleared) {
  StragglerWatch watch(4);
  EXPECT_TRUE(Run(&watch, {0.4, 0.41, 0.39, 0.4}, absl::Seconds(60)).empty());
  const auto named = Run(&watch, {0.4, 0.41, 0.39, 0.6}, absl::Seconds(90));
  ASSERT_EQ(named.size(), 1u);
  EXPECT_EQ(named[0].rank, 3);
  EXPECT_TRUE(named[0].straggles);
  EXPECT_NEAR(watch.ranks()[3].score, 1.5, 0.01);
  EXPECT_NEAR(watch.ranks()[3].wait_seconds, 0.4, 0.01);
  EXPECT_NEAR(watch.ranks()[0].score, 1.0, 0.03);
  const auto cleared = Run(&watch, {0.4, 0.41, 0.39, 0.4}, absl::Seconds(90));
  ASSERT_EQ(cleared.size(), 1u);
  EXPECT_FALSE(cleared[0].straggles);
}

TEST_F(StragglerWatchTest, AShortDelayIsNoStraggler) {
  StragglerWatch watch(2);
  Run(&watch, {0.4, 0.4}, absl::Seconds(60));
  EXPECT_TRUE(Run(&watch, {0.4, 0.8}, absl::Seconds(20)).empty());
  EXPECT_TRUE(Run(&watch, {0.4, 0.4}, absl::Seconds(60)).empty());
}

TEST_F(StragglerWatchTest, OfTwoRanksTheFasterOneIsTheMeasure) {
  StragglerWatch watch(2);
  const auto named = Run(&watch, {0.4, 0.6}, absl::Seconds(60));
  ASSERT_EQ(named.size(), 1u);
  EXPECT_EQ(named[0].rank, 1);
  EXPECT_NEAR(watch.ranks()[1].score, 1.5, 0.01);
  EXPECT_EQ(watch.ranks()[0].score, 1.0);
}

TEST_F(StragglerWatchTest, NothingIsSaidBeforeAllRanksAreKnown) {
  StragglerWatch watch(3);
  watch.Note(0, 0.4, 0);
  watch.Note(2, 0.9, 0);
  EXPECT_TRUE(watch.Judge(now_).empty());
  EXPECT_EQ(watch.ranks()[2].score, 0);
  StragglerWatch alone(1);
  EXPECT_TRUE(Run(&alone, {5}, absl::Seconds(60)).empty());
  EXPECT_EQ(alone.ranks()[0].score, 0);
}

}  // namespace
}  // namespace muster::coordinator
