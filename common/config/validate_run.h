#pragma once

#include "common/config/checker.h"
#include "muster/config/v1/train_job.pb.h"

namespace muster::config {

// Resources, distributed and checkpointing of a job with its defaults.
void CheckRun(Checker* check, const v1::TrainJob& job);

}  // namespace muster::config
