#pragma once

#include <torch/types.h>

#include <vector>

#include "worker/ops/roi_align_arithmetic.h"

namespace muster::ops {

// RoIAlign with average pooling. Each region is pooled from one of the feature maps:
//   features        one (N, C, H, W) a level, float32 or float64
//   rois            (R, 5): image index, then the half-open box in pixels of the (padded) image; of
//   the
//                   features' dtype and device. No gradient flows to them.
//   levels          (R) int64: the index of each region's feature map
//   spatial_scales  one a level: 1 / stride
// -> (R, C, pooled, pooled), differentiable in the features.
at::Tensor RoiAlign(const std::vector<at::Tensor>& features, const at::Tensor& rois,
                    const at::Tensor& levels, const std::vector<double>& spatial_scales,
                    const RoiAlignParameters& parameters);

// The level (0 .. num_levels - 1) of each region (R, 5) by its size: floor(log2(sqrt(w h) / 56)),
// so that regions up to 112 pixels come from level 0 (Lin et al. 2017, with mmdetection's finest
// scale 56).
at::Tensor RoiLevels(const at::Tensor& rois, int64_t num_levels);

}  // namespace muster::ops
