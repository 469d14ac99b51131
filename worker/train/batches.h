#pragma once

#include <torch/types.h>

#include <memory>

#include "worker/data/data_loader.h"
#include "worker/model/batch.h"

namespace muster::train {

// The loader's batch as the model takes it, on `device`. On the CPU the images share the batch's
// memory, which they keep alive.
model::TrainBatch ToTrainBatch(const std::shared_ptr<data::Batch>& batch, at::Device device);
model::PredictBatch ToPredictBatch(const std::shared_ptr<data::Batch>& batch, at::Device device);

}  // namespace muster::train
