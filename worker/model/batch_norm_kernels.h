#pragma once

#include <torch/types.h>

namespace muster::model {

// The arithmetic of batch normalisation over one rank's tensor, without the exchange between ranks.
// x, dy, y, dx: (N, C, H, W), float32 or float64, contiguous; everything per channel: float64, (C).
// All are on one device. Every channel is computed by itself and in a fixed order: its bits depend
// neither on the number of threads nor on what else is computed.
struct BatchNormKernels {
  // local: (3, C), rows mean, M2 = sum (x - mean)^2, count; zeros for an x without elements.
  void (*statistics)(const at::Tensor& x, const at::Tensor& local);
  // gathered (R, 3, C) of `statistics` -> (3, C) of their union, merged in rank order.
  at::Tensor (*merge)(const at::Tensor& gathered);
  // y = (x - mean) * scale + shift.
  at::Tensor (*normalize)(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                          const at::Tensor& shift);
  // sums: (2, C), rows sum dy, sum dy * (x - mean) * inverse_std.
  void (*backward_sums)(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean,
                        const at::Tensor& inverse_std, const at::Tensor& sums);
  // gathered (R, 2, C) of `backward_sums` -> (2, C), added in rank order.
  at::Tensor (*add)(const at::Tensor& gathered);
  // dx = scale * (dy - mean_dy - (x - mean) * slope).
  at::Tensor (*backward_input)(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean,
                               const at::Tensor& scale, const at::Tensor& mean_dy,
                               const at::Tensor& slope);
};

// Loops over CPU memory: one pass for the statistics, one for the backward sums, one for each
// result.
const BatchNormKernels& CpuBatchNormKernels();
// The same through at:: operators, for CUDA tensors; works on the CPU too.
const BatchNormKernels& AtenBatchNormKernels();

}  // namespace muster::model
