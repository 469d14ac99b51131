#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"

namespace muster::rpc {

// One field of a request that is wrong, and the fix.
struct FieldViolation {
  // Path from the request, for example "job.config.data.images_per_rank".
  std::string field;
  std::string description;
};

// An error with one google.rpc.ErrorInfo {reason, domain "muster", metadata}. `reason` is
// UPPER_SNAKE_CASE. The details travel as payloads of the absl::Status.
absl::Status Error(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                   const std::map<std::string, std::string>& metadata = {});

// INVALID_ARGUMENT with reason BAD_REQUEST and a google.rpc.BadRequest of all violations; the
// message holds the first and how many more there are.
absl::Status BadRequestError(const std::vector<FieldViolation>& violations);

// The ErrorInfo's reason; empty where there is none.
std::string ErrorReason(const absl::Status& status);
std::vector<FieldViolation> FieldViolations(const absl::Status& status);

// Keep code, message and details. Unknown codes become UNKNOWN.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace muster::rpc
