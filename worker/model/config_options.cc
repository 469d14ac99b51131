#include "worker/model/config_options.h"

namespace muster::model {

ops::BoxConvention ConventionOf(config::v1::Conventions conventions) {
  return conventions == config::v1::CONVENTIONS_SEED ? ops::BoxConvention::kSeed
                                                     : ops::BoxConvention::kMmdet3;
}

ops::AssignerOptions OptionsOf(const config::v1::Assigner& assigner) {
  ops::AssignerOptions options;
  options.pos_iou_thr = assigner.pos_iou_thr();
  options.neg_iou_thr = assigner.neg_iou_thr();
  options.min_pos_iou = assigner.min_pos_iou();
  options.match_low_quality = assigner.match_low_quality();
  options.ignore_iof_thr = assigner.ignore_iof_thr();
  return options;
}

ops::CandidateSamplerOptions OptionsOf(const config::v1::Sampler& sampler) {
  return {static_cast<int64_t>(sampler.num()), sampler.pos_fraction()};
}

ops::RegressionLoss LossOf(config::v1::RegressionLoss loss) {
  return loss == config::v1::REGRESSION_LOSS_SMOOTH_L1 ? ops::RegressionLoss::kSmoothL1
                                                       : ops::RegressionLoss::kL1;
}

}  // namespace muster::model
