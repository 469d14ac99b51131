#include "worker/train/launcher.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "worker/train/failure.h"

namespace muster::train {
namespace {

struct MasterSocket {
  int fd = -1;
  uint16_t port = 0;
};

MasterSocket Listen() {
  MasterSocket master;
  master.fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (master.fd < 0 || ::bind(master.fd, generic, size) != 0 || ::listen(master.fd, 128) != 0 ||
      ::getsockname(master.fd, generic, &size) != 0) {
    throw TrainingFailure(base::kExitInternal,
                          absl::StrCat("cannot listen on 127.0.0.1: ", std::strerror(errno)));
  }
  master.port = ntohs(address.sin_port);
  return master;
}

// One rank's process and, for other ranks than 0, the memory that takes its standard error.
struct RankProcess {
  pid_t pid = -1;
  int log = -1;
  std::optional<int> status;  // as of waitpid
};

int ExitCodeOf(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string Describe(int status) {
  return WIFSIGNALED(status) ? absl::StrCat("was killed by signal ", WTERMSIG(status))
                             : absl::StrCat("exited with code ", WEXITSTATUS(status));
}

std::vector<std::string> EnvironmentOf(int rank, int ranks, const MasterSocket& master) {
  std::vector<std::pair<std::string, std::string>> own = {
      {"RANK", absl::StrCat(rank)},
      {"LOCAL_RANK", absl::StrCat(rank)},
      {"WORLD_SIZE", absl::StrCat(ranks)},
      {"LOCAL_WORLD_SIZE", absl::StrCat(ranks)},
      {"NODE_RANK", "0"},
      {"MASTER_ADDR", "127.0.0.1"},
      {"MASTER_PORT", absl::StrCat(master.port)},
      {"MUSTER_NODE_ADDRESS", "127.0.0.1"}};
  if (rank == 0) own.emplace_back("MUSTER_MASTER_FD", absl::StrCat(master.fd));
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    own.emplace_back("OMP_NUM_THREADS", absl::StrCat(std::max(1, cores / ranks)));
  }
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    const bool replaced =
        std::any_of(own.begin(), own.end(), [&](const auto& item) { return item.first == name; });
    if (!replaced && name != "MUSTER_MASTER_FD") environment.push_back(text);
  }
  for (const auto& [name, value] : own) environment.push_back(absl::StrCat(name, "=", value));
  return environment;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

RankProcess Start(const LaunchRequest& request, int rank, const MasterSocket& master) {
  std::vector<std::string> arguments = request.arguments;
  arguments.insert(arguments.begin(), request.program.string());
  std::vector<std::string> environment = EnvironmentOf(rank, request.ranks, master);
  const std::vector<char*> argv = Pointers(arguments);
  const std::vector<char*> envp = Pointers(environment);
  RankProcess process;
  if (rank > 0) process.log = ::memfd_create("rank-stderr", MFD_CLOEXEC);

  const pid_t parent = ::getpid();
  process.pid = ::fork();
  if (process.pid < 0) {
    throw TrainingFailure(base::kExitInternal,
                          absl::StrCat("cannot start rank ", rank, ": ", std::strerror(errno)));
  }
  if (process.pid > 0) return process;

  // The child: only calls that are safe after fork, up to execve.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(base::kExitInternal);
  // A group of its own: Ctrl-C reaches the parent alone, which asks in its own way.
  ::setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (rank == 0) ::fcntl(master.fd, F_SETFD, 0);
  if (process.log >= 0) {
    ::dup2(process.log, STDERR_FILENO);
    ::dup2(process.log, STDOUT_FILENO);
  }
  ::execve(argv[0], argv.data(), envp.data());
  ::_exit(base::kExitInternal);
}

// The end of what a silent rank had to say.
void PrintTail(int rank, int log) {
  constexpr off_t kMost = 8192;
  const off_t size = ::lseek(log, 0, SEEK_END);
  std::array<char, kMost> buffer{};
  const off_t begin = std::max<off_t>(0, size - kMost);
  const ssize_t got = ::pread(log, buffer.data(), buffer.size(), begin);
  if (got > 0) {
    std::fprintf(stderr, "--- rank %d:\n%.*s", rank, static_cast<int>(got), buffer.data());
  }
}

class Launcher {
 public:
  explicit Launcher(const LaunchRequest& request) : request_(request) {}

  int Run() {
    sigset_t watched;
    sigemptyset(&watched);
    for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&watched, signal);
    sigset_t before;
    ::pthread_sigmask(SIG_BLOCK, &watched, &before);
    const MasterSocket master = Listen();
    for (int rank = 0; rank < request_.ranks; ++rank) {
      processes_.push_back(Start(request_, rank, master));
    }
    ::close(master.fd);

    while (Reap()) {
      timespec wait{.tv_sec = 0, .tv_nsec = 200'000'000};
      const int signal = ::sigtimedwait(&watched, nullptr, &wait);
      if (signal == SIGINT || signal == SIGTERM) {
        Signal(signal == SIGINT && interrupted_ ? SIGKILL : SIGTERM);
        asked_ = true;
        interrupted_ = interrupted_ || signal == SIGINT;
      }
      if (first_failure_.has_value() && base::MonotonicNow() >= kill_at_) Signal(SIGKILL);
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    const int code = Report();
    for (const RankProcess& process : processes_) {
      if (process.log >= 0) ::close(process.log);
    }
    return code;
  }

 private:
  // False when no rank is left.
  bool Reap() {
    int status = 0;
    pid_t pid = 0;
    while ((pid = ::waitpid(-1, &status, WNOHANG)) > 0) {
      for (size_t rank = 0; rank < processes_.size(); ++rank) {
        if (processes_[rank].pid != pid) continue;
        processes_[rank].status = status;
        if (status != 0 && ExitCodeOf(status) != base::kExitStopped) NoteFailure(rank);
      }
    }
    return std::any_of(processes_.begin(), processes_.end(),
                       [](const RankProcess& process) { return !process.status.has_value(); });
  }

  void NoteFailure(size_t rank) {
    const int code = ExitCodeOf(*processes_[rank].status);
    if (!first_failure_.has_value()) {
      first_failure_ = rank;
      // A rank that only lost its peers gives the one that is to blame a moment to end.
      kill_at_ = base::MonotonicNow() +
                 (code == base::kExitCollectiveLost ? absl::Seconds(2) : absl::ZeroDuration());
    } else if (ExitCodeOf(*processes_[*first_failure_].status) == base::kExitCollectiveLost &&
               code != base::kExitCollectiveLost && base::MonotonicNow() < kill_at_) {
      first_failure_ = rank;
      kill_at_ = base::MonotonicNow();
    }
  }

  void Signal(int signal) {
    for (const RankProcess& process : processes_) {
      if (!process.status.has_value()) ::kill(process.pid, signal);
    }
  }

  int Report() const {
    if (!first_failure_.has_value()) {
      // All ranks agree on a stop.
      return ExitCodeOf(*processes_.front().status);
    }
    const RankProcess& process = processes_[*first_failure_];
    const int signal = WIFSIGNALED(*process.status) ? WTERMSIG(*process.status) : 0;
    if (asked_ && (signal == SIGTERM || signal == SIGKILL)) {
      // Sent from here, to a rank that was not ready yet to stop by itself or was given no time to.
      std::fputs("muster-trainer: stopped\n", stderr);
      return ExitCodeOf(*process.status);
    }
    if (process.log >= 0) PrintTail(static_cast<int>(*first_failure_), process.log);
    std::fprintf(stderr, "muster-trainer: error: rank %zu %s\n", *first_failure_,
                 Describe(*process.status).c_str());
    return ExitCodeOf(*process.status);
  }

  const LaunchRequest& request_;
  std::vector<RankProcess> processes_;
  std::optional<size_t> first_failure_;
  absl::Duration kill_at_ = absl::InfiniteDuration();
  bool asked_ = false;  // to stop
  bool interrupted_ = false;
};

}  // namespace

int LaunchRanks(const LaunchRequest& request) { return Launcher(request).Run(); }

}  // namespace muster::train
