#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace muster::worker {

// A process, told from a later one that was given the same number by its start time (clock ticks
// since boot, field 22 of /proc/<pid>/stat).
struct ProcessIdentity {
  pid_t pid = 0;
  uint64_t start_ticks = 0;
};

// Empty when there is no such process, or only a zombie.
std::optional<ProcessIdentity> IdentifyProcess(pid_t pid);

// Its parent's number; 0 when there is no such process.
pid_t ParentOf(pid_t pid);

// Whether exactly this process still runs.
bool IsRunning(const ProcessIdentity& process);

// An owned file descriptor; -1: none.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() { Reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release();
  void Reset();

 private:
  int fd_ = -1;
};

// A descriptor that becomes readable when the process ends (pidfd_open); invalid when it is gone.
UniqueFd WatchProcess(const ProcessIdentity& process);

}  // namespace muster::worker
