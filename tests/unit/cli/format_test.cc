#include "cli/format.h"

#include <gtest/gtest.h>

namespace muster::cli {
namespace {

TEST(FormatTest, Durations) {
  EXPECT_EQ(DurationText(absl::Milliseconds(900)), "0s");
  EXPECT_EQ(DurationText(absl::Seconds(59)), "59s");
  EXPECT_EQ(DurationText(absl::Seconds(192)), "3m 12s");
  EXPECT_EQ(DurationText(absl::Minutes(125)), "2h 05m");
  EXPECT_EQ(DurationText(absl::Hours(76)), "3d 04h");
  EXPECT_EQ(DurationText(absl::Seconds(-5)), "0s");
}

TEST(FormatTest, AgesCountFromNow) {
  google::protobuf::Timestamp time;
  EXPECT_EQ(AgeText(time, absl::FromUnixSeconds(100)), "-");
  time.set_seconds(40);
  EXPECT_EQ(AgeText(time, absl::FromUnixSeconds(100)), "1m 00s ago");
  EXPECT_EQ(AgeText(time, absl::FromUnixSeconds(40)), "just now");
}

TEST(FormatTest, BarsAndSparklines) {
  EXPECT_EQ(ProgressBar(0.5, 4), "██░░");
  EXPECT_EQ(ProgressBar(7, 2), "██");
  EXPECT_EQ(Sparkline({}), "");
  EXPECT_EQ(Sparkline({0, 0.5, 1}), "▁▅█");
  EXPECT_EQ(Sparkline({2, 2}), "▁▁");
}

TEST(FormatTest, TableColumnsAlignByCharactersNotBytes) {
  EXPECT_EQ(FormatTable({{"A", "B"}, {"▁▂", "x"}, {"long", "y"}}), "A     B\n▁▂    x\nlong  y\n");
}

TEST(FormatTest, JsonIsProto3Json) {
  v1::Job job;
  job.set_name("jobs/a");
  job.set_state(v1::Job::STATE_RUNNING);
  job.mutable_newest_checkpoint()->set_size_bytes(7);
  EXPECT_EQ(ToJson(job),
            R"({"name":"jobs/a","state":"STATE_RUNNING","newestCheckpoint":{"sizeBytes":"7"}})");
  EXPECT_EQ(StateName(job.state()), "RUNNING");
}

TEST(FormatTest, EmphasisOnlyInColor) {
  EXPECT_EQ(Emphasize("x", Emphasis::kRed, false), "x");
  EXPECT_EQ(Emphasize("x", Emphasis::kRed, true), "\033[31mx\033[0m");
}

}  // namespace
}  // namespace muster::cli
