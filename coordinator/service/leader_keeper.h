#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "coordinator/store/leader_lease.h"

namespace muster::coordinator {

// Renews a lease that was just acquired on a thread of its own, so that neither a long commit nor a
// busy state thread costs it, and gives it back at the end.
class LeaderKeeper {
 public:
  struct Options {
    // Between renewals; a fraction of the lease's duration.
    absl::Duration interval = absl::Seconds(1);
    // Between attempts while the store does not answer.
    absl::Duration retry = absl::Milliseconds(200);
  };

  // `lost` runs once, on the keeper's thread, when another coordinator has taken the lease.
  LeaderKeeper(const Options& options, LeaderLease* lease, std::function<void()> lost);
  // Gives the lease back: what it protects must have ended.
  ~LeaderKeeper();
  LeaderKeeper(const LeaderKeeper&) = delete;
  LeaderKeeper& operator=(const LeaderKeeper&) = delete;

  // Where the leader serves, for those who ask a standby: stored at once.
  void Announce(const std::string& address);

 private:
  void Run();

  const Options options_;
  LeaderLease* const lease_;
  const std::function<void()> lost_;
  absl::Mutex mutex_;
  bool renew_now_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace muster::coordinator
