#pragma once

#include <string>

#include "muster/v1/job_service.pb.h"

namespace muster::testing {

// A request with a small valid config, for one node.
v1::CreateJobRequest SmallJobRequest(const std::string& job_id, const std::string& request_id = "");

}  // namespace muster::testing
