#include "worker/train/test_time_augmentation.h"

#include <torch/torch.h>

#include <utility>

#include "common/base/status_macros.h"
#include "worker/ops/nms.h"

namespace muster::train {

absl::StatusOr<std::vector<data::PipelineOptions>> EvaluationViews(
    const config::v1::TrainJob& job) {
  std::vector<config::v1::Scale> scales(job.evaluation().tta_scales().begin(),
                                        job.evaluation().tta_scales().end());
  if (scales.empty()) scales.push_back(job.data().test_scale());
  std::vector<data::PipelineOptions> views;
  config::v1::TrainJob view = job;
  for (const config::v1::Scale& scale : scales) {
    *view.mutable_data()->mutable_test_scale() = scale;
    MUSTER_ASSIGN_OR_RETURN(data::PipelineOptions options, data::EvaluationPipeline(view));
    views.push_back(options);
    if (job.evaluation().tta_flip()) {
      options.flip_ratio = 1;
      views.push_back(std::move(options));
    }
  }
  return views;
}

model::Detections Unmirror(model::Detections detections, double width) {
  const std::vector<at::Tensor> sides = detections.boxes.unbind(1);
  detections.boxes = at::stack({width - sides[2], sides[1], width - sides[0], sides[3]}, 1);
  return detections;
}

model::Detections MergeViews(std::vector<model::Detections> views,
                             const config::v1::RoIHead& config) {
  if (views.size() == 1) return std::move(views.front());
  std::vector<at::Tensor> boxes;
  std::vector<at::Tensor> scores;
  std::vector<at::Tensor> labels;
  for (const model::Detections& view : views) {
    boxes.push_back(view.boxes);
    scores.push_back(view.scores);
    labels.push_back(view.labels);
  }
  const model::Detections all{at::cat(boxes), at::cat(scores), at::cat(labels)};
  const double threshold = config.nms_iou_threshold();
  const at::Tensor kept =
      (config.class_agnostic_nms() ? ops::Nms(all.boxes, all.scores, threshold)
                                   : ops::BatchedNms(all.boxes, all.scores, all.labels, threshold))
          .slice(0, 0, config.max_per_img());
  return {all.boxes.index_select(0, kept), all.scores.index_select(0, kept),
          all.labels.index_select(0, kept)};
}

}  // namespace muster::train
