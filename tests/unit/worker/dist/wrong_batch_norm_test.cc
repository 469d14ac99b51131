// The ways in which synchronised batch normalisation was wrong elsewhere, over the case and the
// checks of sync_batch_norm_test: proof that those checks can see them.

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdio>

#include "tests/unit/worker/dist/batch_norm_case.h"

namespace muster::testing {
namespace {

// How the ranks' values are brought together.
enum class Weighting {
  kCount,        // every element counts the same
  kMeanOfMeans,  // every rank counts the same, whatever its size
};

at::Tensor Flat(const at::Tensor& t) { return t.transpose(0, 1).flatten(1); }

// (C, 1) of (C, elements of the rank).
at::Tensor Average(const std::vector<at::Tensor>& values, Weighting weighting) {
  at::Tensor sum = at::zeros({values[0].size(0), 1}, at::kDouble);
  double count = 0;
  for (const at::Tensor& value : values) {
    sum += weighting == Weighting::kCount ? value.sum(1, true) : value.mean(1, true);
    count += weighting == Weighting::kCount ? static_cast<double>(value.size(1)) : 1.0;
  }
  return sum / count;
}

// The backward pass takes the averages of dy and dy * xhat; with equal weighting in both passes
// that is NVIDIA apex as of June 2019, with it in the backward pass alone PyTorch 1.2 to 1.4.
BatchNormOutcome Normalise(const BatchNormCase& c, Weighting forward, Weighting backward) {
  std::vector<at::Tensor> x, dy, squares, products;
  double count = 0;
  for (size_t r = 0; r < c.x.size(); ++r) {
    x.push_back(Flat(c.x[r]));
    dy.push_back(Flat(c.dy[r]));
    count += static_cast<double>(x[r].size(1));
  }
  const at::Tensor mean = Average(x, forward);
  for (const at::Tensor& t : x) squares.push_back((t - mean).square());
  const at::Tensor variance = Average(squares, forward);
  const at::Tensor inverse_std = (variance + kEps).rsqrt();
  for (size_t r = 0; r < x.size(); ++r) products.push_back(dy[r] * (x[r] - mean) * inverse_std);
  const at::Tensor mean_dy = Average(dy, backward), mean_product = Average(products, backward);
  BatchNormOutcome outcome;
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
  outcome.running_mean = c.running_mean * (1 - kMomentum) + mean.squeeze(1) * kMomentum;
  outcome.running_var =
      c.running_var * (1 - kMomentum) + variance.squeeze(1) * (count / (count - 1)) * kMomentum;
  return outcome;
}

// What each check of sync_batch_norm_test would say.
struct Differences {
  double y = 0, dx = 0, running = 0;
  double residual = 0;
  double finite_difference = 0;
};

Differences Check(const BatchNormCase& c, Weighting forward, Weighting backward) {
  const BatchNormOutcome want = UnionOutcome(c);
  const BatchNormOutcome got = Normalise(c, forward, backward);
  Differences d;
  for (size_t rank = 0; rank < c.x.size(); ++rank) {
    d.y = std::max(d.y, RelativeError(got.y[rank], want.y[rank]));
    d.dx = std::max(d.dx, RelativeError(got.dx[rank], want.dx[rank]));
  }
  d.running = std::max(RelativeError(got.running_mean, want.running_mean),
                       RelativeError(got.running_var, want.running_var));
  d.residual = Residual(c, got.dx);
  d.finite_difference = FiniteDifferenceError(
      c, got.dx, [&](const BatchNormCase& moved) { return Normalise(moved, forward, backward).y; });
  std::printf("y %.1e, dx %.1e, running %.1e, residual %.1e, finite differences %.1e\n", d.y, d.dx,
              d.running, d.residual, d.finite_difference);
  return d;
}

class WrongBatchNorm : public ::testing::TestWithParam<int> {
 protected:
  BatchNormCase case_ = MakeCase(GetParam(), 6, 1500);
};

TEST_P(WrongBatchNorm, CountWeightingPassesAllChecks) {
  const Differences d = Check(case_, Weighting::kCount, Weighting::kCount);
  EXPECT_LT(d.y, 1e-12);
  EXPECT_LT(d.dx, 1e-12);
  EXPECT_LT(d.running, 1e-12);
  EXPECT_LT(d.residual, 1e-5);
  EXPECT_LT(d.finite_difference, 1e-7);
}

// What collapsed to AP 0 with multi-scale input.
TEST_P(WrongBatchNorm, Apex2019FailsAllChecks) {
  const Differences d = Check(case_, Weighting::kMeanOfMeans, Weighting::kMeanOfMeans);
  EXPECT_GT(d.y, 0.01);
  EXPECT_GT(d.dx, 0.01);
  EXPECT_GT(d.running, 0.01);
  EXPECT_GT(d.residual, 0.01);
  EXPECT_GT(d.finite_difference, 0.01);
}

TEST_P(WrongBatchNorm, MeanOfMeansInTheBackwardPassFailsTheGradientsChecks) {
  const Differences d = Check(case_, Weighting::kCount, Weighting::kMeanOfMeans);
  EXPECT_LT(d.y, 1e-12);
  EXPECT_GT(d.dx, 0.01);
  EXPECT_GT(d.residual, 0.01);
  EXPECT_GT(d.finite_difference, 0.01);
}

TEST_P(WrongBatchNorm, MeanOfMeansInTheForwardPassFailsTheUnionsCheck) {
  const Differences d = Check(case_, Weighting::kMeanOfMeans, Weighting::kCount);
  EXPECT_GT(d.y, 0.01);
  EXPECT_GT(d.running, 0.01);
  EXPECT_GT(d.finite_difference, 0.01);
}

INSTANTIATE_TEST_SUITE_P(Ranks, WrongBatchNorm, ::testing::Values(2, 3, 4));

}  // namespace
}  // namespace muster::testing
