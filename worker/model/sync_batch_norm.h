#pragma once

#include <torch/types.h>

#include <vector>

#include "worker/dist/communicator.h"
#include "worker/model/statistics_tape.h"

namespace muster::model {

// One batch normalisation layer's input in training. All tensors are of one device and, float32 or
// float64, of one dtype; x may be bfloat16 beside float32.
struct SyncBatchNormInput {
  at::Tensor x;             // (N, C, H, W); N may be 0
  at::Tensor weight;        // (C)
  at::Tensor bias;          // (C)
  at::Tensor running_mean;  // (C), updated in place; undefined: not kept
  at::Tensor running_var;   // (C), likewise
  double momentum = 0.1;
  double eps = 1e-5;
};

// Batch normalisation over the elements of all ranks: y = (x - mean) / sqrt(var + eps) * weight +
// bias, where every element counts the same, so that ranks may differ in N, H and W. Layers may
// differ in everything; the result does not depend, to the bit, on which layers share a call.
//
// One all-gather of (mean, M2, count) carries all layers forward, and one of (sum dy, sum dy*xhat)
// carries them backward; both are merged in rank order in float64, so every rank has the same bits
// of statistics and running statistics. A rank with N = 0 still takes part in both. Gradients of
// weight and bias are this rank's sums: the gradient reducer adds them up. Running variance takes
// M2 / (count - 1). (Formulas: Chan et al. 1979 for the merge; the gradient of batch normalisation
// with one shared count.)
//
// All outputs of a call must take part in the loss on every rank: backward runs once for the group,
// when the last output's gradient is there. `communicator` null or of size 1: no collective.
// `tape`, where given, records the merged statistics, or plays them back: then there is no
// collective forward and no update. Throws c10::Error for shapes that do not fit,
// dist::CollectiveLost for a failed collective.
std::vector<at::Tensor> SyncBatchNorm(const std::vector<SyncBatchNormInput>& layers,
                                      dist::Communicator* communicator,
                                      StatisticsTape* tape = nullptr);

}  // namespace muster::model
