#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"

namespace muster::base {

using TimerId = uint64_t;

// Runs functions at a time of Clock::Monotonic(). Thread-safe.
class TimerQueue {
 public:
  virtual ~TimerQueue() = default;
  // Runs `function` once, at `deadline` or as soon after as possible; functions run one at a time,
  // in order of deadline. They must be short.
  virtual TimerId RunAt(absl::Duration deadline, std::function<void()> function) = 0;
  // False when it has run, is running, or was cancelled.
  virtual bool Cancel(TimerId id) = 0;
};

// One thread of its own. The destructor waits for a running function and drops the rest.
class ThreadTimerQueue : public TimerQueue {
 public:
  explicit ThreadTimerQueue(const Clock& clock);
  ~ThreadTimerQueue() override;
  ThreadTimerQueue(const ThreadTimerQueue&) = delete;
  ThreadTimerQueue& operator=(const ThreadTimerQueue&) = delete;

  TimerId RunAt(absl::Duration deadline, std::function<void()> function) override;
  bool Cancel(TimerId id) override;

 private:
  void Run();

  const Clock& clock_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::map<std::pair<absl::Duration, TimerId>, std::function<void()>> timers_
      ABSL_GUARDED_BY(mutex_);
  std::map<TimerId, absl::Duration> deadlines_ ABSL_GUARDED_BY(mutex_);
  TimerId next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace muster::base
