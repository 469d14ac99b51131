#pragma once

#include "muster/config/v1/train_job.pb.h"

namespace muster::config {

// Sets every field that has a default and is not set, so that code reads fields without fallback
// values of its own. What is left unset then means "none" or is required: backbone, data.train,
// data.val, data.root, images_per_rank, multi_scale.scales, pad_size, test_pad_size, epochs, lr,
// reference_batch, step_epochs, load_from, checkpointing.every. Idempotent.
void ApplyDefaults(v1::TrainJob* job);

}  // namespace muster::config
