#pragma once

#include <functional>
#include <thread>

#include "absl/time/time.h"

namespace muster::cli {

// Turns Ctrl-C (and SIGTERM) into a call while the object lives. Made before any other thread,
// since the signals are blocked in its thread and those that it starts.
class InterruptWatcher {
 public:
  // `on_interrupt` runs on a thread of the watcher, at most once.
  explicit InterruptWatcher(std::function<void()> on_interrupt);
  ~InterruptWatcher();
  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;

  // Waits; true at once when an interrupt came or comes.
  bool WaitFor(absl::Duration duration) const;
  bool interrupted() const { return WaitFor(absl::ZeroDuration()); }

 private:
  void Watch();

  std::function<void()> on_interrupt_;
  int signal_fd_;
  int stop_fd_;         // readable when the watcher ends
  int interrupted_fd_;  // readable once an interrupt came
  std::thread thread_;
};

}  // namespace muster::cli
