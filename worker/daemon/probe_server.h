#pragma once

#include <functional>
#include <list>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "worker/daemon/network_interfaces.h"
#include "worker/daemon/probe_messages.h"
#include "worker/daemon/tcp_socket.h"

namespace muster::worker {

// Answers the dials of other workers (peer_dialler.h), so that each can see before a job starts
// that the network lets it reach this node: on the port of the store, and on ports of the kernel's
// ephemeral range, which Gloo and NCCL will listen to. Serves nothing else: another text than a
// probe's ends the connection. Whoever can reach it learns the node's name and address, and may
// hold one of its few places for some seconds; further dials wait. One thread.
class ProbeServer {
 public:
  using Interfaces = std::function<std::vector<InterfaceAddress>()>;

  // `node` without "nodes/".
  ProbeServer(std::string node, const base::Clock& clock,
              Interfaces interfaces = ListInterfaceAddresses);
  ~ProbeServer();
  ProbeServer(const ProbeServer&) = delete;
  ProbeServer& operator=(const ProbeServer&) = delete;

  // Listens on a free port of `ip` from now on, in place of an earlier address. "ip:port"; the
  // same one when it listens on `ip` already.
  absl::StatusOr<std::string> Listen(const std::string& ip);

 private:
  // A dialler, from its first byte until it hangs up; or a connection to a sampled port.
  struct Connection {
    UniqueFd fd;
    bool dialler = false;
    absl::Duration deadline;
    std::string in;
    std::string out;
    // Of a dialler that was answered.
    std::string nonce;
    std::string sampled_ip;
    bool over = false;
  };
  // Sampled ports of one address, open while a dialler is there that was told of them.
  struct Sample {
    std::vector<ListeningSocket> sockets;
    int diallers = 0;
  };

  void Run();
  void Accept(int listener, bool dialler);
  void Read(Connection* connection);
  void Write(Connection* connection);
  void TakeLine(Connection* connection, const std::string& line);
  std::string Answer(Connection* connection, const ProbeRequest& request);
  absl::StatusOr<Sample*> SampleOf(const std::string& ip);
  void RemoveOver();
  int Diallers() const;

  const std::string node_;
  const base::Clock& clock_;
  const Interfaces interfaces_;
  UniqueFd wake_;
  absl::Mutex mutex_;
  // Waits for the thread to take it over.
  std::optional<ListeningSocket> next_ ABSL_GUARDED_BY(mutex_);
  // Where it listens, or is about to.
  std::string ip_ ABSL_GUARDED_BY(mutex_);
  std::string address_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  // Only the thread uses what follows.
  std::minstd_rand random_{std::random_device{}()};
  UniqueFd listener_;
  std::string listener_ip_;
  absl::Duration accepts_from_;
  std::list<Connection> connections_;
  std::map<std::string, Sample> samples_;
  std::thread thread_;
};

// The kernel's range of ephemeral ports; 32768 to 60999 where it cannot be read.
struct PortRange {
  int first = 32768;
  int last = 60999;
};
PortRange EphemeralPorts();

}  // namespace muster::worker
