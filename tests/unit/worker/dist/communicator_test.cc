#include "worker/dist/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <latch>
#include <map>
#include <string>
#include <vector>

#include "tests/unit/worker/dist/rank_threads.h"

namespace muster::dist {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SoleCommunicator, LeavesEverythingAsItIs) {
  const auto sole = MakeSoleCommunicator();
  EXPECT_EQ(sole->rank(), 0);
  EXPECT_EQ(sole->size(), 1);
  const at::Tensor local = at::arange(6, at::kDouble).view({2, 3});
  EXPECT_TRUE(sole->AllGather(local).equal(local.view({1, 2, 3})));
  at::Tensor sum = local.clone();
  sole->AllReduceSum(sum);
  EXPECT_TRUE(sum.equal(local));
  EXPECT_THAT(sole->AllGatherBytes("x"), ElementsAre("x"));
  EXPECT_EQ(sole->collectives(), 0);
}

class CommunicatorTest : public ::testing::TestWithParam<int> {};

TEST_P(CommunicatorTest, AllGatherStacksInRankOrder) {
  const int ranks = GetParam();
  testing::RunRanks(ranks, [&](ProcessGroups& groups) {
    Communicator* group = groups.control();
    const at::Tensor local = at::arange(6, at::kDouble).view({2, 3}) + 10 * group->rank();
    const at::Tensor all = group->AllGather(local);
    ASSERT_EQ(all.sizes(), at::IntArrayRef({ranks, 2, 3}));
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_TRUE(all[rank].equal(at::arange(6, at::kDouble).view({2, 3}) + 10 * rank));
    }
    EXPECT_EQ(group->collectives(), 1);
    EXPECT_EQ(group->AllGather(at::empty({0, 3})).numel(), 0);
    EXPECT_EQ(group->collectives(), 1);
  });
}

TEST_P(CommunicatorTest, AllReduceAddsAndBroadcastReplaces) {
  const int ranks = GetParam();
  testing::RunRanks(ranks, [&](ProcessGroups& groups) {
    Communicator* group = groups.sync_batch_norm();
    at::Tensor sum = at::full({5}, group->rank() + 1, at::kLong);
    group->AllReduceSum(sum);
    EXPECT_TRUE(sum.equal(at::full({5}, ranks * (ranks + 1) / 2, at::kLong)));
    at::Tensor value = at::full({5}, group->rank(), at::kFloat);
    group->Broadcast(value, ranks - 1);
    EXPECT_TRUE(value.equal(at::full({5}, ranks - 1, at::kFloat)));
    group->Barrier();
  });
}

TEST_P(CommunicatorTest, BytesMayDifferInLength) {
  const int ranks = GetParam();
  testing::RunRanks(ranks, [&](ProcessGroups& groups) {
    Communicator* group = groups.control();
    const auto text = [](int rank) { return std::string(rank * 7, static_cast<char>('a' + rank)); };
    const std::vector<std::string> all = group->AllGatherBytes(text(group->rank()));
    ASSERT_EQ(static_cast<int>(all.size()), ranks);
    for (int rank = 0; rank < ranks; ++rank) EXPECT_EQ(all[rank], text(rank));
    const std::string sent("a\0b", 3);
    EXPECT_EQ(group->BroadcastBytes(group->rank() == 1 ? sent : "ignored", 1), sent);
    EXPECT_EQ(group->BroadcastBytes("", 0), "");
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, CommunicatorTest, ::testing::Values(2, 3, 4));

TEST(Communicator, RefusesATensorThatIsNotContiguous) {
  testing::RunRanks(2, [](ProcessGroups& groups) {
    EXPECT_THROW(groups.control()->AllReduceSum(at::zeros({2, 3}).t()), c10::Error);
    EXPECT_EQ(groups.control()->collectives(), 0);
  });
}

TEST(Communicator, APeerThatLeavesIsALostCollective) {
  testing::RunRanks(2, [](ProcessGroups& groups) {
    groups.control()->Barrier();
    if (groups.rank() == 1) return;  // Its connections close.
    try {
      groups.control()->AllGather(at::zeros({4}));
      FAIL() << "the collective should have failed";
    } catch (const CollectiveLost& lost) {
      EXPECT_EQ(lost.operation(), "all-gather of 16 bytes in group control (rank 0 of 2)");
      EXPECT_THAT(lost.what(), HasSubstr("all-gather of 16 bytes"));
    }
  });
}

TEST(Communicator, APeerThatDoesNotAnswerIsALostCollectiveAfterTheTimeout) {
  std::latch given_up(1);
  testing::RunRanks(
      2,
      [&](ProcessGroups& groups) {
        if (groups.rank() == 1) {
          given_up.wait();
          return;
        }
        EXPECT_THROW(groups.control()->AllGather(at::zeros({4})), CollectiveLost);
        given_up.count_down();
      },
      absl::Milliseconds(300));
}

TEST(ReadRankEnvironment, NothingSetIsAWorldOfOne) {
  const auto environment = ReadRankEnvironment([](const char*) { return nullptr; });
  ASSERT_TRUE(environment.ok()) << environment.status();
  EXPECT_EQ(environment->world_size, 1);
  EXPECT_EQ(environment->rank, 0);
}

using Variables = std::map<std::string, std::string>;

absl::StatusOr<RankEnvironment> Read(const Variables& variables) {
  return ReadRankEnvironment([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

const Variables kSecondOfFour = {{"RANK", "2"},           {"WORLD_SIZE", "4"},
                                 {"LOCAL_RANK", "0"},     {"LOCAL_WORLD_SIZE", "2"},
                                 {"NODE_RANK", "1"},      {"MASTER_ADDR", "10.0.0.4"},
                                 {"MASTER_PORT", "29500"}};

TEST(ReadRankEnvironment, ReadsEveryVariable) {
  auto variables = kSecondOfFour;
  variables["MUSTER_NODE_ADDRESS"] = "10.0.0.5";
  variables["MUSTER_MASTER_FD"] = "9";
  auto environment = Read(variables);
  ASSERT_TRUE(environment.ok()) << environment.status();
  EXPECT_EQ(environment->rank, 2);
  EXPECT_EQ(environment->world_size, 4);
  EXPECT_EQ(environment->local_rank, 0);
  EXPECT_EQ(environment->local_world_size, 2);
  EXPECT_EQ(environment->node_rank, 1);
  EXPECT_EQ(environment->master_address, "10.0.0.4");
  EXPECT_EQ(environment->master_port, 29500);
  EXPECT_EQ(environment->node_address, "10.0.0.5");
  EXPECT_EQ(environment->master_fd, std::nullopt) << "only rank 0 listens";
  variables["RANK"] = "0";
  EXPECT_EQ(Read(variables)->master_fd, 9);
}

TEST(ReadRankEnvironment, NamesTheVariableThatIsWrong) {
  for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}) {
    auto variables = kSecondOfFour;
    variables.erase(name);
    const auto environment = Read(variables);
    ASSERT_EQ(environment.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(environment.status().message()), HasSubstr(name));
  }
  for (const auto& [name, value] : Variables{{"RANK", "4"},
                                             {"RANK", "two"},
                                             {"WORLD_SIZE", "0"},
                                             {"LOCAL_RANK", "2"},
                                             {"LOCAL_WORLD_SIZE", "5"},
                                             {"MASTER_PORT", "70000"}}) {
    auto variables = kSecondOfFour;
    variables[name] = value;
    const auto environment = Read(variables);
    ASSERT_EQ(environment.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(environment.status().message()), HasSubstr(name + "='" + value + "'"));
  }
}

TEST(AddressTowards, LoopbackLeavesByLoopback) {
  EXPECT_EQ(AddressTowards("127.0.0.1").value(), "127.0.0.1");
  EXPECT_EQ(AddressTowards("node-a").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace muster::dist
