#include "worker/model/sync_batch_norm.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <mutex>
#include <string>
#include <vector>

#include "tests/unit/worker/dist/rank_threads.h"
#include "worker/model/batch_norm_kernels.h"

namespace muster::model {
namespace {

constexpr double kEps = 1e-5;
constexpr double kMomentum = 0.1;

// One layer's parameters and what each rank sees of it: inputs of different sizes and the gradients
// that reach the outputs.
struct Case {
  at::Tensor weight, bias, running_mean, running_var;
  std::vector<at::Tensor> x, dy;
};

// What a normalisation gave back; x, y, dx by rank.
struct Outcome {
  std::vector<at::Tensor> y, dx;
  at::Tensor weight_gradient, bias_gradient, running_mean, running_var;
};

at::Tensor Random(at::IntArrayRef shape, uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator, at::kDouble);
}

// Ranks differ in images, height and width, and also in mean and scale, as image sizes do in
// practice.
Case MakeCase(int ranks, int64_t channels, uint64_t seed, bool last_is_empty = false) {
  const std::vector<std::vector<int64_t>> sizes = {{2, 7, 5}, {1, 3, 4}, {3, 9, 8}, {1, 1, 2}};
  Case c;
  c.weight = Random({channels}, seed) + 1.5;
  c.bias = Random({channels}, seed + 1);
  c.running_mean = Random({channels}, seed + 2);
  c.running_var = Random({channels}, seed + 3).abs() + 0.5;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto& size = sizes[rank % sizes.size()];
    const int64_t images = last_is_empty && rank == ranks - 1 ? 0 : size[0];
    const std::vector<int64_t> shape = {images, channels, size[1], size[2]};
    c.x.push_back(Random(shape, seed + 10 + rank) * (1 + 0.3 * rank) + 0.7 * rank + 3);
    c.dy.push_back(Random(shape, seed + 50 + rank) + 0.4 * rank);
  }
  return c;
}

// The elements of all ranks as (C, total).
at::Tensor Union(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& t : tensors) flat.push_back(t.transpose(0, 1).reshape({t.size(1), -1}));
  return at::cat(flat, 1);
}

// Batch normalisation over the union by plain operators and autograd: shares no code with ours.
Outcome Reference(const Case& c) {
  std::vector<at::Tensor> x;
  for (const at::Tensor& t : c.x) x.push_back(t.clone().requires_grad_());
  const at::Tensor weight = c.weight.clone().requires_grad_();
  const at::Tensor bias = c.bias.clone().requires_grad_();
  const at::Tensor all = Union(x);
  const at::Tensor mean = all.mean(1, true);
  const at::Tensor variance = (all - mean).square().mean(1, true);
  const at::Tensor y =
      (all - mean) / (variance + kEps).sqrt() * weight.unsqueeze(1) + bias.unsqueeze(1);
  (y * Union(c.dy)).sum().backward();

  Outcome outcome;
  int64_t begin = 0;
  for (const at::Tensor& t : x) {
    const int64_t size = t.size(0) * t.size(2) * t.size(3);
    outcome.y.push_back(y.detach()
                            .narrow(1, begin, size)
                            .reshape({t.size(1), t.size(0), t.size(2), t.size(3)})
                            .transpose(0, 1));
    outcome.dx.push_back(t.grad());
    begin += size;
  }
  outcome.weight_gradient = weight.grad();
  outcome.bias_gradient = bias.grad();
  const double n = static_cast<double>(begin);
  outcome.running_mean = c.running_mean * (1 - kMomentum) + mean.detach().squeeze(1) * kMomentum;
  outcome.running_var =
      c.running_var * (1 - kMomentum) + variance.detach().squeeze(1) * (n / (n - 1)) * kMomentum;
  return outcome;
}

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

double RelativeError(const at::Tensor& got, const at::Tensor& want) {
  if (want.numel() == 0) return got.sizes() == want.sizes() ? 0 : 1;
  return ((got.to(at::kDouble) - want).abs().max() / want.abs().max().clamp_min(1e-30))
      .item<double>();
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

// The two directions that a batch normalisation's input gradient cannot point in, relative to the
// size of the gradient: |sum dx| and |sum dx * xhat| over all ranks.
double Residual(const Case& c, const std::vector<at::Tensor>& dx) {
  const at::Tensor x = Union(c.x);
  const at::Tensor gradient = Union(dx);
  const at::Tensor mean = x.mean(1, true);
  const at::Tensor xhat = (x - mean) / ((x - mean).square().mean(1, true) + kEps).sqrt();
  const at::Tensor scale = gradient.abs().sum(1);
  return at::stack({gradient.sum(1).abs() / scale, (gradient * xhat).sum(1).abs() / scale})
      .max()
      .item<double>();
}

class SyncBatchNormTest : public ::testing::TestWithParam<int> {};

TEST_P(SyncBatchNormTest, EqualsOneProcessOverTheUnionOfAllRanks) {
  const int ranks = GetParam();
  const std::vector<Case> cases = {MakeCase(ranks, 6, 100), MakeCase(ranks, 3, 200)};
  const std::vector<RankResult> got = RunCases(cases, ranks);
  for (size_t layer = 0; layer < cases.size(); ++layer) {
    EXPECT_LT(WorstError(cases[layer], Reference(cases[layer]), got, layer), 1e-12);
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
  EXPECT_LT(WorstError(c, Reference(c), got, 0), 1e-12);
  EXPECT_EQ(got.back().y[0].numel(), 0);
  EXPECT_TRUE(got.back().weight_gradient[0].equal(at::zeros({6}, at::kDouble)));
  EXPECT_TRUE(got.back().running_var[0].equal(got.front().running_var[0]));
}

TEST_P(SyncBatchNormTest, Float32IsAsCloseAsItsOwnRounding) {
  const int ranks = GetParam();
  const Case c = MakeCase(ranks, 6, 900);
  EXPECT_LT(WorstError(c, Reference(c), RunCases({c}, ranks, true, at::kFloat), 0), 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Ranks, SyncBatchNormTest, ::testing::Values(2, 3, 4));

TEST(SyncBatchNorm, OneProcessNeedsNoCommunicator) {
  const Case c = MakeCase(1, 6, 1000);
  EXPECT_LT(WorstError(c, Reference(c), {RunRank({c}, 0, nullptr, true)}, 0), 1e-12);
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

TEST(SyncBatchNorm, AgreesWithFiniteDifferences) {
  const int ranks = 3;
  const Case c = MakeCase(ranks, 2, 1200);
  const auto got = RunCases({c}, ranks);
  const auto loss = [&](const Case& moved) {
    double sum = 0;
    std::mutex mutex;
    testing::RunRanks(ranks, [&](dist::ProcessGroups& groups) {
      torch::NoGradGuard no_grad;
      const int rank = groups.rank();
      const auto y = SyncBatchNorm({{moved.x[rank], moved.weight, moved.bias, {}, {}}},
                                   groups.sync_batch_norm());
      std::lock_guard lock(mutex);
      sum += (y[0] * moved.dy[rank]).sum().item<double>();
    });
    return sum;
  };
  const double step = 1e-5;
  for (int rank = 0; rank < ranks; ++rank) {
    for (const int64_t index : {int64_t{0}, c.x[rank].numel() / 2, c.x[rank].numel() - 1}) {
      Case up = c, down = c;
      up.x[rank] = c.x[rank].clone();
      down.x[rank] = c.x[rank].clone();
      up.x[rank].view({-1})[index] += step;
      down.x[rank].view({-1})[index] -= step;
      const double numeric = (loss(up) - loss(down)) / (2 * step);
      const double analytic = got[rank].dx[0].contiguous().view({-1})[index].item<double>();
      EXPECT_NEAR(analytic, numeric, 1e-7) << "rank " << rank << " element " << index;
    }
  }
}

TEST(SyncBatchNorm, SurvivesAMeanMuchLargerThanTheDeviation) {
  Case c = MakeCase(1, 4, 1300);
  c.x[0] = (c.x[0] * 0.01 + 1000).to(at::kFloat).to(at::kDouble);
  const Outcome want = Reference(c);
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

TEST(SyncBatchNorm, RefusesShapesThatDoNotFit) {
  const at::Tensor x = at::zeros({1, 3, 2, 2}), three = at::ones({3}), four = at::ones({4});
  EXPECT_THROW(SyncBatchNorm({}, nullptr), c10::Error);
  EXPECT_THROW(SyncBatchNorm({{x[0], three, three, {}, {}}}, nullptr), c10::Error);
  EXPECT_THROW(SyncBatchNorm({{x, four, three, {}, {}}}, nullptr), c10::Error);
  EXPECT_THROW(SyncBatchNorm({{x, three, three.to(at::kDouble), {}, {}}}, nullptr), c10::Error);
}

// The two known wrong ways, to show that the checks above would notice them. Forward: each rank's
// mean and variance count the same, whatever its size. Backward: as NVIDIA apex did until 2020, the
// mean over the ranks of each rank's own mean.
enum class Weighting { kCount, kMeanOfMeans };

Outcome WithWeightings(const Case& c, Weighting forward, Weighting backward) {
  const double ranks = static_cast<double>(c.x.size());
  const auto flat = [](const at::Tensor& t) { return t.transpose(0, 1).flatten(1); };
  const auto average = [&](const std::vector<at::Tensor>& values, Weighting weighting) {
    at::Tensor sum = at::zeros({values[0].size(0), 1}, at::kDouble);
    double count = 0;
    for (const at::Tensor& value : values) {
      sum += weighting == Weighting::kCount ? value.sum(1, true) : value.mean(1, true);
      count += static_cast<double>(value.size(1));
    }
    return sum / (weighting == Weighting::kCount ? count : ranks);
  };
  std::vector<at::Tensor> x, dy, squares, products;
  for (size_t r = 0; r < c.x.size(); ++r) {
    x.push_back(flat(c.x[r]));
    dy.push_back(flat(c.dy[r]));
  }
  const at::Tensor mean = average(x, forward);
  for (const at::Tensor& t : x) squares.push_back((t - mean).square());
  const at::Tensor inverse_std = (average(squares, forward) + kEps).rsqrt();
  for (size_t r = 0; r < x.size(); ++r) products.push_back(dy[r] * (x[r] - mean) * inverse_std);
  const at::Tensor mean_dy = average(dy, backward), mean_product = average(products, backward);
  Outcome outcome;
  for (size_t r = 0; r < x.size(); ++r) {
    const at::Tensor xhat = (x[r] - mean) * inverse_std;
    const auto restore = [&](const at::Tensor& t) {
      const at::Tensor& like = c.x[r];
      return t.reshape({like.size(1), like.size(0), like.size(2), like.size(3)}).transpose(0, 1);
    };
    outcome.y.push_back(restore(xhat * c.weight.unsqueeze(1) + c.bias.unsqueeze(1)));
    outcome.dx.push_back(
        restore(c.weight.unsqueeze(1) * inverse_std * (dy[r] - mean_dy - xhat * mean_product)));
  }
  return outcome;
}

TEST(SyncBatchNorm, TheChecksNoticeTheKnownWrongWays) {
  const int ranks = 4;
  const Case c = MakeCase(ranks, 6, 1500);
  const Outcome want = Reference(c);
  const auto errors = [&](const Outcome& got) {
    double y = 0, dx = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      y = std::max(y, RelativeError(got.y[rank], want.y[rank]));
      dx = std::max(dx, RelativeError(got.dx[rank], want.dx[rank]));
    }
    return std::pair(y, dx);
  };
  const Outcome right = WithWeightings(c, Weighting::kCount, Weighting::kCount);
  EXPECT_LT(errors(right).first, 1e-12);
  EXPECT_LT(errors(right).second, 1e-12);
  EXPECT_LT(Residual(c, right.dx), 1e-5);

  const Outcome mean_of_means = WithWeightings(c, Weighting::kMeanOfMeans, Weighting::kMeanOfMeans);
  EXPECT_GT(errors(mean_of_means).first, 0.01);
  EXPECT_GT(errors(mean_of_means).second, 0.01);
  const Outcome apex_backward = WithWeightings(c, Weighting::kCount, Weighting::kMeanOfMeans);
  EXPECT_GT(errors(apex_backward).second, 0.01);
  EXPECT_GT(Residual(c, apex_backward.dx), 0.01);
}

TEST(BatchNormKernels, AtenAndLoopsAgree) {
  const BatchNormKernels& loops = CpuBatchNormKernels();
  const BatchNormKernels& aten = AtenBatchNormKernels();
  for (const int64_t images : {0, 2}) {
    // More than one block a plane, and a remainder of the lanes.
    const at::Tensor x = Random({images, 3, 59, 73}, 1600) + 2, dy = Random(x.sizes(), 1601);
    const auto options = x.options();
    at::Tensor a = at::empty({3, 3}, options), b = at::empty({3, 3}, options);
    loops.statistics(x, a);
    aten.statistics(x, b);
    EXPECT_TRUE(a.allclose(b, 1e-12, 1e-12)) << a << b;
    const at::Tensor gathered = at::stack({a, (Random({3, 3}, 1602).abs() * 100).ceil(), a * 0});
    const at::Tensor merged = loops.merge(gathered);
    EXPECT_TRUE(merged.allclose(aten.merge(gathered), 1e-12, 1e-12));
    const at::Tensor scale = Random({3}, 1603), shift = Random({3}, 1604), mean = merged[0];
    EXPECT_TRUE(loops.normalize(x, mean, scale, shift)
                    .allclose(aten.normalize(x, mean, scale, shift), 1e-12, 1e-12));
    at::Tensor s = at::empty({2, 3}, options), t = at::empty({2, 3}, options);
    loops.backward_sums(dy, x, mean, scale, s);
    aten.backward_sums(dy, x, mean, scale, t);
    EXPECT_TRUE(s.allclose(t, 1e-11, 1e-11)) << s << t;
    EXPECT_TRUE(loops.add(at::stack({s, t, s})).allclose(aten.add(at::stack({s, t, s}))));
    EXPECT_TRUE(loops.backward_input(dy, x, mean, scale, s[0], shift)
                    .allclose(aten.backward_input(dy, x, mean, scale, s[0], shift), 1e-11, 1e-11));
  }
}

TEST(BatchNormKernels, BitsDoNotDependOnTheNumberOfThreads) {
  const at::Tensor x = Random({2, 18, 120, 160}, 1700).to(at::kFloat);
  const int before = at::get_num_threads();
  at::Tensor one = at::empty({3, 18}, at::kDouble), two = at::empty({3, 18}, at::kDouble);
  at::set_num_threads(1);
  CpuBatchNormKernels().statistics(x, one);
  at::set_num_threads(2);
  CpuBatchNormKernels().statistics(x, two);
  at::set_num_threads(before);
  EXPECT_TRUE(one.equal(two));
}

}  // namespace
}  // namespace muster::model
