#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace muster::testing {

// A child process of a test, killed with the object. Its output goes to a file.
class Process {
 public:
  struct Options {
    std::vector<std::string> arguments;    // arguments[0] is the program
    std::vector<std::string> environment;  // "NAME=value", on top of the test's own
    std::filesystem::path output;          // of stdout and stderr together
  };
  explicit Process(const Options& options);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // The wait status (see WIFEXITED), or nothing when it still runs after `timeout`.
  std::optional<int> Wait(absl::Duration timeout);
  // What it has written so far.
  std::string Output() const;

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
  std::filesystem::path output_;
};

// Runs a program to its end. `output` is stdout and stderr together.
struct Finished {
  int exit_code = -1;  // 128 + signal when it was killed
  std::string output;
};
Finished Run(const std::vector<std::string>& arguments, absl::Duration timeout,
             const std::vector<std::string>& environment = {});

// Processes whose command line contains `text`, by /proc; zombies do not count.
std::vector<pid_t> ProcessesWith(const std::string& text);
// SIGKILL to all of them, until none is left; false when some are after 10 s.
bool KillProcessesWith(const std::string& text);

// True as soon as `condition` holds; false when it does not within `timeout`. For conditions that
// no event tells of (files and processes of other programs).
template <typename Condition>
bool WaitUntil(Condition condition, absl::Duration timeout);

void PauseBeforeNextLook();

template <typename Condition>
bool WaitUntil(Condition condition, absl::Duration timeout) {
  timespec start{};
  clock_gettime(CLOCK_MONOTONIC, &start);
  while (!condition()) {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (absl::DurationFromTimespec(now) - absl::DurationFromTimespec(start) > timeout) return false;
    PauseBeforeNextLook();
  }
  return true;
}

}  // namespace muster::testing
