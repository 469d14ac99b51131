#include "worker/daemon/peer_dialler.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/random_id.h"
#include "common/base/status_macros.h"
#include "worker/daemon/probe_messages.h"
#include "worker/daemon/tcp_socket.h"
#include "worker/daemon/wake_event.h"

namespace muster::worker {
namespace {

constexpr size_t kMostThreads = 16;

absl::Status TimedOut() { return absl::DeadlineExceededError("connection timed out"); }
absl::Status Given(int error) {
  std::string reason = std::strerror(error);
  absl::AsciiStrToLower(&reason);
  return absl::UnavailableError(reason);
}

// One dial's clock and way out.
struct Limit {
  const base::Clock& clock;
  absl::Duration deadline;
  int stop_fd;

  // Until the descriptor is ready, the deadline passes, or the dialler ends.
  absl::Status Wait(int fd, short events) const {  // NOLINT(google-runtime-int): poll's type
    while (true) {
      const absl::Duration left = deadline - clock.Monotonic();
      if (left <= absl::ZeroDuration()) return TimedOut();
      pollfd polled[] = {{fd, events, 0}, {stop_fd, POLLIN, 0}};
      const int ready = poll(polled, 2, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
      if (polled[1].revents != 0) return absl::CancelledError("the worker is ending");
      if (ready > 0 && polled[0].revents != 0) return absl::OkStatus();
    }
  }
};

// A connection to one port: says one line, hears one.
class ProbeConnection {
 public:
  static absl::StatusOr<ProbeConnection> Open(const std::string& source, const std::string& ip,
                                              int port, const Limit& limit) {
    MUSTER_ASSIGN_OR_RETURN(UniqueFd fd, StartConnect(source, ip, port));
    MUSTER_RETURN_IF_ERROR(limit.Wait(fd.get(), POLLOUT));
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return Given(error);
    return ProbeConnection(std::move(fd));
  }

  absl::StatusOr<std::string> Ask(const std::string& line, const Limit& limit) {
    for (size_t sent = 0; sent < line.size();) {
      MUSTER_RETURN_IF_ERROR(limit.Wait(fd_.get(), POLLOUT));
      const ssize_t size = send(fd_.get(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
      if (size < 0 && errno != EAGAIN && errno != EINTR) return Given(errno);
      sent += static_cast<size_t>(std::max<ssize_t>(size, 0));
    }
    std::string answer;
    while (answer.size() < kMostProbeBytes) {
      MUSTER_RETURN_IF_ERROR(limit.Wait(fd_.get(), POLLIN));
      char buffer[kMostProbeBytes];
      const ssize_t size = recv(fd_.get(), buffer, sizeof(buffer), 0);
      if (size < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (size < 0) return Given(errno);
      if (size == 0) return absl::UnavailableError("it hung up");
      answer.append(buffer, static_cast<size_t>(size));
      const size_t end = answer.find('\n');
      if (end != std::string::npos) return answer.substr(0, end);
    }
    return absl::UnavailableError("answers in another protocol");
  }

 private:
  explicit ProbeConnection(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// What is dialled at the moment, for the message.
struct Target {
  std::string ip;
  int port = 0;
};

absl::Status TryOnce(const PeerDialler::Request& request, const v1::Peer& peer, const Limit& limit,
                     Target* target) {
  MUSTER_ASSIGN_OR_RETURN(const auto address, SplitAddress(peer.probe_address()));
  *target = {address.first, address.second};
  ProbeRequest ask;
  ask.job = request.job;
  ask.generation = request.generation;
  ask.nonce = base::RandomHex(16);
  ask.interface = request.interface;
  MUSTER_ASSIGN_OR_RETURN(ProbeConnection connection,
                          ProbeConnection::Open(request.from.ip, target->ip, target->port, limit));
  MUSTER_ASSIGN_OR_RETURN(const std::string line, connection.Ask(ToLine(ask), limit));
  MUSTER_ASSIGN_OR_RETURN(const ProbeAnswer answer, ParseProbeAnswer(line));
  if (answer.node != peer.node()) {
    // Every machine has addresses such as a container bridge's 172.17.0.1.
    return absl::FailedPreconditionError(absl::StrCat("nodes/", answer.node, " answers there"));
  }
  if (answer.job != ask.job || answer.generation != ask.generation || answer.nonce != ask.nonce) {
    return absl::UnavailableError("it answered another dial");
  }
  if (!answer.error.empty()) return absl::FailedPreconditionError(answer.error);
  for (int port : answer.ports) {
    *target = {answer.ip, port};
    MUSTER_ASSIGN_OR_RETURN(ProbeConnection sampled,
                            ProbeConnection::Open(request.from.ip, answer.ip, port, limit));
    MUSTER_ASSIGN_OR_RETURN(const std::string echo, sampled.Ask(ask.nonce + "\n", limit));
    if (echo != ask.nonce) return absl::UnavailableError("another program answers there");
  }
  return absl::OkStatus();
}

}  // namespace

PeerDialler::PeerDialler(std::string node, const base::Clock& clock, Options options)
    : node_(std::move(node)),
      clock_(clock),
      options_(options),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

PeerDialler::~PeerDialler() {
  Wake(stop_);
  std::list<Work> works;
  {
    absl::MutexLock lock(&mutex_);
    works.splice(works.begin(), works_);
  }
  for (Work& work : works) work.thread.join();
}

void PeerDialler::Dial(Request request, Done done) {
  absl::MutexLock lock(&mutex_);
  for (auto it = works_.begin(); it != works_.end();) {
    if (it->finished) it->thread.join();
    it = it->finished ? works_.erase(it) : std::next(it);
  }
  Work& work = works_.emplace_back();
  work.thread = std::thread([this, &work, request = std::move(request), done = std::move(done)] {
    done(DialAll(request));
    absl::MutexLock finish(&mutex_);
    work.finished = true;
  });
}

absl::Status PeerDialler::DialAll(const Request& request) {
  std::atomic<int> next{0};
  absl::Mutex mutex;
  absl::Status failure;
  const auto dial = [&] {
    for (int i = next++; i < static_cast<int>(request.peers.size()); i = next++) {
      const absl::Status dialled = DialPeer(request, request.peers[static_cast<size_t>(i)]);
      absl::MutexLock lock(&mutex);
      if (failure.ok()) failure = dialled;
      if (!failure.ok()) return;
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(kMostThreads, request.peers.size()); ++i) {
    threads.emplace_back(dial);
  }
  dial();
  for (std::thread& thread : threads) thread.join();
  return failure;
}

absl::Status PeerDialler::DialPeer(const Request& request, const v1::Peer& peer) {
  const Limit limit{clock_, clock_.Monotonic() + options_.deadline, stop_.get()};
  Target failed;
  absl::Status tried;
  while (true) {
    Target target;
    const absl::Status now = TryOnce(request, peer, limit, &target);
    if (now.ok() || absl::IsCancelled(now)) return now;
    // The last try is cut short by the deadline; one before it may know more.
    if (tried.ok() || !absl::IsDeadlineExceeded(now)) {
      tried = now;
      failed = target;
    }
    if (absl::IsFailedPrecondition(now) || clock_.Monotonic() >= limit.deadline) break;
    // It may be about to listen: its worker was just started again.
    pollfd stop = {stop_.get(), POLLIN, 0};
    poll(&stop, 1, static_cast<int>(absl::ToInt64Milliseconds(options_.pause)));
  }
  return absl::UnavailableError(absl::StrCat(
      "nodes/", node_, " (", request.from.interface, " ", request.from.ip, ") cannot reach nodes/",
      peer.node(), " at ", JoinAddress(failed.ip, failed.port), ": ", tried.message(),
      "; open TCP between the nodes or pass --advertise-address / distributed.interface"));
}

}  // namespace muster::worker
