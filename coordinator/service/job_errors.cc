#include "coordinator/service/job_errors.h"

#include "common/rpc/errors.h"

namespace muster::coordinator {

grpc::Status JobError(const absl::Status& status) {
  const char* reason = "INVALID_REQUEST";
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return grpc::Status::OK;
    case absl::StatusCode::kNotFound:
      reason = "JOB_NOT_FOUND";
      break;
    case absl::StatusCode::kAlreadyExists:
      reason = "JOB_ALREADY_EXISTS";
      break;
    case absl::StatusCode::kFailedPrecondition:
      reason = "JOB_STATE";
      break;
    case absl::StatusCode::kUnavailable:
      reason = "UNAVAILABLE";
      break;
    case absl::StatusCode::kResourceExhausted:
      reason = "READER_TOO_SLOW";
      break;
    default:
      break;
  }
  return rpc::ToGrpcStatus(rpc::Error(status.code(), reason, status.message()));
}

}  // namespace muster::coordinator
