#include "worker/daemon/process_trainer_launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/daemon/wake_event.h"

namespace muster::worker {
namespace {

class ShimProcess : public TrainerProcess {
 public:
  ShimProcess(std::filesystem::path folder, ProcessIdentity shim)
      : folder_(std::move(folder)), shim_(shim) {}

  void Signal(int signal) override {
    // While the shim lives and has not reaped the trainer, the trainer's number stays its own.
    if (!IsRunning(shim_)) return;
    const absl::StatusOr<RankProcesses> processes = ReadRankProcesses(folder_);
    if (processes.ok()) {
      if (IsRunning(processes->trainer)) kill(-processes->trainer.pid, signal);
      return;
    }
    // Not started yet: what happens to the shim happens to the trainer.
    kill(shim_.pid, signal);
  }

 private:
  const std::filesystem::path folder_;
  const ProcessIdentity shim_;
};

std::vector<std::string> MergedEnvironment(
    const std::vector<std::pair<std::string, std::string>>& added) {
  std::map<std::string, std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const char* equals = std::strchr(*entry, '=');
    if (equals != nullptr)
      merged[std::string(*entry, static_cast<size_t>(equals - *entry))] = equals + 1;
  }
  for (const auto& [name, value] : added) merged[name] = value;
  std::vector<std::string> entries;
  for (const auto& [name, value] : merged) entries.push_back(name + "=" + value);
  return entries;
}

std::vector<char*> Pointers(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// For a shim that is gone: the kernel kills its trainer; not before that has ended is the rank
// over.
void EndTrainerWithoutShim(const std::filesystem::path& folder) {
  const absl::StatusOr<RankProcesses> processes = ReadRankProcesses(folder);
  if (!processes.ok() || !IsRunning(processes->trainer)) return;
  const UniqueFd trainer = WatchProcess(processes->trainer);
  kill(-processes->trainer.pid, SIGKILL);
  pollfd descriptor = {trainer.get(), POLLIN, 0};
  if (trainer.valid()) poll(&descriptor, 1, -1);
}

// posix_spawn and not fork: gRPC's threads make a fork that does more than exec unsafe.
absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command, const LaunchSpec& spec) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (spec.inherited_fd >= 0) {
    // Also takes FD_CLOEXEC off when the two numbers are equal.
    posix_spawn_file_actions_adddup2(&actions, spec.inherited_fd, kInheritedFd);
  }
  posix_spawn_file_actions_addclosefrom_np(
      &actions, spec.inherited_fd >= 0 ? kInheritedFd + 1 : kInheritedFd);

  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t blocked;
  sigset_t all;
  sigemptyset(&blocked);
  // A shim that is asked to stop before it can pass that on must not die of it.
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&blocked, signal);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &blocked);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  const std::vector<std::string> environment = MergedEnvironment(spec.environment);
  const std::vector<char*> arguments = Pointers(command);
  const std::vector<char*> variables = Pointers(environment);
  pid_t pid = 0;
  const int error =
      posix_spawnp(&pid, arguments[0], &actions, &attributes, arguments.data(), variables.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return base::ErrnoStatus(error, "start", command[0]);
  return pid;
}

}  // namespace

ProcessTrainerLauncher::ProcessTrainerLauncher(std::vector<std::string> shim_command,
                                               const base::Clock& clock)
    : shim_command_(std::move(shim_command)), clock_(clock), wake_(eventfd(0, EFD_CLOEXEC)) {
  thread_ = std::thread([this] { Run(); });
}

ProcessTrainerLauncher::~ProcessTrainerLauncher() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  Wake();
  thread_.join();
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> ProcessTrainerLauncher::Launch(
    const LaunchSpec& spec, ExitCallback on_exit) {
  MUSTER_RETURN_IF_ERROR(base::CreateFolders(spec.folder));
  // Before the shim runs, so that whoever reads the logs finds them.
  for (const std::filesystem::path& log : {StdoutLog(spec.folder), StderrLog(spec.folder)}) {
    const UniqueFd made(open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!made.valid()) return base::ErrnoStatus(errno, "open", log);
  }
  std::vector<std::string> command = shim_command_;
  command.insert(command.end(), {"--dir", spec.folder.string(), "--"});
  command.insert(command.end(), spec.command.begin(), spec.command.end());
  MUSTER_ASSIGN_OR_RETURN(const pid_t pid, Spawn(command, spec));
  Watch watch;
  watch.folder = spec.folder;
  watch.shim = IdentifyProcess(pid).value_or(ProcessIdentity{pid, 0});
  watch.on_exit = std::move(on_exit);
  if (absl::Status written = WriteLaunchedShim(spec.folder, watch.shim); !written.ok()) {
    base::Log(base::LogSeverity::kWarning, "worker", written.message());
  }
  return Add(std::move(watch));
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> ProcessTrainerLauncher::Adopt(
    const std::filesystem::path& folder, ExitCallback on_exit) {
  Watch watch;
  watch.folder = folder;
  watch.on_exit = std::move(on_exit);
  const absl::StatusOr<RankProcesses> processes = ReadRankProcesses(folder);
  const absl::StatusOr<ProcessIdentity> launched = ReadLaunchedShim(folder);
  if (processes.ok()) {
    watch.shim = processes->shim;
  } else if (launched.ok()) {
    watch.shim = *launched;
  }
  // In this order: a shim writes the exit status before it ends.
  if (!IsRunning(watch.shim) && !ReadRankExit(folder).ok()) {
    EndTrainerWithoutShim(folder);
    return absl::NotFoundError(
        watch.shim.pid == 0 ? absl::StrCat("no trainer was started in ", folder.string(),
                                           " before the worker ended")
                            : "killed together with its shim while no worker was there to see it");
  }
  return Add(std::move(watch));
}

std::unique_ptr<TrainerProcess> ProcessTrainerLauncher::Add(Watch watch) {
  watch.pidfd = WatchProcess(watch.shim);
  auto process = std::make_unique<ShimProcess>(watch.folder, watch.shim);
  {
    absl::MutexLock lock(&mutex_);
    added_.push_back(std::move(watch));
  }
  Wake();
  return process;
}

void ProcessTrainerLauncher::Wake() { worker::Wake(wake_); }

void ProcessTrainerLauncher::Run() {
  std::vector<Watch> watches;
  while (true) {
    std::vector<Watch> ended;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      for (Watch& watch : added_) {
        (watch.pidfd.valid() ? watches : ended).push_back(std::move(watch));
      }
      added_.clear();
    }
    for (Watch& watch : ended) Finish(std::move(watch));

    std::vector<pollfd> descriptors = {{wake_.get(), POLLIN, 0}};
    for (const Watch& watch : watches) descriptors.push_back({watch.pidfd.get(), POLLIN, 0});
    if (poll(descriptors.data(), descriptors.size(), -1) < 0) continue;
    if (descriptors[0].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t drained = read(wake_.get(), &count, sizeof(count));
    }
    std::vector<Watch> running;
    ended.clear();
    for (size_t i = 0; i < watches.size(); ++i) {
      const bool over = descriptors[i + 1].revents != 0;
      (over ? ended : running).push_back(std::move(watches[i]));
    }
    watches = std::move(running);
    for (Watch& watch : ended) Finish(std::move(watch));
  }
}

void ProcessTrainerLauncher::Finish(Watch watch) {
  // Ours: reap it. An adopted one is init's.
  if (watch.shim.pid > 0) waitpid(watch.shim.pid, nullptr, WNOHANG);
  const absl::StatusOr<RankExit> recorded = ReadRankExit(watch.folder);
  if (recorded.ok()) {
    watch.on_exit(*recorded);
    return;
  }
  // The shim was killed, or could not write.
  EndTrainerWithoutShim(watch.folder);
  base::Log(base::LogSeverity::kWarning, "worker", "a shim ended without an exit status",
            {{"folder", watch.folder.string()}, {"reason", recorded.status().message()}});
  RankExit exit;
  exit.signal = SIGKILL;
  exit.time = clock_.Now();
  watch.on_exit(exit);
}

}  // namespace muster::worker
