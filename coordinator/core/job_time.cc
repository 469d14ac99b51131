// The part of JobMachine that counts its time on nodes.
#include <algorithm>

#include "absl/strings/str_cat.h"

#include "coordinator/core/fair_share.h"
#include "coordinator/core/job_machine.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {

using v1::Job;

absl::Duration JobMachine::RunTime(Instant now) const {
  const absl::Duration counted = FromProto(record_.run_time());
  return Live() ? counted + std::max(absl::ZeroDuration(), now.monotonic - charged_) : counted;
}

absl::Duration JobMachine::MaxRunTime() const {
  const absl::Duration limit = FromProto(job().config().resources().max_run_time());
  return limit > absl::ZeroDuration() ? limit : absl::InfiniteDuration();
}

std::string JobMachine::RunTimeReason() const {
  return absl::StrCat("max_run_time (", InWords(MaxRunTime()), ") is used up");
}

void JobMachine::ChargeTime(Instant now, JobOutput* out) {
  if (!Live()) return;
  const absl::Duration passed = std::max(absl::ZeroDuration(), now.monotonic - charged_);
  *record_.mutable_run_time() = ToProto(RunTime(now));
  charged_ = now.monotonic;
  int slots = 0;
  for (const internal::ShareRecord& share : record_.shares()) slots += share.ranks_size();
  const double used = slots * absl::ToDoubleSeconds(passed);
  record_.set_use(DecayedUse(record_.use(), now.wall - FromTimestamp(job().update_time())) + used);
  out->slot_seconds += used;
}

bool JobMachine::RunTimeUsedUp(Instant now) const {
  return Wanted() && RunTime(now) >= MaxRunTime();
}

void JobMachine::EndRunTime(Instant now, JobOutput* out) {
  record_.set_fatal_reason(RunTimeReason());
  AddEvent("RunTimeUsedUp", record_.fatal_reason(), now, out);
  EndGeneration(record_.fatal_reason(), now, out);
}

absl::Duration JobMachine::ExpectedRunTime(Instant now) const {
  const absl::Duration grace = FromProto(job().config().resources().grace_period());
  absl::Duration expected = MaxRunTime() - RunTime(now) + grace;
  if (job().progress().has_eta()) {
    expected = std::min(expected, FromProto(job().progress().eta()));
  }
  return expected;
}

absl::Duration JobMachine::ExpectedEnd(Instant now) const {
  const absl::Duration grace = FromProto(job().config().resources().grace_period());
  if (!Wanted()) return phase_start_ + grace;
  return std::min(now.monotonic + (MaxRunTime() - RunTime(now)) + grace, eta_end_);
}

}  // namespace muster::coordinator
