#pragma once

#include "absl/time/time.h"

namespace muster::base {

// The time. Everything that waits or dates something takes a Clock (and a TimerQueue) from its
// constructor, so that tests own the time. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Wall time, for records that people read. May jump.
  virtual absl::Time Now() const = 0;
  // Never falls; counts from an arbitrary start. For leases, timeouts and durations.
  virtual absl::Duration Monotonic() const = 0;
};

// The machine's clocks.
class SystemClock : public Clock {
 public:
  absl::Time Now() const override;
  absl::Duration Monotonic() const override;
};

// SystemClock's Monotonic(), for code that only measures how long its own work takes.
absl::Duration MonotonicNow();

}  // namespace muster::base
