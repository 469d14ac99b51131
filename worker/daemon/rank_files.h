#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "worker/daemon/process_identity.h"

// The files in a rank's folder, for the worker daemon that started it and for a later one:
//   shim.json                the shim's process, written by the daemon
// and written by the shim:
//   stdout.log, stderr.log   what the trainer printed
//   pid.json                 the shim's and the trainer's process
//   exit.json                how the trainer ended; there once no process of the rank is left
namespace muster::worker {

struct RankProcesses {
  ProcessIdentity shim;
  ProcessIdentity trainer;
};

// How a rank's process ended: by `signal` when that is not 0, else with `exit_code`.
struct RankExit {
  int exit_code = 0;
  int signal = 0;
  absl::Time time;

  bool completed() const { return signal == 0 && exit_code == 0; }
};

std::filesystem::path StdoutLog(const std::filesystem::path& rank_folder);
std::filesystem::path StderrLog(const std::filesystem::path& rank_folder);

absl::Status WriteLaunchedShim(const std::filesystem::path& rank_folder,
                               const ProcessIdentity& shim);
absl::StatusOr<ProcessIdentity> ReadLaunchedShim(const std::filesystem::path& rank_folder);

absl::Status WriteRankProcesses(const std::filesystem::path& rank_folder,
                                const RankProcesses& processes);
// NotFound before the shim has started the trainer.
absl::StatusOr<RankProcesses> ReadRankProcesses(const std::filesystem::path& rank_folder);

// Takes the disk space of exit.json beforehand, so that WriteRankExit can write it on a disk that
// is full by then. A file system that cannot do that is none the worse for it.
void ReserveRankExit(const std::filesystem::path& rank_folder);
absl::Status WriteRankExit(const std::filesystem::path& rank_folder, const RankExit& exit);
// NotFound while the rank runs.
absl::StatusOr<RankExit> ReadRankExit(const std::filesystem::path& rank_folder);

// Whether a process of the rank is still there. True, too, when it has not written pid.json yet.
bool RankMayRun(const std::filesystem::path& rank_folder);

// "killed by SIGKILL", "exited with code 12 (data error)": one line for a person.
std::string DescribeExit(const RankExit& exit);

// The last `count` lines of a file, of at most 64 KiB; empty when it cannot be read.
std::vector<std::string> LastLines(const std::filesystem::path& file, int count);

}  // namespace muster::worker
