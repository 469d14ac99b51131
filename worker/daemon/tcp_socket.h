#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"

#include "worker/daemon/process_identity.h"

namespace muster::worker {

// A bound and listening TCP socket. Rank 0's store gets one that is bound before any peer is told
// of it, so that no other program can take the port.
struct ListeningSocket {
  UniqueFd fd;
  // "ip:port"
  std::string address;
};

// On port 0: a free one of the system's choice.
absl::StatusOr<ListeningSocket> ListenOn(const std::string& ip, int port = 0);

// Begins to connect from `source_ip` and returns at once: the socket, which does not block, is
// writable when that is over, with the outcome in SO_ERROR.
absl::StatusOr<UniqueFd> StartConnect(const std::string& source_ip, const std::string& ip,
                                      int port);

// Splits "ip:port" or "[ip]:port".
absl::StatusOr<std::pair<std::string, int>> SplitAddress(const std::string& address);
// "ip:port" or "[ip]:port".
std::string JoinAddress(const std::string& ip, int port);

// The IP address that this node uses to reach "host:port".
absl::StatusOr<std::string> LocalAddressTowards(const std::string& address);

}  // namespace muster::worker
