#include "common/base/timer_queue.h"

#include <pthread.h>

namespace muster::base {

ThreadTimerQueue::ThreadTimerQueue(const Clock& clock) : clock_(clock), thread_([this] { Run(); }) {
  pthread_setname_np(thread_.native_handle(), "timers");
}

ThreadTimerQueue::~ThreadTimerQueue() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

TimerId ThreadTimerQueue::RunAt(absl::Duration deadline, std::function<void()> function) {
  absl::MutexLock lock(&mutex_);
  const TimerId id = next_id_++;
  timers_.emplace(std::make_pair(deadline, id), std::move(function));
  deadlines_.emplace(id, deadline);
  changed_.SignalAll();
  return id;
}

bool ThreadTimerQueue::Cancel(TimerId id) {
  absl::MutexLock lock(&mutex_);
  const auto it = deadlines_.find(id);
  if (it == deadlines_.end()) return false;
  timers_.erase({it->second, id});
  deadlines_.erase(it);
  return true;
}

void ThreadTimerQueue::Run() {
  absl::MutexLock lock(&mutex_);
  while (!stopping_) {
    if (timers_.empty()) {
      changed_.Wait(&mutex_);
      continue;
    }
    const auto first = timers_.begin();
    const absl::Duration wait = first->first.first - clock_.Monotonic();
    if (wait > absl::ZeroDuration()) {
      changed_.WaitWithTimeout(&mutex_, wait);
      continue;
    }
    const std::function<void()> function = std::move(first->second);
    deadlines_.erase(first->first.second);
    timers_.erase(first);
    mutex_.Unlock();
    function();
    mutex_.Lock();
  }
}

}  // namespace muster::base
