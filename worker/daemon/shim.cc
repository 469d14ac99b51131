#include "worker/daemon/shim.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "absl/strings/numbers.h"

#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "worker/daemon/process_identity.h"
#include "worker/daemon/rank_files.h"

namespace muster::worker {
namespace {

// Standard error is the rank's stderr.log by then, where an operator looks.
int Fail(const std::string& message) {
  std::fprintf(stderr, "muster-worker shim: %s\n", message.c_str());
  return base::kExitInternal;
}

bool AppendTo(const std::filesystem::path& file, int target) {
  UniqueFd fd(open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  return fd.valid() && dup2(fd.get(), target) >= 0;
}

[[noreturn]] void Exec(pid_t shim, std::vector<char*> arguments) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The shim may have died before the line above took effect.
  if (getppid() != shim) _exit(base::kExitInternal);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execvp(arguments[0], arguments.data());
  std::fprintf(stderr, "muster-worker shim: cannot start %s: %s\n", arguments[0], strerror(errno));
  _exit(base::kExitInternal);
}

// Processes whose parent we are: also those handed to us because their own parent has ended.
std::vector<pid_t> Children() {
  std::vector<pid_t> children;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    if (ParentOf(pid) == getpid()) children.push_back(pid);
  }
  return children;
}

void KillDescendants(pid_t group) {
  while (true) {
    kill(-group, SIGKILL);
    for (pid_t child : Children()) kill(child, SIGKILL);
    const pid_t reaped = waitpid(-1, nullptr, 0);
    if (reaped < 0 && errno == ECHILD) return;
  }
}

// Passes signals on until the program has ended; its wait status.
int WaitFor(pid_t program, const sigset_t& signals) {
  while (true) {
    int status = 0;
    for (pid_t reaped; (reaped = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (reaped == program) return status;
    }
    const int signal = sigwaitinfo(&signals, nullptr);
    if (signal > 0 && signal != SIGCHLD) kill(-program, signal);
  }
}

}  // namespace

int RunShim(const std::filesystem::path& rank_folder, const std::vector<std::string>& command) {
  if (command.empty()) return base::kExitUsage;
  if (getsid(0) != getpid()) setsid();
  if (absl::Status made = base::CreateFolders(rank_folder); !made.ok()) {
    return Fail(std::string(made.message()));
  }
  if (!AppendTo(StdoutLog(rank_folder), STDOUT_FILENO) ||
      !AppendTo(StderrLog(rank_folder), STDERR_FILENO)) {
    return Fail("cannot write the logs in " + rank_folder.string() + ": " + strerror(errno));
  }
  prctl(PR_SET_CHILD_SUBREAPER, 1);

  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, nullptr);

  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);

  const pid_t shim = getpid();
  const pid_t program = fork();
  if (program < 0) return Fail(std::string("fork: ") + strerror(errno));
  if (program == 0) Exec(shim, std::move(arguments));
  setpgid(program, program);
  // The master socket is the program's alone.
  close_range(STDERR_FILENO + 1, ~0U, 0);

  RankProcesses processes;
  processes.shim = IdentifyProcess(shim).value_or(ProcessIdentity{shim, 0});
  processes.trainer = IdentifyProcess(program).value_or(ProcessIdentity{program, 0});
  if (absl::Status written = WriteRankProcesses(rank_folder, processes); !written.ok()) {
    KillDescendants(program);
    return Fail(std::string(written.message()));
  }

  ReserveRankExit(rank_folder);

  const int status = WaitFor(program, signals);
  RankExit exit;
  exit.time = base::SystemClock().Now();
  if (WIFSIGNALED(status)) {
    exit.signal = WTERMSIG(status);
  } else {
    exit.exit_code = WEXITSTATUS(status);
  }
  KillDescendants(program);
  if (absl::Status written = WriteRankExit(rank_folder, exit); !written.ok()) {
    return Fail(std::string(written.message()));
  }
  return base::kExitCompleted;
}

int ShimMain(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4 || arguments[0] != "--dir" || arguments[2] != "--") {
    std::fprintf(stderr, "usage: muster-worker shim --dir DIR -- PROGRAM [ARGUMENT...]\n");
    return base::kExitUsage;
  }
  return RunShim(arguments[1], {arguments.begin() + 3, arguments.end()});
}

}  // namespace muster::worker
