#pragma once

#include <cstdint>

#include "muster/config/v1/train_job.pb.h"

namespace muster::train {

// The learning rate of a step: lr, scaled to the batch when optimizer.reference_batch is set; times
// gamma for each of step_epochs that is over; in the first warmup_steps steps times
// 1 - (1 - step / warmup_steps) * (1 - warmup_ratio).
//
// The warm-up is mmdetection 0.6's for both conventions: it reaches the full rate at step
// warmup_steps, mmdetection 3's LinearLR one step earlier, which no result depends on.
class LrSchedule {
 public:
  // `schedule` has been through ApplyDefaults; images_per_step of all ranks.
  LrSchedule(const config::v1::Schedule& schedule, int images_per_step);

  // `step` counts from 0 over the whole job; `epoch`: epochs that are over.
  double At(int64_t step, int epoch) const;

 private:
  const config::v1::Schedule schedule_;
  double base_ = 0;
};

}  // namespace muster::train
