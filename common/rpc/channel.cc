#include "common/rpc/channel.h"

#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/channel_arguments.h"

#include "common/rpc/limits.h"

namespace muster::rpc {
namespace {

// gRPC's "service config"; +-20 % jitter is built in.
constexpr char kRetryPolicy[] = R"({
  "methodConfig": [{
    "name": [{}],
    "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s",
                    "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}
  }],
  "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
})";

}  // namespace

std::shared_ptr<grpc::Channel> CreateChannel(absl::string_view address,
                                             const ChannelOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
  const int initial = static_cast<int>(absl::ToInt64Milliseconds(options.initial_backoff));
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, initial);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, initial);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS,
                   static_cast<int>(absl::ToInt64Milliseconds(options.max_backoff)));
  // Proxies of the environment are for the web, not for the cluster's own network.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Otherwise channels to one address share a connection, and its state of failure.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (options.retry_unavailable) arguments.SetServiceConfigJSON(kRetryPolicy);
  return grpc::CreateCustomChannel(
      std::string(address),
      options.credentials != nullptr ? options.credentials : grpc::InsecureChannelCredentials(),
      arguments);
}

void SetDeadline(grpc::ClientContext* context, absl::Duration from_now) {
  context->set_deadline(absl::ToChronoTime(absl::Now() + from_now));
}

}  // namespace muster::rpc
