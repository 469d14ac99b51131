#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/security/credentials.h"

namespace muster::rpc {

struct ChannelOptions {
  // Not set: plaintext.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  // Unary calls that fail with UNAVAILABLE are tried up to four times, 0.1 s x 2 apart. Safe, since
  // every call that changes something carries a request id or can be repeated.
  bool retry_unavailable = true;
  // Between attempts to connect; grows by 1.6 with each, +-20 %.
  absl::Duration initial_backoff = absl::Milliseconds(500);
  absl::Duration max_backoff = absl::Seconds(10);
};

// A channel to "host:port" or "unix:/path"; connects at the first call. Keepalive pings every 20 s
// while a call runs, messages of at most 4 MiB. Each call gives a connection of its own.
std::shared_ptr<grpc::Channel> CreateChannel(absl::string_view address,
                                             const ChannelOptions& options = {});

// gRPC sets no deadline by itself: a unary call has one from here.
void SetDeadline(grpc::ClientContext* context, absl::Duration from_now);

}  // namespace muster::rpc
