#include <torch/types.h>

#include "worker/model/batch_norm_kernels.h"

namespace muster::model {
namespace {

constexpr int64_t kAllButChannels[] = {0, 2, 3};

// A (C) tensor as (1, C, 1, 1) of x's dtype.
at::Tensor PerChannel(const at::Tensor& values, const at::Tensor& x) {
  return values.to(x.scalar_type()).view({1, -1, 1, 1});
}

void Statistics(const at::Tensor& x, const at::Tensor& local) {
  local.zero_();
  if (x.numel() == 0) return;
  const double count = static_cast<double>(x.numel() / x.size(1));
  const auto [variance, mean] =
      at::var_mean(x, kAllButChannels, /*correction=*/at::Scalar(0), /*keepdim=*/false);
  local[0].copy_(mean);
  local[1].copy_(variance).mul_(count);
  local[2].fill_(count);
}

at::Tensor Merge(const at::Tensor& gathered) {
  const int64_t ranks = gathered.size(0);
  at::Tensor count = gathered[0][2].clone();
  at::Tensor weighted = gathered[0][2] * gathered[0][0];
  for (int64_t r = 1; r < ranks; ++r) {
    count += gathered[r][2];
    weighted += gathered[r][2] * gathered[r][0];
  }
  const at::Tensor mean = weighted / count.clamp_min(1);
  at::Tensor m2 = at::zeros_like(mean);
  for (int64_t r = 0; r < ranks; ++r) {
    m2 += gathered[r][1] + gathered[r][2] * (gathered[r][0] - mean).square();
  }
  return at::stack({mean, m2, count});
}

at::Tensor Normalize(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                     const at::Tensor& shift) {
  // One kernel: x * scale + (shift - mean * scale).
  return at::addcmul(PerChannel(shift - mean * scale, x), x, PerChannel(scale, x));
}

void BackwardSums(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean,
                  const at::Tensor& inverse_std, const at::Tensor& sums) {
  sums[0].copy_(dy.sum(kAllButChannels, /*keepdim=*/false, at::kDouble));
  const at::Tensor product = (x - PerChannel(mean, x)).mul_(dy);
  sums[1].copy_(product.sum(kAllButChannels, /*keepdim=*/false, at::kDouble)).mul_(inverse_std);
}

at::Tensor Add(const at::Tensor& gathered) {
  at::Tensor total = gathered[0].clone();
  for (int64_t r = 1; r < gathered.size(0); ++r) total += gathered[r];
  return total;
}

at::Tensor BackwardInput(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean,
                         const at::Tensor& scale, const at::Tensor& mean_dy,
                         const at::Tensor& slope) {
  // dx = scale * dy - (scale * slope) * x + scale * (mean * slope - mean_dy), in two kernels.
  const at::Tensor offset = PerChannel(scale * (mean * slope - mean_dy), x);
  const at::Tensor without_dy = at::addcmul(offset, x, PerChannel(-(scale * slope), x));
  return at::addcmul(without_dy, dy, PerChannel(scale, x));
}

}  // namespace

const BatchNormKernels& AtenBatchNormKernels() {
  static constexpr BatchNormKernels kKernels = {Statistics,   Merge, Normalize,
                                                BackwardSums, Add,   BackwardInput};
  return kKernels;
}

}  // namespace muster::model
