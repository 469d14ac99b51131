#include "worker/daemon/rank_files.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace muster::worker {
namespace {

constexpr char kShimFile[] = "shim.json";
constexpr char kPidFile[] = "pid.json";
constexpr char kExitFile[] = "exit.json";
// Becomes exit.json.
constexpr char kReservedFile[] = "exit.json.reserved";
constexpr off_t kReservedBytes = 4096;

absl::StatusOr<nlohmann::json> ReadJson(const std::filesystem::path& path) {
  MUSTER_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path));
  nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::DataLossError(absl::StrCat("not JSON: ", path.string()));
  return json;
}

// 0 when the member is missing or of another type.
int64_t Integer(const nlohmann::json& json, const char* name) {
  const auto it = json.find(name);
  return it != json.end() && it->is_number_integer() ? it->get<int64_t>() : 0;
}

const char* ExitCodeName(int code) {
  switch (code) {
    case base::kExitUsage:
      return "wrong command line";
    case base::kExitBadConfig:
      return "bad config";
    case base::kExitStopped:
      return "stopped after a checkpoint";
    case base::kExitCollectiveLost:
      return "collective lost";
    case base::kExitDataError:
      return "data error";
    case base::kExitNonFinite:
      return "non-finite loss";
    case base::kExitCheckpointError:
      return "checkpoint error";
    case base::kExitDeviceError:
      return "device error";
    case base::kExitInternal:
      return "internal error";
    default:
      return nullptr;
  }
}

}  // namespace

std::filesystem::path StdoutLog(const std::filesystem::path& rank_folder) {
  return rank_folder / "stdout.log";
}

std::filesystem::path StderrLog(const std::filesystem::path& rank_folder) {
  return rank_folder / "stderr.log";
}

absl::Status WriteLaunchedShim(const std::filesystem::path& rank_folder,
                               const ProcessIdentity& shim) {
  const nlohmann::json json = {{"shim_pid", shim.pid}, {"shim_start", shim.start_ticks}};
  return base::WriteFileAtomically(rank_folder / kShimFile, json.dump() + "\n");
}

absl::StatusOr<ProcessIdentity> ReadLaunchedShim(const std::filesystem::path& rank_folder) {
  MUSTER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJson(rank_folder / kShimFile));
  ProcessIdentity shim;
  shim.pid = static_cast<pid_t>(Integer(json, "shim_pid"));
  shim.start_ticks = static_cast<uint64_t>(Integer(json, "shim_start"));
  return shim;
}

absl::Status WriteRankProcesses(const std::filesystem::path& rank_folder,
                                const RankProcesses& processes) {
  const nlohmann::json json = {{"shim_pid", processes.shim.pid},
                               {"shim_start", processes.shim.start_ticks},
                               {"trainer_pid", processes.trainer.pid},
                               {"trainer_start", processes.trainer.start_ticks}};
  return base::WriteFileAtomically(rank_folder / kPidFile, json.dump() + "\n");
}

absl::StatusOr<RankProcesses> ReadRankProcesses(const std::filesystem::path& rank_folder) {
  MUSTER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJson(rank_folder / kPidFile));
  RankProcesses processes;
  processes.shim.pid = static_cast<pid_t>(Integer(json, "shim_pid"));
  processes.shim.start_ticks = static_cast<uint64_t>(Integer(json, "shim_start"));
  processes.trainer.pid = static_cast<pid_t>(Integer(json, "trainer_pid"));
  processes.trainer.start_ticks = static_cast<uint64_t>(Integer(json, "trainer_start"));
  return processes;
}

void ReserveRankExit(const std::filesystem::path& rank_folder) {
  const std::filesystem::path reserved = rank_folder / kReservedFile;
  const UniqueFd file(open(reserved.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  // The file stays empty: a crash must leave nothing that looks like a record.
  if (!file.valid() || fallocate(file.get(), FALLOC_FL_KEEP_SIZE, 0, kReservedBytes) != 0) {
    unlink(reserved.c_str());
  }
}

absl::Status WriteRankExit(const std::filesystem::path& rank_folder, const RankExit& exit) {
  nlohmann::json json = {
      {"time", absl::FormatTime(absl::RFC3339_full, exit.time, absl::UTCTimeZone())}};
  if (exit.signal != 0) {
    json["signal"] = exit.signal;
  } else {
    json["exit_code"] = exit.exit_code;
  }
  const std::string text = json.dump() + "\n";
  const std::filesystem::path reserved = rank_folder / kReservedFile;
  const UniqueFd file(open(reserved.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return base::WriteFileAtomically(rank_folder / kExitFile, text);
  if (pwrite(file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return base::ErrnoStatus(errno, "write", reserved);
  }
  return base::PublishFile(reserved, rank_folder / kExitFile);
}

absl::StatusOr<RankExit> ReadRankExit(const std::filesystem::path& rank_folder) {
  MUSTER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJson(rank_folder / kExitFile));
  RankExit exit;
  exit.signal = static_cast<int>(Integer(json, "signal"));
  exit.exit_code = static_cast<int>(Integer(json, "exit_code"));
  const auto time = json.find("time");
  std::string error;
  if (time == json.end() || !time->is_string() ||
      !absl::ParseTime(absl::RFC3339_full, time->get<std::string>(), &exit.time, &error)) {
    return absl::DataLossError(
        absl::StrCat("no time in ", (rank_folder / kExitFile).string(), " ", error));
  }
  return exit;
}

bool RankMayRun(const std::filesystem::path& rank_folder) {
  std::error_code ignored;
  if (std::filesystem::exists(rank_folder / kExitFile, ignored)) return false;
  const absl::StatusOr<RankProcesses> processes = ReadRankProcesses(rank_folder);
  if (!processes.ok()) return absl::IsNotFound(processes.status());
  return IsRunning(processes->shim) || IsRunning(processes->trainer);
}

std::string DescribeExit(const RankExit& exit) {
  if (exit.signal != 0) {
    const char* name = sigabbrev_np(exit.signal);
    return name != nullptr ? absl::StrCat("killed by SIG", name)
                           : absl::StrCat("killed by signal ", exit.signal);
  }
  const char* meaning = ExitCodeName(exit.exit_code);
  return meaning != nullptr ? absl::StrCat("exited with code ", exit.exit_code, " (", meaning, ")")
                            : absl::StrCat("exited with code ", exit.exit_code);
}

std::vector<std::string> LastLines(const std::filesystem::path& file, int count) {
  constexpr off_t kMostBytes = 64 << 10;
  UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return {};
  const off_t size = lseek(fd.get(), 0, SEEK_END);
  if (size <= 0) return {};
  const off_t from = std::max<off_t>(0, size - kMostBytes);
  std::string text(static_cast<size_t>(size - from), '\0');
  const ssize_t read_bytes = pread(fd.get(), text.data(), text.size(), from);
  if (read_bytes <= 0) return {};
  text.resize(static_cast<size_t>(read_bytes));
  if (text.back() == '\n') text.pop_back();
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  if (from > 0 && lines.size() > 1) lines.erase(lines.begin());
  if (lines.size() > static_cast<size_t>(count)) {
    lines.erase(lines.begin(), lines.end() - count);
  }
  return lines;
}

}  // namespace muster::worker
