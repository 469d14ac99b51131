#include "coordinator/core/hang_attribution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <string>

namespace muster::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using v1::CollectiveRecord;

// One rank a node: rank 0 on nodes/a, rank 1 on nodes/b, ...
class HangAttributionTest : public ::testing::Test {
 protected:
  HangAttributionTest() { evidence_.stalled = absl::Seconds(16); }

  // In state S, before its first collective.
  v1::RankDiagnosis* AddRank() {
    HangEvidence::Rank rank;
    rank.rank = static_cast<int>(evidence_.ranks.size());
    rank.node = std::string("nodes/") + static_cast<char>('a' + rank.rank);
    v1::RankDiagnosis& diagnosis = diagnoses_.emplace_back();
    diagnosis.set_rank(rank.rank);
    diagnosis.set_process_state("S");
    rank.diagnosis = &diagnosis;
    evidence_.ranks.push_back(rank);
    return &diagnosis;
  }
  // It has completed the collectives up to `sequence`.
  static void Done(v1::RankDiagnosis* rank, const std::string& group, int64_t sequence) {
    for (int64_t i = sequence - 1; i <= sequence; ++i) {
      Add(rank, group, i, CollectiveRecord::STATE_COMPLETED);
    }
  }
  static void Waits(v1::RankDiagnosis* rank, const std::string& group, int64_t sequence) {
    Done(rank, group, sequence - 1);
    Add(rank, group, sequence, CollectiveRecord::STATE_SCHEDULED);
  }
  static void Add(v1::RankDiagnosis* rank, const std::string& group, int64_t sequence,
                  CollectiveRecord::State state) {
    CollectiveRecord* record = rank->add_collectives();
    record->set_group(group);
    record->set_sequence(sequence);
    record->set_operation(group == "sync_bn" ? "all_gather" : "all_reduce");
    record->set_state(state);
  }
  HangVerdict Verdict() const { return AttributeHang(evidence_); }

  HangEvidence evidence_;
  std::deque<v1::RankDiagnosis> diagnoses_;
};

TEST_F(HangAttributionTest, AStoppedProcessIsNamedWithThoseThatWaitForIt) {
  Waits(AddRank(), "sync_bn", 4711);
  v1::RankDiagnosis* stopped = AddRank();
  stopped->set_process_state("T");
  stopped->set_stack("thread 7 (muster-trainer)\n  #0 muster::ops::RoiAlign(float)\n");
  Waits(AddRank(), "sync_bn", 4711);
  const HangVerdict verdict = Verdict();
  EXPECT_EQ(verdict.message,
            "rank 1 on nodes/b made no step for 16 s: its process is stopped (state T); ranks 0, 2 "
            "wait for it in sync_bn all_gather 4711");
  EXPECT_EQ(verdict.cause, HangCause::kProcess);
  EXPECT_EQ(verdict.rank, 1);
  EXPECT_EQ(verdict.node, "nodes/b");
  EXPECT_TRUE(verdict.blames_node);
  EXPECT_THAT(verdict.stack,
              ElementsAre("thread 7 (muster-trainer)", "  #0 muster::ops::RoiAlign(float)"));
}

TEST_F(HangAttributionTest, AProcessThatIsGoneIsNamed) {
  Waits(AddRank(), "sync_bn", 3);
  AddRank()->set_process_state("");
  EXPECT_THAT(Verdict().message, HasSubstr("rank 1 on nodes/b"));
  EXPECT_THAT(Verdict().message, HasSubstr("its process is gone; rank 0 waits for it"));
  EXPECT_EQ(Verdict().cause, HangCause::kProcess);
}

TEST_F(HangAttributionTest, ABrokenLinkIsNamedNotTheRankThatLagsForIt) {
  Waits(AddRank(), "sync_bn", 9);
  Waits(AddRank(), "sync_bn", 9);
  Waits(AddRank(), "sync_bn", 8);
  evidence_.unreachable = {{"nodes/c", "nodes/a", "connection timed out"},
                           {"nodes/a", "nodes/c", "connection timed out"}};
  const HangVerdict verdict = Verdict();
  EXPECT_EQ(verdict.message,
            "no rank made a step for 16 s: link nodes/a - nodes/c: connection timed out; rank 2 "
            "waits in sync_bn all_gather 8; ranks 0, 1 wait in sync_bn all_gather 9");
  EXPECT_EQ(verdict.cause, HangCause::kLink);
  EXPECT_EQ(verdict.rank, -1);
  EXPECT_EQ(verdict.node, "");
  EXPECT_FALSE(verdict.blames_node);
}

TEST_F(HangAttributionTest, ANodeThatNobodyReachesIsNamed) {
  for (int i = 0; i < 4; ++i) Waits(AddRank(), "control", 5);
  for (const char* from : {"nodes/a", "nodes/b", "nodes/d"}) {
    evidence_.unreachable.push_back({from, "nodes/c", "no route to host"});
  }
  const HangVerdict verdict = Verdict();
  EXPECT_THAT(verdict.message, HasSubstr("nodes/c and its peers (nodes/a, nodes/b, nodes/d) do not "
                                         "reach each other: no route to host"));
  EXPECT_EQ(verdict.node, "nodes/c");
  EXPECT_TRUE(verdict.blames_node);
}

TEST_F(HangAttributionTest, AStoppedProcessExplainsMoreThanALink) {
  Waits(AddRank(), "sync_bn", 9);
  AddRank()->set_process_state("T");
  evidence_.unreachable = {{"nodes/a", "nodes/b", "connection timed out"}};
  EXPECT_EQ(Verdict().cause, HangCause::kProcess);
}

TEST_F(HangAttributionTest, ARankStuckInTheKernelIsNamed) {
  Waits(AddRank(), "sync_bn", 9);
  AddRank()->set_process_state("D");
  EXPECT_THAT(Verdict().message, HasSubstr("rank 1 on nodes/b made no step for 16 s: its process "
                                           "is stuck in the kernel (state D); rank 0 waits"));
  EXPECT_EQ(Verdict().cause, HangCause::kProcess);
}

TEST_F(HangAttributionTest, ADataReadThatBlocksIsNamedByItsStack) {
  Waits(AddRank(), "sync_bn", 101);
  v1::RankDiagnosis* late = AddRank();
  Done(late, "sync_bn", 100);
  Done(late, "control", 7);
  late->set_stack(
      "thread 10 (muster-trainer)\n"
      "  #0 syscall+0x1d\n"
      "  #1 absl::lts_20220623::Mutex::Await(absl::lts_20220623::Condition const&)\n"
      "  #2 muster::data::DataLoader::Next()\n"
      "  #3 muster::train::Trainer::Step()\n"
      "thread 11 (loader)\n"
      "  #0 __GI___libc_open64\n"
      "  #1 muster::data::FolderImageSource::Read(absl::lts_20220623::string_view) const\n"
      "  #2 muster::data::DataLoader::Run()\n");
  const HangVerdict verdict = Verdict();
  EXPECT_EQ(
      verdict.message,
      "rank 1 on nodes/b made no step for 16 s: it waits for its data (open64 in "
      "muster::data::FolderImageSource::Read); rank 0 waits for it in sync_bn all_gather 101");
  EXPECT_EQ(verdict.cause, HangCause::kData);
  EXPECT_TRUE(verdict.blames_node);
}

TEST_F(HangAttributionTest, ARankThatHasNotComeToWhatOthersWaitForIsNamed) {
  Waits(AddRank(), "sync_bn", 101);
  v1::RankDiagnosis* late = AddRank();
  Done(late, "sync_bn", 100);
  late->set_process_state("R");
  late->set_stack("thread 10 (muster-trainer)\n  #0 muster::ops::AssignBoxes(int)\n");
  Waits(AddRank(), "sync_bn", 101);
  const HangVerdict verdict = Verdict();
  EXPECT_EQ(verdict.message,
            "rank 1 on nodes/b made no step for 16 s: it has not come to sync_bn all_gather 101, "
            "and computes (state R); it is in muster::ops::AssignBoxes; ranks 0, 2 wait for it in "
            "sync_bn all_gather 101");
  EXPECT_EQ(verdict.cause, HangCause::kBehind);
  EXPECT_FALSE(verdict.blames_node);
}

TEST_F(HangAttributionTest, ARankThatLagsBecauseItWaitsItselfIsNotTheCulprit) {
  // Rank 2 has left the broadcast, rank 1 still waits in it, for rank 0 that never sent it all.
  Done(AddRank(), "control", 6);
  Waits(AddRank(), "control", 7);
  Waits(AddRank(), "control", 8);
  EXPECT_EQ(Verdict().rank, 0);
}

TEST_F(HangAttributionTest, GradientsUnderWayDoNotHideALateRank) {
  v1::RankDiagnosis* ahead = AddRank();
  Waits(ahead, "sync_bn", 50);
  Waits(ahead, "gradients", 4);
  v1::RankDiagnosis* late = AddRank();
  Done(late, "sync_bn", 49);
  Waits(late, "gradients", 4);
  EXPECT_EQ(Verdict().rank, 1);
}

TEST_F(HangAttributionTest, SeveralLateRanksAreAllNamed) {
  Waits(AddRank(), "sync_bn", 101);
  Done(AddRank(), "sync_bn", 100);
  Done(AddRank(), "sync_bn", 100);
  const HangVerdict verdict = Verdict();
  EXPECT_EQ(
      verdict.message,
      "ranks 1, 2 made no step for 16 s: they have not come to sync_bn all_gather 101; rank 0 "
      "waits for them in sync_bn all_gather 101");
  EXPECT_EQ(verdict.rank, -1);
  EXPECT_FALSE(verdict.blames_node);
}

TEST_F(HangAttributionTest, TheOnlyRankThatIsSilentIsNamed) {
  Waits(AddRank(), "control", 5);
  AddRank();
  evidence_.ranks[1].diagnosis = nullptr;
  evidence_.ranks[1].unknown = "nodes/b did not answer";
  EXPECT_THAT(Verdict().message,
              HasSubstr("rank 1 on nodes/b made no step for 16 s: nothing was heard of it: nodes/b "
                        "did not answer; rank 0 waits for it in control all_reduce 5"));
  EXPECT_FALSE(Verdict().blames_node);
}

TEST_F(HangAttributionTest, WhereAllWaitInTheSameNobodyIsNamed) {
  for (int i = 0; i < 3; ++i) Waits(AddRank(), "sync_bn", 12);
  const HangVerdict verdict = Verdict();
  EXPECT_EQ(verdict.message,
            "no rank made a step for 16 s; ranks 0, 1, 2 wait in sync_bn all_gather 12; no culprit "
            "was found");
  EXPECT_EQ(verdict.cause, HangCause::kUnknown);
  EXPECT_EQ(verdict.rank, -1);
}

TEST_F(HangAttributionTest, WhatIsNotKnownIsSaid) {
  for (int i = 0; i < 2; ++i) {
    AddRank();
    evidence_.ranks[i].diagnosis = nullptr;
    evidence_.ranks[i].unknown = "too old";
  }
  EXPECT_THAT(Verdict().message,
              AllOf(HasSubstr("no culprit was found"),
                    HasSubstr("of ranks 0, 1 nothing is known: too old"), Not(HasSubstr("waits"))));
}

TEST_F(HangAttributionTest, ARankAloneIsItsOwnCulprit) {
  AddRank()->set_stack(
      "thread 1 (muster-trainer)\n  #0 read+0x3\n"
      "  #1 muster::data::ZipImageSource::Read()\n");
  EXPECT_THAT(Verdict().message,
              HasSubstr("rank 0 on nodes/a made no step for 16 s: it waits for "
                        "its data (read in muster::data::ZipImageSource::Read)"));
}

}  // namespace
}  // namespace muster::coordinator
