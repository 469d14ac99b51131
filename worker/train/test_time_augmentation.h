#pragma once

#include <vector>

#include "absl/status/statusor.h"

#include "muster/config/v1/train_job.pb.h"
#include "worker/data/transforms.h"
#include "worker/model/batch.h"

// Test-time augmentation as mmdetection 3's DetTTAModel does it.
namespace muster::train {

// The ways in which evaluation shows an image to the model: at each of evaluation.tta_scales
// (none: data.test_scale), and mirrored as well with evaluation.tta_flip. One without augmentation.
// `job` has been through ApplyDefaults. InvalidArgument where a scale and the canvas do not fit.
absl::StatusOr<std::vector<data::PipelineOptions>> EvaluationViews(const config::v1::TrainJob& job);

// Detections of a mirrored image `width` original pixels wide, as they lie in the image itself.
model::Detections Unmirror(model::Detections detections, double width);

// Detections of all views of one image become one set: what is left of them after the head's NMS
// (within each class unless class_agnostic_nms), the best max_per_img. A single view's are returned
// as they are.
model::Detections MergeViews(std::vector<model::Detections> views,
                             const config::v1::RoIHead& config);

}  // namespace muster::train
