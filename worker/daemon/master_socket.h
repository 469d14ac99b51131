#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "worker/daemon/process_identity.h"

namespace muster::worker {

// A bound and listening TCP socket for rank 0's store: bound before any peer is told of it, so that
// no other program can take the port.
struct MasterSocket {
  UniqueFd fd;
  // "ip:port"
  std::string address;
};

// On `ip` and a free port.
absl::StatusOr<MasterSocket> BindMasterSocket(const std::string& ip);
// On this "ip:port", where an earlier daemon had announced it.
absl::StatusOr<MasterSocket> RebindMasterSocket(const std::string& address);

// Splits "ip:port" or "[ip]:port".
absl::StatusOr<std::pair<std::string, int>> SplitAddress(const std::string& address);

// The IP address that this node uses to reach "host:port".
absl::StatusOr<std::string> LocalAddressTowards(const std::string& address);

}  // namespace muster::worker
