#include "worker/train/lr_schedule.h"

namespace muster::train {

LrSchedule::LrSchedule(const config::v1::Schedule& schedule, int64_t images_per_step)
    : schedule_(schedule), base_(schedule.optimizer().lr()) {
  if (schedule.optimizer().has_reference_batch()) {
    base_ *= static_cast<double>(images_per_step) / schedule.optimizer().reference_batch();
  }
}

double LrSchedule::At(double warmed, int epoch) const {
  double rate = base_;
  for (const uint32_t step_epoch : schedule_.step_epochs()) {
    if (epoch >= static_cast<int>(step_epoch)) rate *= schedule_.gamma();
  }
  if (warmed < schedule_.warmup_steps()) {
    const double left = 1 - warmed / schedule_.warmup_steps();
    rate *= 1 - left * (1 - schedule_.warmup_ratio());
  }
  return rate;
}

}  // namespace muster::train
