#pragma once

#include <string>
#include <unordered_map>

#include "absl/time/time.h"

namespace muster::coordinator {

// When each node was heard last, in time of Clock::Monotonic(). A lease is granted by every message
// of the node and runs `lost_after` from there. Not thread-safe.
class LeaseTable {
 public:
  struct Options {
    absl::Duration heartbeat_interval = absl::Seconds(1);
    absl::Duration lost_after = absl::Seconds(3);
  };
  explicit LeaseTable(Options options) : options_(options) {}

  void Renew(const std::string& node, absl::Duration now);
  // As if the node had been heard so late that its lease runs `grace` from now.
  void GrantGrace(const std::string& node, absl::Duration grace, absl::Duration now);

  // Nobody listened for so long: nobody's silence counts.
  void Forgive(absl::Duration pause);

  absl::Duration LastHeard(const std::string& node) const;
  // No heartbeat for more than two intervals.
  bool HeartbeatMissed(const std::string& node, absl::Duration now) const;

  // Whether the node counts as lost. While a job that has ranks here still advances, its other
  // nodes vouch for this one: no collective completes without it. `last_advance` is the job's
  // newest sign of progress from other nodes, `advance_interval` the usual time between two. An
  // advance within one heartbeat interval of the node's last message proves nothing, as its report
  // may have been under way. Without such a job pass InfinitePast and zero.
  bool Expired(const std::string& node, absl::Duration last_advance,
               absl::Duration advance_interval, absl::Duration now) const;

 private:
  const Options options_;
  std::unordered_map<std::string, absl::Duration> last_heard_;
};

}  // namespace muster::coordinator
