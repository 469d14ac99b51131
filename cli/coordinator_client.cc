#include "cli/coordinator_client.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

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

}  // namespace

std::string JobName(const std::string& job) {
  return absl::StartsWith(job, "jobs/") ? job : absl::StrCat("jobs/", job);
}

CoordinatorClient::CoordinatorClient(const std::string& address)
    : address_(address),
      jobs_(v1::JobService::NewStub(rpc::CreateChannel(address))),
      nodes_(v1::NodeService::NewStub(rpc::CreateChannel(address))) {}

grpc::Status CoordinatorClient::CreateJob(const v1::CreateJobRequest& request, v1::Job* job) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return jobs_->CreateJob(&context, request, job);
}

grpc::Status CoordinatorClient::GetJob(const std::string& name, v1::Job* job) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  v1::GetJobRequest request;
  request.set_name(name);
  return jobs_->GetJob(&context, request, job);
}

grpc::Status CoordinatorClient::ListJobs(const v1::ListJobsRequest& request,
                                         v1::ListJobsResponse* response) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return jobs_->ListJobs(&context, request, response);
}

grpc::Status CoordinatorClient::CancelJob(const v1::CancelJobRequest& request, v1::Job* job) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return jobs_->CancelJob(&context, request, job);
}

grpc::Status CoordinatorClient::ListNodes(const v1::ListNodesRequest& request,
                                          v1::ListNodesResponse* response) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  return nodes_->ListNodes(&context, request, response);
}

grpc::Status CoordinatorClient::WatchJob(
    grpc::ClientContext& context, const v1::WatchJobRequest& request,
    const std::function<bool(const v1::WatchJobResponse&)>& each) {
  return ReadStream<v1::WatchJobRequest>(context, jobs_->WatchJob(&context, request), each);
}

grpc::Status CoordinatorClient::StreamLogs(
    grpc::ClientContext& context, const v1::StreamLogsRequest& request,
    const std::function<bool(const v1::StreamLogsResponse&)>& each) {
  return ReadStream<v1::StreamLogsRequest>(context, jobs_->StreamLogs(&context, request), each);
}

std::string CoordinatorClient::Explain(const grpc::Status& status) const {
  if (ExitCodeFor(status) == base::kExitUnavailable) {
    return absl::StrCat("the coordinator at ", address_, " does not answer (",
                        status.error_message(),
                        "); start it, or name another with --coordinator or MUSTER_COORDINATOR");
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
      return base::kExitUsage;
    default:
      return base::kExitInternal;
  }
}

}  // namespace muster::cli
