#include "common/base/clock.h"

#include <ctime>

#include "absl/time/clock.h"

namespace muster::base {

absl::Time SystemClock::Now() const { return absl::Now(); }

absl::Duration SystemClock::Monotonic() const { return MonotonicNow(); }

absl::Duration MonotonicNow() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return absl::DurationFromTimespec(time);
}

}  // namespace muster::base
