#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include "coordinator/core/command.h"
#include "muster/v1/job.pb.h"

namespace muster::testing {

// The times in a job's config.
struct JobTimes {
  absl::Duration grace_period;
  absl::Duration start_timeout;
  absl::Duration restart_backoff;

  // From when nothing of a generation is wanted until a node that holds it is given up.
  absl::Duration StopLimit() const { return grace_period + absl::Seconds(30); }
};

// Looks at jobs again and again: nothing that a node could hold up lasts longer than its limit.
class JobTimeWatch {
 public:
  explicit JobTimeWatch(const JobTimes& times) : times_(times) {}

  // What is wrong, if anything. `paused`: a node of the job is frozen, so that no limit runs.
  std::optional<std::string> Look(const v1::Job& job, coordinator::Instant now, bool paused);
  // A new coordinator grants all time anew.
  void Forget() { seen_.clear(); }

 private:
  enum class Doing { kStarting, kEnding, kOther };
  struct Seen {
    Doing doing = Doing::kOther;
    int64_t generation = 0;
    absl::Duration since;
  };
  static Doing DoingOf(const v1::Job& job);

  const JobTimes times_;
  std::map<std::string, Seen> seen_;
};

// From the job's events: what is wrong if it has not waited long enough after each failure that
// counted. The wall clock must not have jumped.
std::optional<std::string> CheckBackoff(const std::vector<v1::JobEvent>& events,
                                        const JobTimes& times);

}  // namespace muster::testing
