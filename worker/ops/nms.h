#pragma once

#include <torch/types.h>

namespace muster::ops {

// Greedy non-maximum suppression: of two boxes that overlap by more than `iou_threshold` (IoU,
// strictly) the better scored one stays; equal scores: the one with the lower index. boxes (N, 4),
// scores (N), of one floating dtype and device. Returns the int64 indices that stay, best score
// first.
at::Tensor Nms(const at::Tensor& boxes, const at::Tensor& scores, double iou_threshold);

// The same within each group (class or level; int64 (N)) only. As in mmdetection each group's boxes
// are first shifted by group x (largest coordinate + 1), which rounds the IoUs of the later groups.
at::Tensor BatchedNms(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups,
                      double iou_threshold);

// Indices of the scores (N), largest first, equal ones by index; NaN counts as the largest.
at::Tensor DescendingOrder(const at::Tensor& scores);

}  // namespace muster::ops
