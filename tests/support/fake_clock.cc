#include "tests/support/fake_clock.h"

namespace muster::testing {

absl::Time FakeClock::Now() const {
  absl::MutexLock lock(&mutex_);
  return absl::FromUnixSeconds(1'700'000'000) + elapsed_;
}

absl::Duration FakeClock::Monotonic() const {
  absl::MutexLock lock(&mutex_);
  return elapsed_;
}

base::TimerId FakeClock::RunAt(absl::Duration deadline, std::function<void()> function) {
  absl::MutexLock lock(&mutex_);
  const base::TimerId id = next_id_++;
  timers_.emplace(std::make_pair(deadline, id), std::move(function));
  return id;
}

bool FakeClock::Cancel(base::TimerId id) {
  absl::MutexLock lock(&mutex_);
  for (auto it = timers_.begin(); it != timers_.end(); ++it) {
    if (it->first.second == id) {
      timers_.erase(it);
      return true;
    }
  }
  return false;
}

void FakeClock::Advance(absl::Duration duration) {
  absl::Duration target;
  {
    absl::MutexLock lock(&mutex_);
    target = elapsed_ + duration;
  }
  while (true) {
    std::function<void()> function;
    {
      absl::MutexLock lock(&mutex_);
      if (timers_.empty() || timers_.begin()->first.first > target) {
        elapsed_ = target;
        return;
      }
      const auto first = timers_.begin();
      if (first->first.first > elapsed_) elapsed_ = first->first.first;
      function = std::move(first->second);
      timers_.erase(first);
    }
    function();
  }
}

}  // namespace muster::testing
