#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

#include "muster/config/v1/train_job.pb.h"

namespace muster::config {

struct Violation {
  // Path from the TrainJob, for example "data.multi_scale.scales[0].long_side".
  std::string field;
  // What is wrong and how to mend it, one line.
  std::string description;
};

// Everything that is wrong with a job, in the order of its fields; empty when it can run. The job
// may be as loaded or with defaults applied: the answer is the same. Files are not looked at.
std::vector<Violation> Validate(const v1::TrainJob& job);

// One line a violation: "field: description".
std::string FormatViolations(const std::vector<Violation>& violations);

}  // namespace muster::config
