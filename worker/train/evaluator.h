#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "muster/v1/progress.pb.h"
#include "worker/dist/communicator.h"
#include "worker/eval/coco_eval.h"
#include "worker/eval/detections.h"
#include "worker/model/faster_rcnn.h"
#include "worker/train/data_split.h"

namespace muster::train {

struct EvaluationOutcome {
  eval::CocoResult result;
  std::vector<eval::Detection> detections;  // by image
};

// Runs a detector over the validation images and scores it by COCO's rules, shared by all ranks.
class Evaluator {
 public:
  // `job` has been through ApplyDefaults; `split` outlives the evaluator. Throws TrainingFailure
  // when the config does not fit.
  Evaluator(const config::v1::TrainJob& job, const DataSplit& split, at::Device device);

  // Called after each batch with this rank's images done so far and its total.
  using OnProgress = std::function<void(int64_t done, int64_t total)>;

  // Detections of rank's share of the images. Leaves the model in eval mode. Throws TrainingFailure
  // for an image that cannot be read.
  std::vector<eval::Detection> Detect(model::FasterRCNN& model, int rank, int world_size,
                                      const OnProgress& on_progress) const;
  // The same for the given images (indices into the data set).
  std::vector<eval::Detection> Detect(model::FasterRCNN& model, const std::vector<int>& images,
                                      int rank, int world_size,
                                      const OnProgress& on_progress) const;

  // All ranks call it; rank 0 gets the outcome. Leaves the model in eval mode.
  std::optional<EvaluationOutcome> Evaluate(model::FasterRCNN& model, dist::Communicator& control,
                                            const OnProgress& on_progress) const;

 private:
  const config::v1::TrainJob job_;
  const DataSplit& split_;
  const at::Device device_;
};

// The figures as they are reported.
v1::EvalResult ToEvalResult(const eval::CocoResult& result, int epoch, int64_t step);

}  // namespace muster::train
