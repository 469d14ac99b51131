#include "tests/support/job_time_checks.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "coordinator/core/timestamps.h"

namespace muster::testing {

std::optional<std::string> JobTimeWatch::Look(const v1::Job& job, coordinator::Instant now,
                                              bool paused) {
  // Ticks come four times a second.
  const absl::Duration tick = absl::Milliseconds(250);
  const Seen seen{DoingOf(job), job.generation(), now.monotonic};
  const Seen& before = seen_.try_emplace(job.name(), seen).first->second;
  const absl::Duration lasted = seen.since - before.since;
  if (paused || before.doing != seen.doing || before.generation != seen.generation) {
    seen_[job.name()] = seen;
  } else if (seen.doing == Doing::kStarting && lasted > times_.start_timeout + tick) {
    return absl::StrCat(job.name(), " starts for ever");
  } else if (seen.doing == Doing::kEnding && lasted > times_.StopLimit() + tick) {
    return absl::StrCat(job.name(), " ends for ever");
  }
  return std::nullopt;
}

JobTimeWatch::Doing JobTimeWatch::DoingOf(const v1::Job& job) {
  switch (job.state()) {
    case v1::Job::STATE_STARTING:
      return Doing::kStarting;
    case v1::Job::STATE_RESTARTING:
    case v1::Job::STATE_CANCELLING:
      return Doing::kEnding;
    default:
      return Doing::kOther;
  }
}

std::optional<std::string> CheckBackoff(const std::vector<v1::JobEvent>& events,
                                        const JobTimes& times) {
  int restarts = 0;
  int in_a_row = 0;
  bool started = false;
  bool wrote = false;
  std::optional<absl::Time> not_before;
  for (const v1::JobEvent& event : events) {
    const absl::Time time = coordinator::FromTimestamp(event.time());
    if (event.type() == "Placed") {
      if (time < not_before.value_or(time)) {
        return absl::StrCat(event.job(), " was placed before its wait was over: ", event.message());
      }
      started = wrote = false;
    } else if (event.type() == "Started") {
      started = true;
    } else if (event.type() == "Checkpoint") {
      // Before, nodes name those of earlier generations.
      wrote |= started;
    } else if (event.type() == "Restarting") {
      // "... (1 of 3 restarts used)"
      int used = 0;
      const std::string digit = event.message().substr(event.message().rfind('(') + 1, 1);
      if (!absl::SimpleAtoi(digit, &used)) return event.message();
      if (wrote) in_a_row = 0;
      not_before.reset();
      if (used > restarts && !wrote) not_before = time + times.restart_backoff * (1 << in_a_row++);
      restarts = used;
    }
  }
  return std::nullopt;
}

}  // namespace muster::testing
