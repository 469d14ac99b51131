// Training against mmdetection 3.3: every case of the oracle that is found.

#include <gtest/gtest.h>

#include "tests/support/parity_cases.h"
#include "tests/support/shared_data.h"
#include "tests/support/training_checks.h"

namespace muster::testing {
namespace {

class TrainingCase : public ::testing::TestWithParam<ParityCase> {};

TEST_P(TrainingCase, Forward) { TrainingChecks(GetParam()).CheckForward(); }

TEST_P(TrainingCase, Backward) { TrainingChecks(GetParam()).CheckBackward(); }

TEST_P(TrainingCase, SamplesAndTargets) { TrainingChecks(GetParam()).CheckSamples(); }

TEST_P(TrainingCase, Losses) { TrainingChecks(GetParam()).CheckLosses(); }

INSTANTIATE_TEST_SUITE_P(Oracle, TrainingCase, ::testing::ValuesIn(FindParityCases().training),
                         [](const auto& test) { return test.param.test_name(); });

std::vector<ParityCase> Float64Cases() {
  std::vector<ParityCase> cases;
  for (const ParityCase& found : FindParityCases().training) {
    if (found.is_float64) cases.push_back(found);
  }
  return cases;
}

class Float64Case : public ::testing::TestWithParam<ParityCase> {};

TEST_P(Float64Case, WholeStep) { TrainingChecks(GetParam()).CheckWholeStep(); }

TEST_P(Float64Case, Steps) { TrainingChecks(GetParam()).CheckSteps(); }

INSTANTIATE_TEST_SUITE_P(Oracle, Float64Case, ::testing::ValuesIn(Float64Cases()),
                         [](const auto& test) { return test.param.test_name(); });

// Our own BatchNorm, which any number of ranks share; here one.
std::vector<ParityCase> SyncBatchNormCases() {
  std::vector<ParityCase> cases;
  for (const ParityCase& found : Float64Cases()) {
    if (!found.norm_eval && found.arch == "tiny") cases.push_back(found);
  }
  return cases;
}

class SyncBatchNormCase : public ::testing::TestWithParam<ParityCase> {};

config::v1::Model WithSyncBatchNorm(const ParityCase& parity_case) {
  config::v1::Model config = ModelOfCase(parity_case);
  config.mutable_norm()->set_type(config::v1::NORM_TYPE_SYNC_BN);
  return config;
}

TEST_P(SyncBatchNormCase, WholeStep) {
  TrainingChecks(GetParam(), WithSyncBatchNorm(GetParam())).CheckWholeStep();
}

TEST_P(SyncBatchNormCase, Steps) {
  TrainingChecks(GetParam(), WithSyncBatchNorm(GetParam())).CheckSteps();
}

INSTANTIATE_TEST_SUITE_P(Oracle, SyncBatchNormCase, ::testing::ValuesIn(SyncBatchNormCases()),
                         [](const auto& test) { return test.param.test_name(); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SyncBatchNormCase);

TEST(OracleCases, AreFound) {
  if (FindParityCases().training.empty())
    GTEST_SKIP() << "no cases: see tests/parity/make_cases.sh";
}

}  // namespace
}  // namespace muster::testing
