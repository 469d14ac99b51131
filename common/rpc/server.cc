#include "common/rpc/server.h"

#include <mutex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"

#include "common/base/endpoint.h"
#include "common/base/status_macros.h"
#include "common/rpc/limits.h"

namespace muster::rpc {
namespace {

void EnablePlugins() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  EnablePlugins();
  const bool is_unix = absl::StartsWith(options.address, "unix:");
  base::Endpoint endpoint;
  if (!is_unix) {
    MUSTER_ASSIGN_OR_RETURN(endpoint, base::ParseEndpoint(options.address));
    if (options.credentials == nullptr && !endpoint.IsLoopback()) {
      return absl::FailedPreconditionError(
          absl::StrCat("refusing to serve plaintext on ", options.address,
                       ": listen on 127.0.0.1, or use TLS (--tls-cert, --tls-key)"));
    }
    // gRPC would log an unreadable line of its own beside our error.
    if (endpoint.port != 0) MUSTER_RETURN_IF_ERROR(base::TryListen(endpoint));
  }
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(
      is_unix ? options.address : endpoint.ToString(),
      options.credentials != nullptr ? options.credentials : grpc::InsecureServerCredentials(),
      &port);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsPerConnection);
  // Otherwise two processes could share a port, each with half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Otherwise a ping would follow each heartbeat, to find out how much a connection carries.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  for (grpc::Service* service : options.services) builder.RegisterService(service);

  auto server = std::unique_ptr<Server>(new Server());
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || port == 0) {
    if (is_unix) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", options.address,
                       ": is its folder writable, and the path shorter than 108 bytes?"));
    }
    return base::ListenError(endpoint);
  }
  server->port_ = is_unix ? 0 : port;
  server->address_ = is_unix ? options.address : base::Endpoint{endpoint.host, port}.ToString();
  return server;
}

Server::~Server() { Shutdown(absl::Seconds(1)); }

void Server::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  if (health != nullptr) health->SetServingStatus(serving);
}

void Server::Shutdown(absl::Duration grace) {
  if (server_ == nullptr || stopped_) return;
  stopped_ = true;
  SetServing(false);
  server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
  server_->Wait();
}

}  // namespace muster::rpc
