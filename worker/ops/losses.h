#pragma once

#include <torch/types.h>

namespace muster::ops {

enum class RegressionLoss { kL1, kSmoothL1 };

// Sums over all elements; differentiable in the first argument; 0 with a zero gradient where there
// are no elements. Divide by AverageFactor, as mmdetection's `avg_factor` does.

// logits and targets (0 or 1) of one shape.
at::Tensor BinaryCrossEntropySum(const at::Tensor& logits, const at::Tensor& targets);

// scores (N, C) before softmax, labels (N) int64.
at::Tensor CrossEntropySum(const at::Tensor& scores, const at::Tensor& labels);

// |d|, or with kSmoothL1 d^2 / (2 beta) where |d| < beta and |d| - beta / 2 elsewhere.
at::Tensor RegressionSum(const at::Tensor& predictions, const at::Tensor& targets,
                         RegressionLoss kind, double beta);

// The divisor of a sum over `count` samples: mmdetection adds float32's epsilon, in every dtype.
double AverageFactor(double count);

}  // namespace muster::ops
