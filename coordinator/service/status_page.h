#pragma once

#include <string>
#include <vector>

#include "muster/v1/job.pb.h"
#include "muster/v1/node.pb.h"

namespace muster::coordinator {

// A page of HTML that reloads itself: jobs with their progress and mAP, newest first, and nodes.
// All text of jobs and nodes is escaped.
std::string RenderStatusPage(const std::vector<v1::Job>& jobs, const std::vector<v1::Node>& nodes);

}  // namespace muster::coordinator
