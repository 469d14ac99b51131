#pragma once

#include <cstdint>

#include "muster/config/v1/train_job.pb.h"

namespace muster::train {

// The learning rate of a step: lr, scaled to the batch when optimizer.reference_batch is set; times
// gamma for each of step_epochs that is over; in the warm-up times
// 1 - (1 - warmed / warmup_steps) * (1 - warmup_ratio).
//
// The warm-up is mmdetection 0.6's for both conventions: it reaches the full rate at step
// warmup_steps, mmdetection 3's LinearLR one step earlier, which no result depends on.
class LrSchedule {
 public:
  // `schedule` has been through ApplyDefaults; images_per_step: images_per_rank x ranks x
  // accumulative_counts.
  LrSchedule(const config::v1::Schedule& schedule, int64_t images_per_step);

  // `warmed`: steps done before this one, in steps of the batch that the job began with (a fraction
  // after a resume with another batch: the warm-up goes on in images). `epoch`: epochs that are
  // over.
  double At(double warmed, int epoch) const;

 private:
  const config::v1::Schedule schedule_;
  double base_ = 0;
};

}  // namespace muster::train
