#include "tests/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

namespace muster::testing {
namespace {

std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

Process::Process(const Options& options) : output_(options.output) {
  pid_ = fork();
  if (pid_ < 0) throw std::runtime_error("fork failed");
  if (pid_ > 0) return;
  const int out = open(output_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  const int in = open("/dev/null", O_RDONLY);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  for (const std::string& entry : options.environment) {
    const size_t equals = entry.find('=');
    setenv(entry.substr(0, equals).c_str(), entry.substr(equals + 1).c_str(), 1);
  }
  std::vector<char*> arguments;
  for (const std::string& argument : options.arguments) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  _exit(127);
}

Process::~Process() {
  if (status_.has_value()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Process::Signal(int signal) const {
  if (!status_.has_value()) kill(pid_, signal);
}

std::optional<int> Process::Wait(absl::Duration timeout) {
  if (status_.has_value()) return status_;
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  pollfd poller{fd, POLLIN, 0};
  const int ready = poll(&poller, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout)));
  close(fd);
  if (ready <= 0) return std::nullopt;
  int status = 0;
  waitpid(pid_, &status, 0);
  status_ = status;
  return status_;
}

std::string Process::Output() const { return ReadAll(output_); }

Finished Run(const std::vector<std::string>& arguments, absl::Duration timeout,
             const std::vector<std::string>& environment) {
  std::string pattern = (std::filesystem::temp_directory_path() / "muster-run-XXXXXX").string();
  const int fd = mkstemp(pattern.data());
  close(fd);
  Finished finished;
  {
    Process process({arguments, environment, pattern});
    const std::optional<int> status = process.Wait(timeout);
    finished.output = process.Output();
    if (!status.has_value()) {
      finished.output += "\n(timed out)";
    } else {
      finished.exit_code = WIFEXITED(*status) ? WEXITSTATUS(*status) : 128 + WTERMSIG(*status);
    }
  }
  std::filesystem::remove(pattern);
  return finished;
}

std::vector<pid_t> ProcessesWith(const std::string& text) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (!std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; }))
      continue;
    std::string command = ReadAll(entry.path() / "cmdline");
    std::replace(command.begin(), command.end(), '\0', ' ');
    const pid_t pid = static_cast<pid_t>(std::stol(name));
    if (pid != getpid() && command.find(text) != std::string::npos) found.push_back(pid);
  }
  return found;
}

bool KillProcessesWith(const std::string& text) {
  return WaitUntil(
      [&] {
        const std::vector<pid_t> left = ProcessesWith(text);
        for (const pid_t pid : left) kill(pid, SIGKILL);
        return left.empty();
      },
      absl::Seconds(10));
}

void PauseBeforeNextLook() { poll(nullptr, 0, 20); }

}  // namespace muster::testing
