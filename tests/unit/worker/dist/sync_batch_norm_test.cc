#include "worker/model/sync_batch_norm.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "tests/unit/worker/dist/batch_norm_case.h"
#include "tests/unit/worker/dist/rank_threads.h"

namespace muster::model {
namespace {

using testing::FiniteDifferenceError;
using testing::kEps;
using testing::kMomentum;
using testing::MakeCase;
using testing::RelativeError;
using testing::Residual;
using Case = testing::BatchNormCase;
using Outcome = testing::BatchNormOutcome;

// What one rank computes of a group of layers.
struct RankResult {
  std::vector<at::Tensor> y, dx, weight_gradient, bias_gradient, running_mean, running_var;
  int64_t collectives = 0;
};

RankResult RunRank(const std::vector<Case>& cases, int rank, dist::Communicator* communicator,
                   bool grouped, at::ScalarType dtype = at::kDouble) {
  std::vector<SyncBatchNormInput> layers;
  for (const Case& c : cases) {
    layers.push_back({c.x[rank].to(dtype).clone().requires_grad_(),
                      c.weight.to(dtype).clone().requires_grad_(),
                      c.bias.to(dtype).clone().requires_grad_(), c.running_mean.to(dtype).clone(),
                      c.running_var.to(dtype).clone(), kMomentum, kEps});
  }
  std::vector<at::Tensor> outputs;
  if (grouped) {
    outputs = SyncBatchNorm(layers, communicator);
  } else {
    for (const SyncBatchNormInput& layer : layers) {
      outputs.push_back(SyncBatchNorm({layer}, communicator).front());
    }
  }
  at::Tensor loss = at::zeros({}, dtype);
  for (size_t i = 0; i < cases.size(); ++i) {
    loss = loss + (outputs[i] * cases[i].dy[rank].to(dtype)).sum();
  }
  loss.backward();
  RankResult result;
  for (size_t i = 0; i < cases.size(); ++i) {
    result.y.push_back(outputs[i].detach());
    result.dx.push_back(layers[i].x.grad());
    result.weight_gradient.push_back(layers[i].weight.grad());
    result.bias_gradient.push_back(layers[i].bias.grad());
    result.running_mean.push_back(layers[i].running_mean);
    result.running_var.push_back(layers[i].running_var);
  }
  result.collectives = communicator == nullptr ? 0 : communicator->collectives();
  return result;
}

std::vector<RankResult> RunCases(const std::vector<Case>& cases, int ranks, bool grouped = true,
                                 at::ScalarType dtype = at::kDouble) {
  std::vector<RankResult> results(ranks);
  testing::RunRanks(ranks, [&](dist::ProcessGroups& groups) {
    results[groups.rank()] =
        RunRank(cases, groups.rank(), groups.sync_batch_norm(), grouped, dtype);
  });
  return results;
}

// Largest relative error of any part against the reference.
double WorstError(const Case& c, const Outcome& want, const std::vector<RankResult>& got,
                  size_t layer) {
  double worst = 0;
  at::Tensor weight_gradient = at::zeros_like(want.weight_gradient);
  at::Tensor bias_gradient = at::zeros_like(want.bias_gradient);
  for (size_t rank = 0; rank < c.x.size(); ++rank) {
    const RankResult& r = got[rank];
    worst = std::max(worst, RelativeError(r.y[layer], want.y[rank]));
    worst = std::max(worst, RelativeError(r.dx[layer], want.dx[rank]));
    worst = std::max(worst, RelativeError(r.running_mean[layer], want.running_mean));
    worst = std::max(worst, RelativeError(r.running_var[layer], want.running_var));
    weight_gradient += r.weight_gradient[layer].to(at::kDouble);
    bias_gradient += r.bias_gradient[layer].to(at::kDouble);
  }
  worst = std::max(worst, RelativeError(weight_gradient, want.weight_gradient));
  return std::max(worst, RelativeError(bias_gradient, want.bias_gradient));
}

class SyncBatchNormTest : public ::testing::TestWithParam<int> {};

TEST_P(SyncBatchNormTest, EqualsOneProcessOverTheUnionOfAllRanks) {
  const int ranks = GetParam();
  const std::vector<Case> cases = {MakeCase(ranks, 6, 100), MakeCase(ranks, 3, 200)};
  const std::vector<RankResult> got = RunCases(cases, ranks);
  for (size_t layer = 0; layer < cases.size(); ++layer) {
    EXPECT_LT(WorstError(cases[layer], testing::UnionOutcome(cases[layer]), got, layer), 1e-12);
  }
}

TEST_P(SyncBatchNormTest, InputGradientHasNoPartThatTheLossCannotSee) {
  const int ranks = GetParam();
  const Case c = MakeCase(ranks, 6, 300);
  std::vector<at::Tensor> dx;
  for (const RankResult& result : RunCases({c}, ranks)) dx.push_back(result.dx[0]);
  // sum dx * xhat is eps / (var + eps) of the whole, not 0.
  EXPECT_LT(Residual(c, dx), 1e-5);
}

TEST_P(SyncBatchNormTest, InputGradientAgreesWithFiniteDifferences) {
  const int ranks = GetParam();
  const Case c = MakeCase(ranks, 2, 1200);
  std::vector<at::Tensor> dx;
  for (const RankResult& result : RunCases({c}, ranks)) dx.push_back(result.dx[0]);
  const auto forward = [ranks](const Case& moved) {
    std::vector<at::Tensor> y(static_cast<size_t>(ranks));
    testing::RunRanks(ranks, [&](dist::ProcessGroups& groups) {
      torch::NoGradGuard no_grad;
      const auto rank = static_cast<size_t>(groups.rank());
      y[rank] = SyncBatchNorm({{moved.x[rank], moved.weight, moved.bias, {}, {}}},
                              groups.sync_batch_norm())[0];
    });
    return y;
  };
  EXPECT_LT(FiniteDifferenceError(c, dx, forward), 1e-7);
}

TEST_P(SyncBatchNormTest, StatisticsHaveTheSameBitsOnAllRanks) {
  const int ranks = GetParam();
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const auto results = RunCases({MakeCase(ranks, 18, 400)}, ranks, true, dtype);
    for (const RankResult& result : results) {
      EXPECT_TRUE(result.running_mean[0].equal(results[0].running_mean[0]));
      EXPECT_TRUE(result.running_var[0].equal(results[0].running_var[0]));
    }
  }
}

TEST_P(SyncBatchNormTest, GroupingLayersChangesNoBitAndSavesCollectives) {
  const int ranks = GetParam();
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const std::vector<Case> cases = {MakeCase(ranks, 18, 500), MakeCase(ranks, 5, 600),
                                     MakeCase(ranks, 7, 700, ranks > 2)};
    const auto grouped = RunCases(cases, ranks, true, dtype);
    const auto alone = RunCases(cases, ranks, false, dtype);
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_EQ(grouped[rank].collectives, 2);
      EXPECT_EQ(alone[rank].collectives, 6);
      for (size_t i = 0; i < cases.size(); ++i) {
        EXPECT_TRUE(grouped[rank].y[i].equal(alone[rank].y[i]));
        EXPECT_TRUE(grouped[rank].dx[i].equal(alone[rank].dx[i]));
        EXPECT_TRUE(grouped[rank].weight_gradient[i].equal(alone[rank].weight_gradient[i]));
        EXPECT_TRUE(grouped[rank].bias_gradient[i].equal(alone[rank].bias_gradient[i]));
        EXPECT_TRUE(grouped[rank].running_mean[i].equal(alone[rank].running_mean[i]));
        EXPECT_TRUE(grouped[rank].running_var[i].equal(alone[rank].running_var[i]));
      }
    }
  }
}

TEST_P(SyncBatchNormTest, ARankWithoutElementsTakesPart) {
  const int ranks = GetParam();
  const Case c = MakeCase(ranks, 6, 800, true);
  const auto got = RunCases({c}, ranks);
  EXPECT_LT(WorstError(c, testing::UnionOutcome(c), got, 0), 1e-12);
  EXPECT_EQ(got.back().y[0].numel(), 0);
  EXPECT_TRUE(got.back().weight_gradient[0].equal(at::zeros({6}, at::kDouble)));
  EXPECT_TRUE(got.back().running_var[0].equal(got.front().running_var[0]));
}

TEST_P(SyncBatchNormTest, Float32IsAsCloseAsItsOwnRounding) {
  const int ranks = GetParam();
  const Case c = MakeCase(ranks, 6, 900);
  EXPECT_LT(WorstError(c, testing::UnionOutcome(c), RunCases({c}, ranks, true, at::kFloat), 0),
            2e-5);
}

INSTANTIATE_TEST_SUITE_P(Ranks, SyncBatchNormTest, ::testing::Values(2, 3, 4));

TEST(SyncBatchNorm, OneProcessNeedsNoCommunicator) {
  const Case c = MakeCase(1, 6, 1000);
  EXPECT_LT(WorstError(c, testing::UnionOutcome(c), {RunRank({c}, 0, nullptr, true)}, 0), 1e-12);
}

TEST(SyncBatchNorm, AgreesWithTorchBatchNorm) {
  const Case c = MakeCase(1, 6, 1100);
  const RankResult ours = RunRank({c}, 0, nullptr, true);
  at::Tensor mean = c.running_mean.clone(), variance = c.running_var.clone();
  const at::Tensor x = c.x[0].clone().requires_grad_();
  const at::Tensor y =
      at::batch_norm(x, c.weight, c.bias, mean, variance, true, kMomentum, kEps, false);
  (y * c.dy[0]).sum().backward();
  EXPECT_LT(RelativeError(ours.y[0], y), 1e-12);
  EXPECT_LT(RelativeError(ours.dx[0], x.grad()), 1e-12);
  EXPECT_LT(RelativeError(ours.running_mean[0], mean), 1e-12);
  EXPECT_LT(RelativeError(ours.running_var[0], variance), 1e-12);
}

TEST(SyncBatchNorm, SurvivesAMeanMuchLargerThanTheDeviation) {
  Case c = MakeCase(1, 4, 1300);
  c.x[0] = (c.x[0] * 0.01 + 1000).to(at::kFloat).to(at::kDouble);
  const Outcome want = testing::UnionOutcome(c);
  const RankResult got = RunRank({c}, 0, nullptr, true, at::kFloat);
  EXPECT_LT(RelativeError(got.running_var[0], want.running_var), 1e-6);
  EXPECT_LT(RelativeError(got.running_mean[0], want.running_mean), 1e-6);
}

TEST(SyncBatchNorm, AnOutputThatIsNotUsedHasNoGradient) {
  const Case c = MakeCase(1, 3, 1400);
  std::vector<SyncBatchNormInput> layers(2);
  for (SyncBatchNormInput& layer : layers) {
    layer = {c.x[0].clone().requires_grad_(),
             c.weight.clone().requires_grad_(),
             c.bias.clone().requires_grad_(),
             {},
             {},
             kMomentum,
             kEps};
  }
  SyncBatchNorm(layers, nullptr)[0].square().sum().backward();
  EXPECT_GT(layers[0].x.grad().abs().max().item<double>(), 0);
  EXPECT_EQ(layers[1].x.grad().abs().max().item<double>(), 0);
}

// Activation checkpointing's second pass.
TEST(SyncBatchNorm, ATapePlaysTheStatisticsBack) {
  const int ranks = 2;
  const Case c = MakeCase(ranks, 6, 1420);
  testing::RunRanks(ranks, [&](dist::ProcessGroups& groups) {
    const auto rank = static_cast<size_t>(groups.rank());
    const at::Tensor mean = c.running_mean.clone(), variance = c.running_var.clone();
    const std::vector<SyncBatchNormInput> layers = {
        {c.x[rank], c.weight, c.bias, mean, variance, kMomentum, kEps}};
    StatisticsTape tape;
    const at::Tensor first = SyncBatchNorm(layers, groups.sync_batch_norm(), &tape)[0];
    const at::Tensor mean_after = mean.clone(), variance_after = variance.clone();
    tape.Rewind();
    EXPECT_TRUE(SyncBatchNorm(layers, groups.sync_batch_norm(), &tape)[0].equal(first));
    EXPECT_EQ(groups.sync_batch_norm()->collectives(), 1);
    EXPECT_TRUE(mean.equal(mean_after));
    EXPECT_TRUE(variance.equal(variance_after));
    EXPECT_THROW(SyncBatchNorm(layers, groups.sync_batch_norm(), &tape), c10::Error);
  });
}

// The statistics are those of the bfloat16 numbers in full precision; only results are rounded.
TEST(SyncBatchNorm, BFloat16InputsAreNormalisedInFloat32) {
  const Case c = MakeCase(1, 6, 1440);
  const auto run = [&](at::ScalarType type) {
    const SyncBatchNormInput layer = {c.x[0].to(at::kBFloat16).to(type).requires_grad_(),
                                      c.weight.to(at::kFloat).requires_grad_(),
                                      c.bias.to(at::kFloat).requires_grad_(),
                                      c.running_mean.to(at::kFloat).clone(),
                                      c.running_var.to(at::kFloat).clone(),
                                      kMomentum,
                                      kEps};
    const at::Tensor y = SyncBatchNorm({layer}, nullptr)[0];
    y.backward(c.dy[0].to(at::kBFloat16).to(type));
    return std::pair(layer, y.detach());
  };
  const auto [narrow, narrow_y] = run(at::kBFloat16);
  const auto [wide, wide_y] = run(at::kFloat);
  EXPECT_TRUE(narrow.running_mean.equal(wide.running_mean));
  EXPECT_TRUE(narrow.running_var.equal(wide.running_var));
  EXPECT_TRUE(narrow_y.equal(wide_y.to(at::kBFloat16)));
  EXPECT_TRUE(narrow.x.grad().equal(wide.x.grad().to(at::kBFloat16)));
  EXPECT_TRUE(narrow.weight.grad().equal(wide.weight.grad()));
  EXPECT_TRUE(narrow.bias.grad().equal(wide.bias.grad()));
}

TEST(SyncBatchNorm, RefusesShapesThatDoNotFit) {
  const at::Tensor x = at::zeros({1, 3, 2, 2}), three = at::ones({3}), four = at::ones({4});
  EXPECT_THROW(SyncBatchNorm({}, nullptr), c10::Error);
  EXPECT_THROW(SyncBatchNorm({{x[0], three, three, {}, {}}}, nullptr), c10::Error);
  EXPECT_THROW(SyncBatchNorm({{x, four, three, {}, {}}}, nullptr), c10::Error);
  EXPECT_THROW(SyncBatchNorm({{x, three, three.to(at::kDouble), {}, {}}}, nullptr), c10::Error);
}

}  // namespace
}  // namespace muster::model
