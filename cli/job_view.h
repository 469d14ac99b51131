#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

#include "muster/v1/job.pb.h"

// How jobs look in a terminal. Pure.
namespace muster::cli {

struct ViewOptions {
  bool color = false;
  int width = 80;
};

// The live view of one job: a few lines that are drawn over again.
std::vector<std::string> LiveView(const v1::Job& job, const ViewOptions& options);

// The same in one line, for logs and pipes.
std::string ProgressLine(const v1::Job& job);
std::string EventLine(const v1::JobEvent& event);
std::string EvaluationLine(const v1::EvalResult& result);

std::string JobTable(const std::vector<v1::Job>& jobs, absl::Time now);

// Everything about one job, the first failure with the end of its standard error included.
std::string Description(const v1::Job& job, const std::vector<v1::JobEvent>& events, absl::Time now,
                        const ViewOptions& options);

}  // namespace muster::cli
