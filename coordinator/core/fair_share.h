#pragma once

#include <map>
#include <string>

#include "absl/time/time.h"

namespace muster::coordinator {

// Use of slots counts half after so long.
inline constexpr absl::Duration kUseHalfLife = absl::Hours(24);
// Each slot held counts at once as if it had been used for so long: what its job is about to use.
inline constexpr absl::Duration kHeldSlotCounts = absl::Hours(1);

// `slot_seconds` of use, `age` later. A clock that was set back makes nothing larger.
double DecayedUse(double slot_seconds, absl::Duration age);

// How much of the cluster each creator of jobs has had lately. Times are Instant::wall. Not
// thread-safe.
class FairShare {
 public:
  void Charge(const std::string& creator, double slot_seconds, absl::Time now);
  void AddHeld(const std::string& creator, int slots);
  // Decayed slot-seconds, slots held counted by kHeldSlotCounts.
  double Of(const std::string& creator, absl::Time now) const;

 private:
  struct Use {
    double slot_seconds = 0;
    absl::Time at = absl::InfinitePast();
    int held = 0;
  };
  std::map<std::string, Use> uses_;
};

}  // namespace muster::coordinator
