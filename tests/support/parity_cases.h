#pragma once

#include <torch/types.h>

#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/ops/index_sampler.h"

namespace muster::testing {

// One run of the oracle, found by its files (../shared/oracle/README.md tells what they hold).
struct ParityCase {
  std::filesystem::path folder;
  // ARCH_IMAGES_BN_SAMPLER[_lrX][_float64] or ARCH_IMAGES_test[_float64]: the files' common stem.
  std::string stem;
  std::string arch;        // tiny, w18, w32, r50, ...
  std::string images;      // small, small4u, emptygt, crowd, ...
  bool norm_eval = false;  // training with the running statistics
  bool first_k = false;    // the sampler: the first candidates, or strided
  bool is_float64 = false;

  at::ScalarType type() const { return is_float64 ? at::kDouble : at::kFloat; }
  // The stem as a test's name.
  std::string test_name() const;
  std::filesystem::path initial_weights() const { return folder / (arch + "_init.safetensors"); }
  std::filesystem::path batch() const {
    return folder / (arch + "_" + images + "_batch.safetensors");
  }
  // stem + suffix, for example "_step0.safetensors".
  std::filesystem::path file(const std::string& suffix) const { return folder / (stem + suffix); }
};

// For GoogleTest's messages.
inline void PrintTo(const ParityCase& parity_case, std::ostream* out) { *out << parity_case.stem; }

struct ParityCases {
  std::vector<ParityCase> training;
  std::vector<ParityCase> inference;
};

// The cases below the folders of $MUSTER_PARITY_CASES (separated by ':'), by default
// <shared>/oracle/cases and build/parity-cases (which tests/parity/make_cases.sh makes). Where
// $MUSTER_PARITY_ARCHS is set ("tiny", or "w18,w32,r50"), only those models'. Of a case in two
// folders the first counts.
ParityCases FindParityCases();

// The case's model, with the assigners' ignore_iof_thr that the batch file names, if it does.
config::v1::Model ModelOfCase(const ParityCase& parity_case);

}  // namespace muster::testing
