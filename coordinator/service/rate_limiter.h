#pragma once

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"

namespace muster::coordinator {

// A token bucket for each key: `burst` calls at once, `per_second` of them over time. Thread-safe.
class RateLimiter {
 public:
  struct Rate {
    double per_second = 1;
    double burst = 1;
  };
  RateLimiter(const Rate& rate, const base::Clock& clock) : rate_(rate), clock_(clock) {}

  // Zero: the call may go on, and is counted. Otherwise how long to wait before another try.
  absl::Duration Take(const std::string& key);

 private:
  struct Bucket {
    double tokens = 0;
    absl::Duration filled_at;
  };
  void ForgetFullOnes(absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Rate rate_;
  const base::Clock& clock_;
  absl::Mutex mutex_;
  std::map<std::string, Bucket> buckets_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::coordinator
