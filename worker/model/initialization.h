#pragma once

#include <torch/nn/module.h>

#include <cstdint>

namespace muster::model {

// Draws a detector's weights as mmdetection 3.3 does without a checkpoint, from a generator of its
// own: the same weights on every rank that passes the same seed. By name:
//   backbone.*                       convolutions: normal, variance 2 / fan_out (He et al. 2015)
//   neck.*                           uniform in +-sqrt(3 / fan_in)
//   rpn_head.*, bbox_head.fc_cls     normal, deviation 0.01;  bbox_head.fc_reg: 0.001
//   bbox_head.shared_fcs.*           uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio
//   2010)
// Biases 0; normalisation 1 and 0.
void InitializeWeights(torch::nn::Module& detector, uint64_t seed);

}  // namespace muster::model
