#include "coordinator/core/lease_table.h"

#include <algorithm>

namespace muster::coordinator {
namespace {

// A job that claims to need longer than this for a step vouches for nobody.
constexpr absl::Duration kLongestVouching = absl::Seconds(60);

}  // namespace

void LeaseTable::Renew(const std::string& node, absl::Duration now) { last_heard_[node] = now; }

void LeaseTable::GrantGrace(const std::string& node, absl::Duration grace, absl::Duration now) {
  last_heard_[node] = now + grace - options_.lost_after;
}

void LeaseTable::Forgive(absl::Duration pause) {
  for (auto& [node, heard] : last_heard_) heard += pause;
}

absl::Duration LeaseTable::LastHeard(const std::string& node) const {
  auto it = last_heard_.find(node);
  return it == last_heard_.end() ? -absl::InfiniteDuration() : it->second;
}

bool LeaseTable::HeartbeatMissed(const std::string& node, absl::Duration now) const {
  return now - LastHeard(node) > 2 * options_.heartbeat_interval;
}

bool LeaseTable::Expired(const std::string& node, absl::Duration last_advance,
                         absl::Duration advance_interval, absl::Duration now) const {
  const absl::Duration heard = LastHeard(node);
  absl::Duration deadline = heard + options_.lost_after;
  const absl::Duration patience = std::min(2 * advance_interval, kLongestVouching);
  deadline = std::max(deadline, heard + patience);
  if (last_advance > heard + options_.heartbeat_interval) {
    deadline = std::max(deadline, last_advance + std::max(options_.lost_after, patience));
  }
  return now >= deadline;
}

}  // namespace muster::coordinator
