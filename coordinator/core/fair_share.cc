#include "coordinator/core/fair_share.h"

#include <cmath>

namespace muster::coordinator {

double DecayedUse(double slot_seconds, absl::Duration age) {
  if (slot_seconds == 0 || age <= absl::ZeroDuration()) return slot_seconds;
  return slot_seconds * std::exp2(-absl::FDivDuration(age, kUseHalfLife));
}

void FairShare::Charge(const std::string& creator, double slot_seconds, absl::Time now) {
  Use& use = uses_[creator];
  use.slot_seconds = DecayedUse(use.slot_seconds, now - use.at) + slot_seconds;
  use.at = now;
}

void FairShare::AddHeld(const std::string& creator, int slots) { uses_[creator].held += slots; }

double FairShare::Of(const std::string& creator, absl::Time now) const {
  auto it = uses_.find(creator);
  if (it == uses_.end()) return 0;
  const Use& use = it->second;
  return DecayedUse(use.slot_seconds, now - use.at) +
         use.held * absl::ToDoubleSeconds(kHeldSlotCounts);
}

}  // namespace muster::coordinator
