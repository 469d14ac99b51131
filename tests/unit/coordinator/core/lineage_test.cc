#include "coordinator/core/lineage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "tests/support/cluster_driver.h"

namespace muster::coordinator {
namespace {

using ::testing::ElementsAre;
using testing::MakeCheckpoint;

class LineageTest : public ::testing::Test {
 protected:
  void Generation(int64_t generation, int64_t parent_generation, int64_t parent_step) {
    internal::GenerationRecord* entry = record_.add_generations();
    entry->set_generation(generation);
    entry->set_parent_generation(parent_generation);
    entry->set_parent_step(parent_step);
  }
  void Holds(int node_rank, const std::vector<v1::Checkpoint>& held) {
    internal::ShareRecord* share = record_.add_shares();
    share->set_node_rank(node_rank);
    share->add_ranks(2 * node_rank);
    share->add_ranks(2 * node_rank + 1);
    for (const v1::Checkpoint& checkpoint : held) {
      RegisterCheckpoint(checkpoint, absl::StrCat("n", node_rank), &record_);
      *share->mutable_status()->add_checkpoints() = checkpoint;
    }
  }
  internal::JobRecord record_;
};

TEST_F(LineageTest, NothingHeldStartsFresh) {
  Generation(1, 0, 0);
  Holds(0, {});
  EXPECT_FALSE(ChooseResume(record_).has_value());
  EXPECT_EQ(NewestCheckpoint(record_), nullptr);
}

TEST_F(LineageTest, HighestHeldStepWinsWithAllItsHolders) {
  Generation(1, 0, 0);
  Holds(0, {MakeCheckpoint("j", 1, 20), MakeCheckpoint("j", 1, 10)});
  Holds(1, {MakeCheckpoint("j", 1, 30), MakeCheckpoint("j", 1, 20)});
  Holds(2, {MakeCheckpoint("j", 1, 30)});
  const std::optional<ResumePoint> point = ChooseResume(record_);
  ASSERT_TRUE(point.has_value());
  EXPECT_EQ(point->checkpoint.step(), 30);
  EXPECT_THAT(point->holders, ElementsAre(2, 3, 4, 5));
}

TEST_F(LineageTest, RegisteredButAbsentCheckpointCannotBeResumedFrom) {
  Generation(1, 0, 0);
  RegisterCheckpoint(MakeCheckpoint("j", 1, 40), "n9", &record_);
  Holds(0, {MakeCheckpoint("j", 1, 20)});
  EXPECT_EQ(ChooseResume(record_)->checkpoint.step(), 20);
  EXPECT_EQ(NewestCheckpoint(record_)->step(), 40);
}

TEST_F(LineageTest, BranchThatWasGivenUpIsNotResumedFrom) {
  // Generation 1 reached step 50 on a node that was away when generation 2 resumed from 30.
  Generation(1, 0, 0);
  Generation(2, 1, 30);
  Holds(0, {MakeCheckpoint("j", 1, 50)});
  Holds(1, {MakeCheckpoint("j", 2, 40, 1, 30), MakeCheckpoint("j", 1, 30)});
  EXPECT_EQ(ChooseResume(record_)->checkpoint.generation(), 2);
  EXPECT_EQ(ChooseResume(record_)->checkpoint.step(), 40);
}

TEST_F(LineageTest, GenerationThatLeftNothingGivesNothingUp) {
  Generation(1, 0, 0);
  Generation(2, 1, 30);
  Holds(0, {MakeCheckpoint("j", 1, 50)});
  EXPECT_EQ(ChooseResume(record_)->checkpoint.step(), 50);
}

TEST_F(LineageTest, FalseParentsAreForeign) {
  Generation(1, 0, 0);
  Generation(2, 1, 30);
  EXPECT_EQ(RegisterCheckpoint(MakeCheckpoint("j", 2, 60, 1, 20), "n0", &record_),
            CheckpointNews::kForeign);
  EXPECT_EQ(RegisterCheckpoint(MakeCheckpoint("j", 5, 60), "n0", &record_),
            CheckpointNews::kForeign);
  EXPECT_EQ(record_.checkpoints_size(), 0);
}

TEST_F(LineageTest, DisagreeingDigestsRejectTheCheckpoint) {
  Generation(1, 0, 0);
  v1::Checkpoint other = MakeCheckpoint("j", 1, 30);
  other.set_digest("something else");
  Holds(0, {MakeCheckpoint("j", 1, 30), MakeCheckpoint("j", 1, 20)});
  EXPECT_EQ(RegisterCheckpoint(other, "n1", &record_), CheckpointNews::kDigestsDiffer);
  EXPECT_EQ(RegisterCheckpoint(other, "n1", &record_), CheckpointNews::kKnown);
  EXPECT_EQ(ChooseResume(record_)->checkpoint.step(), 20);
}

TEST_F(LineageTest, HoldersAreNotedAndForgotten) {
  Generation(1, 0, 0);
  const v1::Checkpoint thirty = MakeCheckpoint("j", 1, 30);
  const v1::Checkpoint forty = MakeCheckpoint("j", 1, 40);
  EXPECT_EQ(RegisterCheckpoint(thirty, "a", &record_), CheckpointNews::kNew);
  EXPECT_EQ(RegisterCheckpoint(thirty, "b", &record_), CheckpointNews::kNewHolder);
  EXPECT_EQ(RegisterCheckpoint(thirty, "b", &record_), CheckpointNews::kKnown);
  RegisterCheckpoint(forty, "b", &record_);
  EXPECT_THAT(record_.checkpoints(0).nodes(), ElementsAre("a", "b"));

  v1::AllocationStatus prepared;
  *prepared.add_checkpoints() = forty;
  EXPECT_TRUE(HoldsOnly("b", prepared, &record_));
  EXPECT_FALSE(HoldsOnly("b", prepared, &record_));
  EXPECT_THAT(record_.checkpoints(0).nodes(), ElementsAre("a"));
  EXPECT_THAT(record_.checkpoints(1).nodes(), ElementsAre("b"));
  EXPECT_TRUE(HoldsNoMore("a", thirty, &record_));
  EXPECT_FALSE(HoldsNoMore("a", forty, &record_));
  EXPECT_TRUE(record_.checkpoints(0).nodes().empty());
}

TEST_F(LineageTest, HoldersOfTheNewestTenAreKept) {
  Generation(1, 0, 0);
  for (int step = 1; step <= 15; ++step) {
    RegisterCheckpoint(MakeCheckpoint("j", 1, step), "a", &record_);
  }
  for (const internal::CheckpointRecord& entry : record_.checkpoints()) {
    EXPECT_EQ(entry.nodes_size(), entry.checkpoint().step() > 5 ? 1 : 0);
  }
}

TEST_F(LineageTest, KeepsTheNewestHundred) {
  Generation(1, 0, 0);
  for (int step = 1; step <= 150; ++step) {
    EXPECT_EQ(RegisterCheckpoint(MakeCheckpoint("j", 1, step), "n0", &record_),
              CheckpointNews::kNew);
  }
  EXPECT_EQ(record_.checkpoints_size(), 100);
  EXPECT_EQ(NewestCheckpoint(record_)->step(), 150);
}

}  // namespace
}  // namespace muster::coordinator
