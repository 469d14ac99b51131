#pragma once

#include <string>

#include "muster/config/v1/train_job.pb.h"

namespace muster::config {

// The job as a textproto file that LoadTrainJob reads back to the same message, with the header
// that editors and protoc use. For the effective config, apply the defaults before.
std::string RenderTrainJob(const v1::TrainJob& job);

}  // namespace muster::config
