#include "worker/ops/losses.h"

#include <limits>

namespace muster::ops {

at::Tensor BinaryCrossEntropySum(const at::Tensor& logits, const at::Tensor& targets) {
  return at::binary_cross_entropy_with_logits(logits, targets.to(logits.scalar_type()), {}, {},
                                              at::Reduction::Sum);
}

at::Tensor CrossEntropySum(const at::Tensor& scores, const at::Tensor& labels) {
  return at::cross_entropy_loss(scores, labels, {}, at::Reduction::Sum);
}

at::Tensor RegressionSum(const at::Tensor& predictions, const at::Tensor& targets,
                         RegressionLoss kind, double beta) {
  if (kind == RegressionLoss::kL1) return (predictions - targets).abs().sum();
  const at::Tensor difference = (predictions - targets).abs();
  return at::where(difference < beta, difference * difference * (0.5 / beta),
                   difference - 0.5 * beta)
      .sum();
}

double AverageFactor(double count) {
  return count + static_cast<double>(std::numeric_limits<float>::epsilon());
}

}  // namespace muster::ops
