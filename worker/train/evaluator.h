#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "muster/v1/progress.pb.h"
#include "worker/data/transforms.h"
#include "worker/dist/communicator.h"
#include "worker/eval/coco_eval.h"
#include "worker/eval/detections.h"
#include "worker/model/faster_rcnn.h"
#include "worker/train/data_split.h"

namespace muster::train {

// The same `complete` on every rank; the rest on rank 0 only.
struct EvaluationOutcome {
  bool complete = false;  // no rank was asked to stop
  eval::CocoResult result;
  std::vector<eval::Detection> detections;  // by image
};

// Runs a detector over the validation images, with the job's precision and test-time augmentation,
// and scores it by COCO's rules. The ranks share the batches, which do not depend on the number of
// ranks, and neither do the detections.
class Evaluator {
 public:
  // `job` has been through ApplyDefaults; `split` outlives the evaluator. Throws TrainingFailure
  // when the config does not fit.
  Evaluator(const config::v1::TrainJob& job, const DataSplit& split, at::Device device);

  // Called at the start and after each batch with the number of images that are done, of all ranks
  // if these are as far as this one (an image counts once for each view), and the total, which it
  // is once this rank's share is done. False: stop.
  using OnProgress = std::function<bool(int64_t done, int64_t total)>;

  // Detections in the given images (indices into the data set), in no order of images; nullopt when
  // it was stopped. Leaves the model in eval mode. Throws TrainingFailure for an image that cannot
  // be read.
  std::optional<std::vector<eval::Detection>> Detect(model::FasterRCNN& model,
                                                     const std::vector<int>& images,
                                                     const OnProgress& on_progress) const;

  // Over all images; every rank calls it. Leaves the model in eval mode.
  EvaluationOutcome Evaluate(model::FasterRCNN& model, dist::Communicator& control,
                             const OnProgress& on_progress) const;

 private:
  std::optional<std::vector<eval::Detection>> DetectShare(model::FasterRCNN& model,
                                                          const std::vector<int>& images, int rank,
                                                          int world_size,
                                                          const OnProgress& on_progress) const;

  const config::v1::TrainJob job_;
  const DataSplit& split_;
  const at::Device device_;
  const std::vector<data::PipelineOptions> views_;
};

// The figures as they are reported.
v1::EvalResult ToEvalResult(const eval::CocoResult& result, int epoch, int64_t step);

}  // namespace muster::train
