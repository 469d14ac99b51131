#include "worker/dist/gradient_reducer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <vector>

#include "tests/unit/worker/dist/rank_threads.h"

namespace muster::dist {
namespace {

constexpr int kSteps = 20;
constexpr double kRate = 0.05;

// A small network whose weights depend on nothing but its shape.
struct Network {
  Network() {
    auto generator = at::detail::createCPUGenerator(7);
    for (const auto& shape :
         std::vector<std::vector<int64_t>>{{4, 16}, {16}, {16, 300}, {300}, {300, 8}, {8}}) {
      parameters.push_back((at::randn(shape, generator, at::kDouble) * 0.3).requires_grad_());
    }
  }
  at::Tensor Forward(at::Tensor x) const {
    for (size_t i = 0; i < parameters.size(); i += 2) {
      x = (x.matmul(parameters[i]) + parameters[i + 1]).tanh();
    }
    return x;
  }
  // Plain gradient descent.
  void Step() {
    torch::NoGradGuard no_grad;
    for (at::Tensor& parameter : parameters) {
      parameter -= kRate * parameter.grad();
      parameter.mutable_grad().zero_();
    }
  }
  std::vector<at::Tensor> parameters;
};

at::Tensor Batch(int step, int rank) {
  auto generator = at::detail::createCPUGenerator(1000 * step + rank);
  return at::randn({3, 4}, generator, at::kDouble);
}

at::Tensor Loss(const Network& network, int step, int rank) {
  return network.Forward(Batch(step, rank)).square().mean();
}

// One process that averages the ranks' losses itself.
std::vector<at::Tensor> TrainAlone(int ranks) {
  Network network;
  for (int step = 0; step < kSteps; ++step) {
    at::Tensor loss = at::zeros({}, at::kDouble);
    for (int rank = 0; rank < ranks; ++rank) loss = loss + Loss(network, step, rank) / ranks;
    loss.backward();
    network.Step();
  }
  return network.parameters;
}

std::vector<std::vector<at::Tensor>> TrainTogether(int ranks, int64_t bucket_cap_bytes) {
  std::vector<std::vector<at::Tensor>> parameters(ranks);
  testing::RunRanks(ranks, [&](ProcessGroups& groups) {
    Network network;
    GradientReducer reducer(network.parameters, groups, bucket_cap_bytes);
    for (int step = 0; step < kSteps; ++step) {
      reducer.BeginStep();
      reducer.Backward(Loss(network, step, groups.rank()));
      network.Step();
    }
    parameters[groups.rank()] = network.parameters;
  });
  return parameters;
}

class GradientReducerTest : public ::testing::TestWithParam<int> {};

TEST_P(GradientReducerTest, TrainsAsOneProcessDoes) {
  const int ranks = GetParam();
  const std::vector<at::Tensor> want = TrainAlone(ranks);
  // A bucket each, several a bucket, one bucket for all.
  for (const int64_t bucket_cap_bytes : {1024, 40000, 25 << 20}) {
    const auto got = TrainTogether(ranks, bucket_cap_bytes);
    for (int rank = 0; rank < ranks; ++rank) {
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_TRUE(got[rank][i].allclose(want[i], 1e-12, 1e-14)) << "parameter " << i;
        EXPECT_TRUE(got[rank][i].equal(got[0][i])) << "ranks differ in parameter " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, GradientReducerTest, ::testing::Values(1, 2, 3));

TEST(GradientReducer, TheSameRunGivesTheSameBits) {
  const auto first = TrainTogether(3, 2048);
  const auto second = TrainTogether(3, 2048);
  for (size_t i = 0; i < first[0].size(); ++i) EXPECT_TRUE(first[0][i].equal(second[0][i]));
}

TEST(GradientReducer, LeavesParametersAloneAndWithoutGradients) {
  testing::RunRanks(2, [](ProcessGroups& groups) {
    const Network untouched;
    Network network;
    GradientReducer reducer(network.parameters, groups, 1024);
    for (size_t i = 0; i < network.parameters.size(); ++i) {
      EXPECT_TRUE(network.parameters[i].equal(untouched.parameters[i]));
      EXPECT_FALSE(network.parameters[i].grad().defined());
    }
  });
}

TEST(GradientReducer, NoticesAParameterWithoutAGradientInTheSameStep) {
  testing::RunRanks(2, [](ProcessGroups& groups) {
    Network network;
    std::vector<at::Tensor> parameters = network.parameters;
    parameters.push_back(at::ones({3}, at::kDouble).requires_grad_());
    GradientReducer reducer(parameters, groups, 25 << 20);
    reducer.BeginStep();
    EXPECT_THROW(reducer.Backward(Loss(network, 0, groups.rank())), c10::Error);
  });
}

TEST(GradientReducer, APeerThatLeavesIsALostCollective) {
  testing::RunRanks(2, [](ProcessGroups& groups) {
    Network network;
    GradientReducer reducer(network.parameters, groups, 1024);
    if (groups.rank() == 1) return;
    reducer.BeginStep();
    EXPECT_THROW(reducer.Backward(Loss(network, 0, 0)), CollectiveLost);
  });
}

TEST(GradientReducer, RefusesWhatCannotBeReduced) {
  const auto alone = JoinProcessGroups(RankEnvironment{}, ProcessGroupOptions{}).value();
  EXPECT_THROW(GradientReducer({}, *alone, 1024), c10::Error);
  EXPECT_THROW(GradientReducer({at::ones({2})}, *alone, 1024), c10::Error);
}

}  // namespace
}  // namespace muster::dist
