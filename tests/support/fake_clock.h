#pragma once

#include <functional>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "common/base/clock.h"
#include "common/base/timer_queue.h"

namespace muster::testing {

// Time that only the test moves; also the timers that hang on it.
class FakeClock : public base::Clock, public base::TimerQueue {
 public:
  absl::Time Now() const override;
  absl::Duration Monotonic() const override;
  base::TimerId RunAt(absl::Duration deadline, std::function<void()> function) override;
  bool Cancel(base::TimerId id) override;

  // Moves both clocks and runs, in order of deadline, the timers that come due, on this thread.
  void Advance(absl::Duration duration);

 private:
  mutable absl::Mutex mutex_;
  absl::Duration elapsed_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<absl::Duration, base::TimerId>, std::function<void()>> timers_
      ABSL_GUARDED_BY(mutex_);
  base::TimerId next_id_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace muster::testing
