#include "worker/dist/flight_record.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"

#include "tests/unit/worker/dist/rank_threads.h"

namespace muster::dist {
namespace {

using State = FlightRecord::State;

// Of a group. The ranks are threads of this process, so each collective is there once a rank.
std::vector<FlightRecord> RecordsOf(const std::string& group, size_t per_group = 1000) {
  const auto all = NewestCollectives(per_group);
  EXPECT_TRUE(all.ok()) << all.status();
  std::vector<FlightRecord> records;
  for (const FlightRecord& record : *all) {
    if (record.group == group) records.push_back(record);
  }
  return records;
}

// Polls: no event tells that another thread is inside a collective.
void Await(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    ASSERT_LT(absl::Now(), deadline);
    absl::SleepFor(absl::Milliseconds(5));
  }
}

TEST(FlightRecordTest, TellsWhatEachGroupDoes) {
  absl::Notification looked;
  testing::RunRanks(2, [&](ProcessGroups& groups) {
    Communicator& batch_norm = *groups.sync_batch_norm();
    for (int i = 0; i < 3; ++i) batch_norm.AllGather(at::ones({4}));
    groups.control()->AllReduceSum(at::ones({2}));
    if (groups.rank() == 1) {
      // Rank 0 waits for this rank in its fourth one.
      Await([] {
        const std::vector<FlightRecord> records = RecordsOf("sync_bn");
        return !records.empty() && records.back().sequence == 4;
      });
      const FlightRecord waits = RecordsOf("sync_bn").back();
      EXPECT_EQ(waits.operation, "broadcast");
      EXPECT_EQ(waits.state, State::kScheduled);
      looked.Notify();
    }
    at::Tensor value = at::ones({1});
    batch_norm.Broadcast(value, /*root=*/1);
    if (groups.rank() == 0) {
      EXPECT_TRUE(looked.HasBeenNotified());
    }
  });
  Await([] {
    for (const FlightRecord& record : RecordsOf("sync_bn")) {
      if (record.state != State::kCompleted) return false;
    }
    return true;
  });
  std::map<int64_t, int> ranks;
  for (const FlightRecord& record : RecordsOf("sync_bn")) {
    ++ranks[record.sequence];
    EXPECT_EQ(record.operation, record.sequence < 4 ? "all_gather" : "broadcast");
  }
  EXPECT_EQ(ranks, (std::map<int64_t, int>{{1, 2}, {2, 2}, {3, 2}, {4, 2}}));
  const std::vector<FlightRecord> control = RecordsOf("control");
  ASSERT_FALSE(control.empty());
  EXPECT_EQ(control.back().operation, "all_reduce");

  // The newest ones, oldest first.
  const std::vector<FlightRecord> newest = RecordsOf("sync_bn", 3);
  ASSERT_EQ(newest.size(), 3u);
  EXPECT_EQ(newest.front().sequence, 3);
  EXPECT_EQ(newest.back().sequence, 4);
}

TEST(FlightRecordTest, WaitsForOtherRanksAreTimed) {
  constexpr absl::Duration kLate = absl::Milliseconds(400);
  testing::RunRanks(2, [&](ProcessGroups& groups) {
    Communicator& control = *groups.control();
    control.Barrier();
    const absl::Duration before = control.waited();
    if (groups.rank() == 1) absl::SleepFor(kLate);
    control.Barrier();
    const absl::Duration waited = control.waited() - before;
    if (groups.rank() == 0) {
      EXPECT_GT(waited, kLate / 2);
    } else {
      EXPECT_LT(waited, kLate / 2);
    }
  });
}

}  // namespace
}  // namespace muster::dist
