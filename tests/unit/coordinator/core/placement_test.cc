#include "coordinator/core/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "coordinator/core/node_pool.h"
#include "coordinator/core/reservation.h"

namespace muster::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct Spec {
  std::string name;
  int slots = 0;
  int free = 0;
};

NodePool Pool(const std::vector<Spec>& nodes) {
  NodePool pool;
  for (const Spec& spec : nodes) {
    const int index = pool.Index(spec.name);
    v1::Inventory inventory;
    inventory.set_slots(spec.slots);
    pool.Describe(index, inventory);
    pool.Set(index, true, spec.free);
  }
  return pool;
}

Gang MakeGang(int nodes, int ranks_per_node, int min_nodes = 0) {
  Gang gang;
  gang.nodes = gang.max_nodes = nodes;
  gang.min_nodes = min_nodes == 0 ? nodes : min_nodes;
  gang.ranks_per_node = ranks_per_node;
  return gang;
}

int AllFree(int, int free) { return free; }

std::vector<std::string> Choose(const Gang& gang, const NodePool& pool,
                                const std::set<int>& preferred = {}) {
  std::vector<std::string> names;
  for (int index : pool.Choose(gang, gang.nodes, preferred, AllFree)) {
    names.push_back(pool.node(index).name);
  }
  return names;
}

LiveJob Holding(int64_t sequence, int priority, absl::Duration end,
                std::vector<std::pair<int, int>> held) {
  LiveJob job;
  job.sequence = sequence;
  job.priority = priority;
  job.may_preempt = true;
  job.placed = absl::FromUnixSeconds(sequence);
  job.end = end;
  job.held = std::move(held);
  return job;
}

bool Nobody(int) { return false; }

TEST(PlacementTest, AllOrNothing) {
  const NodePool pool = Pool({{"a", 2, 2}, {"b", 2, 1}});
  EXPECT_THAT(Choose(MakeGang(2, 2), pool), IsEmpty());
  EXPECT_THAT(Choose(MakeGang(2, 1), pool), ElementsAre("a", "b"));
  EXPECT_THAT(Choose(MakeGang(1, 1), NodePool()), IsEmpty());
}

TEST(PlacementTest, TakesTheTightestNodesAndLeavesLargeOnesFree) {
  const NodePool pool = Pool({{"a", 4, 4}, {"b", 4, 3}, {"c", 8, 8}, {"d", 4, 1}});
  EXPECT_THAT(Choose(MakeGang(2, 1), pool), ElementsAre("b", "d"));
  EXPECT_THAT(Choose(MakeGang(1, 4), pool), ElementsAre("a"));
  EXPECT_THAT(Choose(MakeGang(1, 5), pool), ElementsAre("c"));
}

TEST(PlacementTest, HoldersOfCheckpointsComeFirst) {
  const NodePool pool = Pool({{"a", 4, 4}, {"b", 4, 1}, {"c", 4, 3}});
  EXPECT_THAT(Choose(MakeGang(2, 1), pool, {0}), ElementsAre("a", "b"));
}

TEST(PlacementTest, ElasticGangTakesWhatIsThere) {
  const NodePool pool = Pool({{"a", 1, 1}, {"b", 1, 1}, {"c", 1, 0}});
  EXPECT_THAT(Choose(MakeGang(3, 1, 2), pool), ElementsAre("a", "b"));
  EXPECT_THAT(Choose(MakeGang(4, 1, 3), pool), IsEmpty());
}

TEST(PlacementTest, LabelsAndGpuTypesAreKept) {
  NodePool pool = Pool({{"a", 1, 1}, {"b", 1, 1}});
  v1::Inventory inventory;
  inventory.set_slots(1);
  (*inventory.mutable_labels())["zone"] = "east";
  inventory.add_gpus()->set_type("A100");
  pool.Describe(1, inventory);
  Gang gang = MakeGang(1, 1);
  gang.labels["zone"] = "east";
  EXPECT_THAT(Choose(gang, pool), ElementsAre("b"));
  gang.gpu_types = {"A100", "H100"};
  EXPECT_THAT(Choose(gang, pool), ElementsAre("b"));
  gang.gpu_types = {"H100"};
  EXPECT_THAT(Choose(gang, pool), IsEmpty());
  EXPECT_FALSE(pool.FitsWhenEmpty(gang));
  EXPECT_EQ(WaitReason(gang, 0),
            "waits for 1 node with 1 free slot, label zone=east, GPUs of type H100; 0 of 1 ready");
}

TEST(PlacementTest, SaysWhatItWaitsFor) {
  EXPECT_EQ(WaitReason(MakeGang(1, 2), 0), "waits for 1 node with 2 free slots; 0 of 1 ready");
  EXPECT_EQ(WaitReason(MakeGang(3, 1), 2), "waits for 3 nodes with 1 free slot each; 2 of 3 ready");
}

TEST(PlacementTest, FitsWhenEmptyLooksAtAllSlotsOfUsableNodes) {
  NodePool pool = Pool({{"a", 2, 0}, {"b", 2, 2}});
  EXPECT_TRUE(pool.FitsWhenEmpty(MakeGang(2, 2)));
  pool.Set(1, false, 2);
  EXPECT_FALSE(pool.FitsWhenEmpty(MakeGang(2, 2)));
  EXPECT_THAT(Choose(MakeGang(1, 1), pool), IsEmpty()) << "placed on a node that is not usable";
}

TEST(PlacementTest, ReservationIsTheEarliestTimeThatFits) {
  const NodePool pool = Pool({{"a", 2, 0}, {"b", 2, 1}, {"c", 2, 0}});
  LiveJobs live;
  live.Put(Holding(1, 0, absl::Seconds(90), {{0, 2}}));
  live.Put(Holding(2, 0, absl::Seconds(50), {{1, 1}}));
  live.Put(Holding(3, 0, absl::Seconds(70), {{2, 2}}));
  const auto reservation = Reservation::Make(MakeGang(2, 2), pool, live, Nobody, absl::Seconds(10));
  ASSERT_TRUE(reservation.has_value());
  EXPECT_EQ(reservation->time(), absl::Seconds(70));
  EXPECT_GT(reservation->Spare(0), 2) << "a node that is not needed is kept";
  EXPECT_EQ(reservation->Spare(1), 0);
  EXPECT_EQ(reservation->Spare(2), 0);
}

TEST(PlacementTest, ReservationBehindAnUnknownEndHasNoTime) {
  const NodePool pool = Pool({{"a", 2, 0}});
  LiveJobs live;
  live.Put(Holding(1, 0, absl::InfiniteDuration(), {{0, 2}}));
  const auto reservation =
      Reservation::Make(MakeGang(1, 1), pool, live, Nobody, absl::ZeroDuration());
  ASSERT_TRUE(reservation.has_value());
  EXPECT_EQ(reservation->time(), absl::InfiniteDuration());
  EXPECT_EQ(reservation->Spare(0), 1);
  EXPECT_FALSE(
      Reservation::Make(MakeGang(2, 1), pool, live, Nobody, absl::ZeroDuration()).has_value());
}

TEST(PlacementTest, VictimsAreTheLowestYoungestAndFewest) {
  const NodePool pool = Pool({{"a", 2, 0}, {"b", 2, 0}});
  LiveJobs live;
  live.Put(Holding(1, 0, absl::InfiniteDuration(), {{0, 1}}));
  live.Put(Holding(2, 0, absl::InfiniteDuration(), {{0, 1}}));
  live.Put(Holding(3, 0, absl::InfiniteDuration(), {{1, 1}}));
  live.Put(Holding(4, 5, absl::InfiniteDuration(), {{1, 1}}));
  EXPECT_THAT(ChooseVictims(MakeGang(1, 1), 1, pool, live, Nobody), ElementsAre(3));
  EXPECT_THAT(ChooseVictims(MakeGang(1, 2), 1, pool, live, Nobody), ElementsAre(1, 2));
  EXPECT_THAT(ChooseVictims(MakeGang(2, 2), 1, pool, live, Nobody), IsEmpty())
      << "stopped for nothing";
  EXPECT_THAT(ChooseVictims(MakeGang(1, 1), 0, pool, live, Nobody), IsEmpty())
      << "equals are stopped";
  LiveJob stopping = Holding(3, 0, absl::Seconds(1), {{1, 1}});
  stopping.may_preempt = false;
  stopping.stopping = true;
  live.Put(stopping);
  EXPECT_THAT(ChooseVictims(MakeGang(1, 1), 1, pool, live, Nobody), IsEmpty())
      << "slots are on their way already";
}

}  // namespace
}  // namespace muster::coordinator
