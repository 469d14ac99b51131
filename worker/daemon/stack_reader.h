#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace muster::worker {

struct StackOptions {
  size_t most_threads = 128;
  size_t most_frames = 64;
  // For all threads together.
  absl::Duration timeout = absl::Seconds(5);
};

struct ThreadStack {
  pid_t thread = 0;
  // As the kernel has it, for example "muster-trainer".
  std::string name;
  // "R", "S", "D", ...
  std::string state;
  // The innermost function first: "muster::data::DataLoader::Next()", or "0x7f12.. in libfoo.so".
  std::vector<std::string> frames;
  // Why there are none, or not all.
  std::string error;
};

// What every thread of a process does, its main thread first. The threads are stopped meanwhile
// (ptrace, each for itself) and go on afterwards, whatever happens to the caller; a process that
// was stopped (SIGSTOP) stays so. Threads that the kernel does not let stop (state D) tell only
// where in the kernel they are. Where a thread is in code without unwind tables (oneDNN's generated
// kernels, MKL's), the frames after the first are return addresses on its stack, and say so; on
// x86-64 only. NotFound: no such process. PermissionDenied, with the way out: this process may not
// look.
absl::StatusOr<std::vector<ThreadStack>> ReadStacks(pid_t process,
                                                    const StackOptions& options = {});

// Those of the main thread and of other threads that are in a function of ours, unless they wait
// for work or report to the worker; threads with equal frames once, at most 32 KiB:
//   thread 4711 (muster-trainer)
//     #0 read
//     #1 muster::data::ZipImageSource::Read(...)
std::string DescribeStacks(pid_t process, const std::vector<ThreadStack>& stacks);

// The state letter of /proc/<pid>/stat ("R", "S", "D", "T", "t", "Z", ...); empty: no such process.
std::string StateOf(pid_t process);

}  // namespace muster::worker
