#include "coordinator/core/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace muster::coordinator {
namespace {

using ::testing::ElementsAre;

TEST(PlacementTest, AllOrNothing) {
  const std::vector<NodeCapacity> nodes = {{"a", 2, 2}, {"b", 2, 1}};
  EXPECT_FALSE(PlaceGang({2, 2}, nodes, {}).has_value());
  EXPECT_THAT(*PlaceGang({2, 1}, nodes, {}), ElementsAre("a", "b"));
  EXPECT_FALSE(PlaceGang({1, 1}, {}, {}).has_value());
}

TEST(PlacementTest, SpreadsOverTheEmptiestNodes) {
  const std::vector<NodeCapacity> nodes = {{"a", 4, 1}, {"b", 4, 3}, {"c", 4, 4}};
  EXPECT_THAT(*PlaceGang({2, 1}, nodes, {}), ElementsAre("b", "c"));
}

TEST(PlacementTest, HoldersOfCheckpointsComeFirst) {
  const std::vector<NodeCapacity> nodes = {{"a", 4, 1}, {"b", 4, 3}, {"c", 4, 4}};
  EXPECT_THAT(*PlaceGang({2, 1}, nodes, {"a"}), ElementsAre("a", "c"));
}

TEST(PlacementTest, SaysWhatItWaitsFor) {
  EXPECT_EQ(WaitReason({1, 2}, {{"a", 2, 1}}), "waits for 1 node with 2 free slots; 0 of 1 ready");
  EXPECT_EQ(WaitReason({3, 1}, {{"a", 2, 1}, {"b", 2, 2}}),
            "waits for 3 nodes with 1 free slot each; 2 of 3 ready");
}

TEST(PlacementTest, FitsWhenEmptyLooksAtAllSlots) {
  EXPECT_TRUE(FitsWhenEmpty({1, 2}, {{"a", 2, 0}}));
  EXPECT_FALSE(FitsWhenEmpty({2, 2}, {{"a", 2, 2}}));
}

}  // namespace
}  // namespace muster::coordinator
