#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"

namespace muster::rpc {

struct ServerOptions {
  // "host:port" (port 0: any free one) or "unix:/path/of/socket".
  std::string address;
  // Must live longer than the server.
  std::vector<grpc::Service*> services;
  // Not set: plaintext, which is refused beyond loopback and unix sockets.
  std::shared_ptr<grpc::ServerCredentials> credentials = nullptr;
};

// A gRPC server with what all of ours share: health and reflection services, messages of at most
// 4 MiB, keepalive that finds a dead client in 15 s, no port shared with another process.
class Server {
 public:
  // Listens and serves. Unavailable, naming the address and the reason, when it cannot.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options);
  // Shutdown with a second of grace.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // With the port that was chosen; what a channel takes.
  const std::string& address() const { return address_; }
  int port() const { return port_; }

  // What the health service answers; SERVING from the start.
  void SetServing(bool serving);
  // Takes no new calls, lets running ones end, cancels the rest after `grace`. Idempotent.
  void Shutdown(absl::Duration grace);

 private:
  Server() = default;

  std::string address_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  bool stopped_ = false;
};

}  // namespace muster::rpc
