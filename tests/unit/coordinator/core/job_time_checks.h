#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/time/time.h"

#include "coordinator/core/timestamps.h"
#include "tests/support/cluster_driver.h"

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

  void Look(const v1::Job& job, coordinator::Instant now) {
    // Ticks come four times a second.
    const absl::Duration tick = absl::Milliseconds(250);
    const Seen seen{DoingOf(job), job.generation(), now.monotonic};
    const Seen& before = seen_.try_emplace(job.name(), seen).first->second;
    if (before.doing != seen.doing || before.generation != seen.generation) {
      seen_[job.name()] = seen;
    } else if (seen.doing == Doing::kStarting) {
      EXPECT_LE(seen.since - before.since, times_.start_timeout + tick)
          << job.name() << " starts for ever";
    } else if (seen.doing == Doing::kEnding) {
      EXPECT_LE(seen.since - before.since, times_.StopLimit() + tick)
          << job.name() << " ends for ever";
    }
  }
  // A new coordinator grants all time anew.
  void Forget() { seen_.clear(); }

 private:
  enum class Doing { kStarting, kEnding, kOther };
  struct Seen {
    Doing doing = Doing::kOther;
    int64_t generation = 0;
    absl::Duration since;
  };

  static Doing DoingOf(const v1::Job& job) {
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

  const JobTimes times_;
  std::map<std::string, Seen> seen_;
};

// From the job's events: after each failure that counted it has waited long enough.
inline void CheckBackoff(ClusterDriver* driver, const std::string& name, const JobTimes& times) {
  int restarts = 0;
  int in_a_row = 0;
  bool started = false;
  bool wrote = false;
  std::optional<absl::Time> not_before;
  for (const v1::JobEvent& event : driver->state().EventsAfter(name, 0)) {
    const absl::Time time = coordinator::FromTimestamp(event.time());
    if (event.type() == "Placed") {
      EXPECT_GE(time, not_before.value_or(time)) << name << ": " << event.message();
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
      ASSERT_TRUE(absl::SimpleAtoi(digit, &used)) << event.message();
      if (wrote) in_a_row = 0;
      not_before.reset();
      if (used > restarts) not_before = time + times.restart_backoff * (1 << in_a_row++);
      restarts = used;
    }
  }
}

}  // namespace muster::testing
