#pragma once

#include <torch/nn/module.h>

#include <cstdint>

#include "muster/config/v1/train_job.pb.h"

namespace muster::model {

// Draws a detector's weights as mmdetection does without a checkpoint, from a generator of its own:
// the same weights on every rank that passes the same seed. By name:
//   backbone.*                       convolutions: normal, variance 2 / fan_out (He et al. 2015)
//   neck.* of FPN                    uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio
//                                    2010)
//   neck.* of HRFPN                  uniform in +-sqrt(3 / fan_in), but
//   neck.reduction_conv.* of MMDET3  normal, variance 2 / fan_out: it is a module of its own there
//                                    (mmcv ConvModule), drawn after the neck
//   rpn_head.*, bbox_head.fc_cls     normal, deviation 0.01;  bbox_head.fc_reg: 0.001
//   bbox_head.shared_fcs.*           uniform in +-sqrt(6 / (fan_in + fan_out)) as in FPN
// Biases 0; weights of normalisations stay as they were constructed. `config`: the detector's.
void InitializeWeights(torch::nn::Module& detector, const config::v1::Model& config, uint64_t seed);

}  // namespace muster::model
