#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "worker/daemon/rank_files.h"

namespace muster::worker {

// One rank to start.
struct LaunchSpec {
  // The rank's folder (rank_files.h); made when it is missing.
  std::filesystem::path folder;
  // Program and arguments.
  std::vector<std::string> command;
  // Added to, and winning over, the daemon's own environment.
  std::vector<std::pair<std::string, std::string>> environment;
  // A descriptor of the daemon that the program inherits as number kInheritedFd; -1: none.
  int inherited_fd = -1;
};
inline constexpr int kInheritedFd = 3;

// A rank's running processes. Destroying the handle ends nothing.
class TrainerProcess {
 public:
  virtual ~TrainerProcess() = default;
  // To the whole process group of the trainer. Does nothing once it has ended.
  virtual void Signal(int signal) = 0;
};

// Starts and watches trainers. Thread-safe. The callback comes once for each rank, when no process
// of it is left, from a thread of the launcher's and never from inside Launch or Adopt.
class TrainerLauncher {
 public:
  using ExitCallback = std::function<void(const RankExit&)>;

  virtual ~TrainerLauncher() = default;
  virtual absl::StatusOr<std::unique_ptr<TrainerProcess>> Launch(const LaunchSpec& spec,
                                                                 ExitCallback on_exit) = 0;
  // Watches a rank that an earlier daemon started in `folder`, whether it still runs or has ended.
  // NotFound, once no process of it is left, when nobody saw how it ended: its shim was killed, as
  // by a reboot of the machine, or it was never started.
  virtual absl::StatusOr<std::unique_ptr<TrainerProcess>> Adopt(const std::filesystem::path& folder,
                                                                ExitCallback on_exit) = 0;
};

}  // namespace muster::worker
