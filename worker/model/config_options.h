#pragma once

#include "muster/config/v1/train_job.pb.h"
#include "worker/ops/assigner.h"
#include "worker/ops/boxes.h"
#include "worker/ops/candidate_sampler.h"
#include "worker/ops/losses.h"

namespace muster::model {

// The ops' options out of a config that has been through ApplyDefaults.
ops::BoxConvention ConventionOf(config::v1::Conventions conventions);
ops::AssignerOptions OptionsOf(const config::v1::Assigner& assigner);
ops::CandidateSamplerOptions OptionsOf(const config::v1::Sampler& sampler);
ops::RegressionLoss LossOf(config::v1::RegressionLoss loss);

}  // namespace muster::model
