#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace muster::model {

// What is known of one training image. Boxes are half-open xyxy in pixels of the resized image.
struct ImageTargets {
  at::Tensor gt_bboxes;         // (G, 4) float32, on the CPU; G may be 0
  at::Tensor gt_labels;         // (G) int64 in 0 .. num_classes - 1, on the CPU
  at::Tensor gt_bboxes_ignore;  // (K, 4) float32, on the CPU: crowd boxes; may be undefined
  // The resized image without padding, and padded to the size divisor by itself (not to the batch).
  int img_h = 0;
  int img_w = 0;
  int pad_h = 0;
  int pad_w = 0;
  // Key of the image's random draws.
  int64_t sample_id = 0;
};

struct TrainBatch {
  at::Tensor
      images;  // (N, 3, H, W), normalised and padded, of the model's dtype and device; N may be 0
  std::vector<ImageTargets> targets;  // N
};

struct PredictImage {
  // The resized image without padding.
  int img_h = 0;
  int img_w = 0;
  // Resized side / original side.
  double scale_w = 1;
  double scale_h = 1;
};

struct PredictBatch {
  at::Tensor images;               // as in TrainBatch
  std::vector<PredictImage> meta;  // N
};

// Best score first; D <= max_per_img. On the model's device.
struct Detections {
  at::Tensor boxes;   // (D, 4), half-open xyxy in pixels of the original image
  at::Tensor scores;  // (D)
  at::Tensor labels;  // (D) int64
};

// Scalars with a gradient, each already weighted: their sum is the loss.
struct LossResult {
  at::Tensor loss_rpn_cls;
  at::Tensor loss_rpn_bbox;
  at::Tensor loss_cls;
  at::Tensor loss_bbox;

  at::Tensor Total() const { return loss_rpn_cls + loss_rpn_bbox + loss_cls + loss_bbox; }
};

}  // namespace muster::model
