#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

// Batch normalisation over ranks with unequal inputs: a case, its result by plain operators over
// the union of all ranks' elements, and checks that return how far a result is from right.
namespace muster::testing {

inline constexpr double kEps = 1e-5;
inline constexpr double kMomentum = 0.1;

// One layer's parameters and what each rank sees of it: inputs of different sizes and the gradients
// that reach the outputs.
struct BatchNormCase {
  at::Tensor weight, bias, running_mean, running_var;
  std::vector<at::Tensor> x, dy;
};

// What a normalisation gave back; x, y, dx by rank.
struct BatchNormOutcome {
  std::vector<at::Tensor> y, dx;
  at::Tensor weight_gradient, bias_gradient, running_mean, running_var;
};

inline at::Tensor Random(at::IntArrayRef shape, uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator, at::kDouble);
}

// Ranks differ in images, height and width, and also in mean and scale, as image sizes do in
// practice.
inline BatchNormCase MakeCase(int ranks, int64_t channels, uint64_t seed,
                              bool last_is_empty = false) {
  const std::vector<std::vector<int64_t>> sizes = {{2, 7, 5}, {1, 3, 4}, {3, 9, 8}, {1, 1, 2}};
  BatchNormCase c;
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
inline at::Tensor Union(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& t : tensors) flat.push_back(t.transpose(0, 1).reshape({t.size(1), -1}));
  return at::cat(flat, 1);
}

// Batch normalisation over the union by plain operators and autograd: shares no code with ours.
inline BatchNormOutcome UnionOutcome(const BatchNormCase& c) {
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

  BatchNormOutcome outcome;
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

inline double RelativeError(const at::Tensor& got, const at::Tensor& want) {
  if (want.numel() == 0) return got.sizes() == want.sizes() ? 0 : 1;
  return ((got.to(at::kDouble) - want).abs().max() / want.abs().max().clamp_min(1e-30))
      .item<double>();
}

// The two directions that a batch normalisation's input gradient cannot point in, relative to the
// size of the gradient: |sum dx| and |sum dx * xhat| over all ranks.
inline double Residual(const BatchNormCase& c, const std::vector<at::Tensor>& dx) {
  const at::Tensor x = Union(c.x);
  const at::Tensor gradient = Union(dx);
  const at::Tensor mean = x.mean(1, true);
  const at::Tensor xhat = (x - mean) / ((x - mean).square().mean(1, true) + kEps).sqrt();
  const at::Tensor scale = gradient.abs().sum(1);
  return at::stack({gradient.sum(1).abs() / scale, (gradient * xhat).sum(1).abs() / scale})
      .max()
      .item<double>();
}

// Largest difference, relative to the largest element, between `dx` and central differences of the
// loss sum_r <y_r, dy_r>, at three elements of every rank. `forward` returns every rank's y.
inline double FiniteDifferenceError(
    const BatchNormCase& c, const std::vector<at::Tensor>& dx,
    const std::function<std::vector<at::Tensor>(const BatchNormCase&)>& forward) {
  const auto loss = [&](const BatchNormCase& moved) {
    const std::vector<at::Tensor> y = forward(moved);
    double sum = 0;
    for (size_t r = 0; r < y.size(); ++r) sum += (y[r] * moved.dy[r]).sum().item<double>();
    return sum;
  };
  const double step = 1e-5;
  const double scale = Union(dx).abs().max().item<double>();
  double worst = 0;
  for (size_t rank = 0; rank < c.x.size(); ++rank) {
    const int64_t count = c.x[rank].numel();
    if (count == 0) continue;
    for (const int64_t index : {int64_t{0}, count / 2, count - 1}) {
      BatchNormCase up = c, down = c;
      up.x[rank] = c.x[rank].clone();
      down.x[rank] = c.x[rank].clone();
      up.x[rank].view({-1})[index] += step;
      down.x[rank].view({-1})[index] -= step;
      const double numeric = (loss(up) - loss(down)) / (2 * step);
      const double analytic = dx[rank].contiguous().view({-1})[index].item<double>();
      worst = std::max(worst, std::abs(analytic - numeric) / scale);
    }
  }
  return worst;
}

}  // namespace muster::testing
