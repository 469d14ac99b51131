#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/base/exit_codes.h"

namespace muster::train {

// Ends the program with an exit code and one line for a person. Thrown where torch's exceptions
// pass anyway, and caught by the commands.
class TrainingFailure : public std::runtime_error {
 public:
  TrainingFailure(base::ExitCode code, const std::string& message)
      : std::runtime_error(message), exit_code(code) {}

  const base::ExitCode exit_code;
};

// Throws TrainingFailure with `code` and the status's message when it is not ok.
void Require(const absl::Status& status, base::ExitCode code);

template <typename T>
T Require(absl::StatusOr<T> value, base::ExitCode code) {
  Require(value.status(), code);
  return *std::move(value);
}

// The exit code and the line for the exception that is being handled.
struct FailureReport {
  base::ExitCode exit_code = base::kExitInternal;
  std::string message;
};
FailureReport DescribeCurrentException();

}  // namespace muster::train
