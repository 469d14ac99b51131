#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace muster::base {

// A TCP address as people write it: "127.0.0.1:7070", "[::1]:7070", "host:7070", ":7070" (all
// interfaces).
struct Endpoint {
  std::string host;
  int port = 0;

  std::string ToString() const;
  // True for localhost, 127.0.0.0/8 and ::1.
  bool IsLoopback() const;
};

// Port 0 is allowed (the system chooses).
absl::StatusOr<Endpoint> ParseEndpoint(absl::string_view text);

// The first of some addresses, with commas between them, that is not on this machine: neither
// loopback nor "unix:PATH". Empty: all are.
std::string FirstBeyondLoopback(absl::string_view addresses);

// Listens there for a moment. Unavailable with address and reason when that cannot be, for example
// "cannot listen on 127.0.0.1:7070: Address already in use; ...".
absl::Status TryListen(const Endpoint& endpoint);

// Why a server could not listen there, for libraries that say only "failed". Never OK.
absl::Status ListenError(const Endpoint& endpoint);

}  // namespace muster::base
