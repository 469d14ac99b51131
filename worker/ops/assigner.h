#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace muster::ops {

// As mmdetection's MaxIoUAssigner.
struct AssignerOptions {
  double pos_iou_thr = 0.5;
  double neg_iou_thr = 0.5;
  // Least IoU of a low-quality match.
  double min_pos_iou = 0.5;
  // Give each ground truth the priors that overlap it most (all that tie), even below pos_iou_thr.
  bool match_low_quality = true;
  // A prior with more than this share of itself inside one ignored box is left out; <= 0: never.
  double ignore_iof_thr = -1;
};

constexpr int64_t kAssignedNegative = 0;
constexpr int64_t kAssignedIgnored = -1;

struct Assignment {
  // Per prior: kAssignedNegative, kAssignedIgnored, or 1 + the index of its ground truth.
  std::vector<int64_t> gt_index;
  // Per prior: its largest IoU with a ground truth; 0 without ground truth, -1 where ignored by a
  // crowd box. The dtype of the computation.
  at::Tensor max_overlaps;
};

// priors (N, 4), gt_bboxes (G, 4), gt_bboxes_ignore (K, 4) or undefined; on the CPU. IoUs are
// computed in the wider of the dtypes of priors and gt_bboxes. Without ground truth every prior is
// negative, as in mmdetection, whatever the ignored boxes.
Assignment AssignMaxIoU(const at::Tensor& priors, const at::Tensor& gt_bboxes,
                        const at::Tensor& gt_bboxes_ignore, const AssignerOptions& options);

}  // namespace muster::ops
