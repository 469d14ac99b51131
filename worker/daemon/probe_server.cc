#include "worker/daemon/probe_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "worker/daemon/wake_event.h"

namespace muster::worker {
namespace {

constexpr int kMostDiallers = 64;
constexpr size_t kMostConnections = 256;
constexpr int kSampledPorts = 4;
constexpr int kTriesAPort = 16;
// Longer than a dialler takes for all of its dials.
constexpr absl::Duration kDiallerMayStay = absl::Seconds(15);
constexpr absl::Duration kEchoMayTake = absl::Seconds(5);
// Before it accepts again when the process had no descriptor left.
constexpr absl::Duration kBreather = absl::Seconds(1);

void SetNonBlocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

}  // namespace

PortRange EphemeralPorts() {
  PortRange range;
  const auto text = base::ReadFile("/proc/sys/net/ipv4/ip_local_port_range");
  if (!text.ok()) return range;
  const std::vector<std::string> words =
      absl::StrSplit(*text, absl::ByAnyChar(" \t\n"), absl::SkipEmpty());
  PortRange read;
  if (words.size() == 2 && absl::SimpleAtoi(words[0], &read.first) &&
      absl::SimpleAtoi(words[1], &read.last) && read.first > 0 && read.first <= read.last &&
      read.last <= 65535) {
    range = read;
  }
  return range;
}

ProbeServer::ProbeServer(std::string node, const base::Clock& clock, Interfaces interfaces)
    : node_(std::move(node)),
      clock_(clock),
      interfaces_(std::move(interfaces)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

ProbeServer::~ProbeServer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  Wake(wake_);
  thread_.join();
}

absl::StatusOr<std::string> ProbeServer::Listen(const std::string& ip) {
  absl::MutexLock lock(&mutex_);
  if (ip_ == ip) return address_;
  MUSTER_ASSIGN_OR_RETURN(ListeningSocket socket, ListenOn(ip));
  SetNonBlocking(socket.fd.get());
  ip_ = ip;
  address_ = socket.address;
  next_ = std::move(socket);
  Wake(wake_);
  return address_;
}

int ProbeServer::Diallers() const {
  return static_cast<int>(std::count_if(connections_.begin(), connections_.end(),
                                        [](const Connection& one) { return one.dialler; }));
}

void ProbeServer::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      if (next_.has_value()) {
        listener_ = std::move(next_->fd);
        listener_ip_ = ip_;
        next_.reset();
      }
    }
    std::vector<pollfd> polled = {{wake_.get(), POLLIN, 0}};
    // A full house leaves the rest waiting in the kernel.
    const absl::Duration now = clock_.Monotonic();
    const bool room = connections_.size() < kMostConnections && now >= accepts_from_;
    polled.push_back({room && Diallers() < kMostDiallers ? listener_.get() : -1, POLLIN, 0});
    for (const auto& [ip, sample] : samples_) {
      for (const ListeningSocket& socket : sample.sockets) {
        polled.push_back({room ? socket.fd.get() : -1, POLLIN, 0});
      }
    }
    const size_t first_connection = polled.size();
    absl::Duration wait = now < accepts_from_ ? accepts_from_ - now : absl::InfiniteDuration();
    for (const Connection& connection : connections_) {
      const bool writes = !connection.out.empty();
      polled.push_back(
          {connection.fd.get(), static_cast<short>(writes ? POLLOUT : POLLIN), 0});  // NOLINT
      wait = std::min(wait, connection.deadline - now);
    }
    const int timeout =
        wait == absl::InfiniteDuration()
            ? -1
            : static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(wait) + 1));
    if (poll(polled.data(), polled.size(), timeout) < 0) continue;

    if (polled[0].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t drained = read(wake_.get(), &count, sizeof(count));
    }
    size_t next = first_connection;
    for (Connection& connection : connections_) {
      const short events = polled[next++].revents;  // NOLINT(google-runtime-int): poll's type
      if (events == 0) continue;
      connection.out.empty() ? Read(&connection) : Write(&connection);
    }
    for (size_t i = 1; i < first_connection; ++i) {
      if (polled[i].revents != 0) Accept(polled[i].fd, /*dialler=*/i == 1);
    }
    RemoveOver();
  }
}

void ProbeServer::Accept(int listener, bool dialler) {
  UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    if (errno == EMFILE || errno == ENFILE) accepts_from_ = clock_.Monotonic() + kBreather;
    return;
  }
  Connection& connection = connections_.emplace_back();
  connection.fd = std::move(fd);
  connection.dialler = dialler;
  connection.deadline = clock_.Monotonic() + (dialler ? kDiallerMayStay : kEchoMayTake);
}

void ProbeServer::Read(Connection* connection) {
  char buffer[kMostProbeBytes];
  const ssize_t size = recv(connection->fd.get(), buffer, sizeof(buffer), 0);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  const bool answered = !connection->nonce.empty();
  if (size <= 0 || answered) {
    // The dialler has hung up, or says more than it should.
    connection->over = true;
    return;
  }
  connection->in.append(buffer, static_cast<size_t>(size));
  const size_t end = connection->in.find('\n');
  if (end != std::string::npos && end + 1 == connection->in.size()) {
    TakeLine(connection, connection->in.substr(0, end));
  } else if (end != std::string::npos || connection->in.size() >= kMostProbeBytes) {
    connection->over = true;
  }
}

void ProbeServer::TakeLine(Connection* connection, const std::string& line) {
  if (!connection->dialler) {
    const bool known =
        std::any_of(connections_.begin(), connections_.end(), [&](const Connection& one) {
          return one.dialler && !one.nonce.empty() && one.nonce == line;
        });
    connection->over = !known;
    connection->nonce = line;
    connection->out = line + "\n";
    return;
  }
  const absl::StatusOr<ProbeRequest> request = ParseProbeRequest(line);
  if (!request.ok()) {
    connection->over = true;
    return;
  }
  connection->nonce = request->nonce;
  connection->out = Answer(connection, *request);
}

std::string ProbeServer::Answer(Connection* connection, const ProbeRequest& request) {
  ProbeAnswer answer;
  answer.node = node_;
  answer.job = request.job;
  answer.generation = request.generation;
  answer.nonce = request.nonce;
  const absl::StatusOr<InterfaceAddress> interface =
      ChooseInterface(interfaces_(), request.interface, listener_ip_, /*alone=*/false, node_);
  if (!interface.ok()) {
    answer.error = std::string(interface.status().message());
    return ToLine(answer);
  }
  const absl::StatusOr<Sample*> sample = SampleOf(interface->ip);
  if (!sample.ok()) {
    answer.error = std::string(sample.status().message());
    return ToLine(answer);
  }
  ++(*sample)->diallers;
  connection->sampled_ip = interface->ip;
  answer.ip = interface->ip;
  for (const ListeningSocket& socket : (*sample)->sockets) {
    answer.ports.push_back(SplitAddress(socket.address)->second);
  }
  return ToLine(answer);
}

absl::StatusOr<ProbeServer::Sample*> ProbeServer::SampleOf(const std::string& ip) {
  Sample& sample = samples_[ip];
  if (!sample.sockets.empty()) return &sample;
  // One from each part of the range: a firewall may open only one of them.
  const PortRange range = EphemeralPorts();
  const int parts = std::min(kSampledPorts, range.last - range.first + 1);
  absl::Status refused;
  for (int part = 0; part < parts; ++part) {
    const int size = range.last - range.first + 1;
    std::uniform_int_distribution<int> port(range.first + size * part / parts,
                                            range.first + size * (part + 1) / parts - 1);
    for (int i = 0; i < kTriesAPort; ++i) {
      absl::StatusOr<ListeningSocket> socket = ListenOn(ip, port(random_));
      if (!socket.ok()) {
        refused = socket.status();
        continue;
      }
      SetNonBlocking(socket->fd.get());
      sample.sockets.push_back(*std::move(socket));
      break;
    }
  }
  if (!sample.sockets.empty()) return &sample;
  samples_.erase(ip);
  return refused;
}

void ProbeServer::Write(Connection* connection) {
  const ssize_t size =
      send(connection->fd.get(), connection->out.data(), connection->out.size(), MSG_NOSIGNAL);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size <= 0) {
    connection->over = true;
    return;
  }
  connection->out.erase(0, static_cast<size_t>(size));
}

void ProbeServer::RemoveOver() {
  const absl::Duration now = clock_.Monotonic();
  for (auto it = connections_.begin(); it != connections_.end();) {
    if (!it->over && now < it->deadline) {
      ++it;
      continue;
    }
    if (!it->sampled_ip.empty() && --samples_[it->sampled_ip].diallers == 0) {
      samples_.erase(it->sampled_ip);
    }
    it = connections_.erase(it);
  }
}

}  // namespace muster::worker
