#include "cli/coordinator_client.h"

#include <grpc/support/time.h>
#include <grpcpp/channel.h>

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

#include "common/base/exit_codes.h"
#include "common/rpc/channel.h"
#include "common/rpc/errors.h"
#include "common/rpc/limits.h"

namespace muster::cli {
namespace {

template <typename Request, typename Response, typename Reader>
grpc::Status ReadStream(grpc::ClientContext& context, Reader reader,
                        const std::function<bool(const Response&)>& each) {
  Response response;
  while (reader->Read(&response)) {
    if (!each(response)) {
      context.TryCancel();
      reader->Finish();
      return grpc::Status::OK;
    }
  }
  return reader->Finish();
}

// Within a moment. A coordinator that was stopped accepts connections, but does not answer.
bool Answers(grpc::Channel* channel) {
  const gpr_timespec deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                             gpr_time_from_seconds(/*patience=*/2, GPR_TIMESPAN));
  grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY && state != GRPC_CHANNEL_TRANSIENT_FAILURE &&
         channel->WaitForStateChange(state, deadline)) {
    state = channel->GetState(true);
  }
  return state == GRPC_CHANNEL_READY;
}

}  // namespace

std::string JobName(const std::string& job) {
  return absl::StartsWith(job, "jobs/") ? job : absl::StrCat("jobs/", job);
}

CoordinatorClient::CoordinatorClient(const std::string& addresses,
                                     std::shared_ptr<grpc::ChannelCredentials> credentials)
    : addresses_(addresses), credentials_(std::move(credentials)) {}

std::shared_ptr<CoordinatorClient::Stubs> CoordinatorClient::Connect() {
  absl::MutexLock lock(&mutex_);
  if (stubs_ != nullptr) return stubs_;
  const std::vector<std::string> addresses = absl::StrSplit(addresses_, ',');
  std::shared_ptr<grpc::Channel> channel;
  for (const std::string& address : addresses) {
    channel = rpc::CreateChannel(address, {.credentials = credentials_});
    // A standby does not listen. When none does, the call says what is wrong with the last one.
    if (addresses.size() == 1 || Answers(channel.get())) break;
  }
  stubs_ = std::make_shared<Stubs>(Stubs{v1::JobService::NewStub(channel),
                                         v1::NodeService::NewStub(channel),
                                         v1::AccessService::NewStub(channel)});
  return stubs_;
}

grpc::Status CoordinatorClient::Noted(const grpc::Status& status) {
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
      status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    absl::MutexLock lock(&mutex_);
    // One alone is connected to again by its channel.
    if (absl::StrContains(addresses_, ',')) stubs_ = nullptr;
  }
  return status;
}

grpc::Status CoordinatorClient::CreateJob(const v1::CreateJobRequest& request, v1::Job* job) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->jobs->CreateJob(&context, request, job));
}

grpc::Status CoordinatorClient::GetJob(const std::string& name, v1::Job* job) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  v1::GetJobRequest request;
  request.set_name(name);
  return Noted(Connect()->jobs->GetJob(&context, request, job));
}

grpc::Status CoordinatorClient::ListJobs(const v1::ListJobsRequest& request,
                                         v1::ListJobsResponse* response) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->jobs->ListJobs(&context, request, response));
}

grpc::Status CoordinatorClient::CancelJob(const v1::CancelJobRequest& request, v1::Job* job) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->jobs->CancelJob(&context, request, job));
}

grpc::Status CoordinatorClient::ListEvents(const v1::ListEventsRequest& request,
                                           v1::ListEventsResponse* response) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->jobs->ListEvents(&context, request, response));
}

grpc::Status CoordinatorClient::GetNode(const std::string& name, v1::Node* node) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  v1::GetNodeRequest request;
  request.set_name(name);
  return Noted(Connect()->nodes->GetNode(&context, request, node));
}

grpc::Status CoordinatorClient::ListNodes(const v1::ListNodesRequest& request,
                                          v1::ListNodesResponse* response) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->nodes->ListNodes(&context, request, response));
}

grpc::Status CoordinatorClient::CordonNode(const v1::CordonNodeRequest& request, v1::Node* node) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->nodes->CordonNode(&context, request, node));
}

grpc::Status CoordinatorClient::UncordonNode(const v1::UncordonNodeRequest& request,
                                             v1::Node* node) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->nodes->UncordonNode(&context, request, node));
}

grpc::Status CoordinatorClient::DrainNode(const v1::DrainNodeRequest& request, v1::Node* node) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->nodes->DrainNode(&context, request, node));
}

grpc::Status CoordinatorClient::CreateToken(const v1::CreateTokenRequest& request,
                                            v1::CreateTokenResponse* response) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->access->CreateToken(&context, request, response));
}

grpc::Status CoordinatorClient::ListTokens(const v1::ListTokensRequest& request,
                                           v1::ListTokensResponse* response) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->access->ListTokens(&context, request, response));
}

grpc::Status CoordinatorClient::RevokeToken(const v1::RevokeTokenRequest& request,
                                            v1::Token* token) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return Noted(Connect()->access->RevokeToken(&context, request, token));
}

grpc::Status CoordinatorClient::WatchJob(
    grpc::ClientContext& context, const v1::WatchJobRequest& request,
    const std::function<bool(const v1::WatchJobResponse&)>& each) {
  const std::shared_ptr<Stubs> stubs = Connect();
  return Noted(
      ReadStream<v1::WatchJobRequest>(context, stubs->jobs->WatchJob(&context, request), each));
}

grpc::Status CoordinatorClient::StreamLogs(
    grpc::ClientContext& context, const v1::StreamLogsRequest& request,
    const std::function<bool(const v1::StreamLogsResponse&)>& each) {
  const std::shared_ptr<Stubs> stubs = Connect();
  return Noted(
      ReadStream<v1::StreamLogsRequest>(context, stubs->jobs->StreamLogs(&context, request), each));
}

std::string CoordinatorClient::Explain(const grpc::Status& status) const {
  if (ExitCodeFor(status) == base::kExitUnavailable) {
    return absl::StrCat(
        "the coordinator at ", addresses_, " does not answer (", status.error_message(),
        "); start it, or name another with --coordinator or MUSTER_COORDINATOR",
        credentials_ != nullptr ? "; its certificate must be of --tls-ca and name this address"
                                : "; if it uses TLS, give --tls-ca or MUSTER_TLS_CA");
  }
  std::string text = status.error_message();
  for (const rpc::FieldViolation& violation : rpc::FieldViolations(rpc::FromGrpcStatus(status))) {
    const std::string line = absl::StrCat(violation.field, ": ", violation.description);
    if (!absl::StrContains(text, violation.description)) absl::StrAppend(&text, "\n  ", line);
  }
  return text;
}

int ExitCodeFor(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return base::kExitCompleted;
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return base::kExitUnavailable;
    case grpc::StatusCode::INVALID_ARGUMENT:
      return base::kExitBadConfig;
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::ALREADY_EXISTS:
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return base::kExitUsage;
    default:
      return base::kExitInternal;
  }
}

}  // namespace muster::cli
