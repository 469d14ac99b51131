#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace muster::coordinator {

// The gRPC status of an error about a job, with the reason that belongs to its code.
grpc::Status JobError(const absl::Status& status);

}  // namespace muster::coordinator
