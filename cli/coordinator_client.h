#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"

#include "muster/v1/job_service.grpc.pb.h"
#include "muster/v1/node_service.grpc.pb.h"

namespace muster::cli {

// "jobs/x" from "x" or "jobs/x".
std::string JobName(const std::string& job);

// The calls of the commands, with deadlines and errors for people. Thread-safe.
class CoordinatorClient {
 public:
  explicit CoordinatorClient(const std::string& address);

  grpc::Status CreateJob(const v1::CreateJobRequest& request, v1::Job* job);
  grpc::Status GetJob(const std::string& name, v1::Job* job);
  grpc::Status ListJobs(const v1::ListJobsRequest& request, v1::ListJobsResponse* response);
  grpc::Status CancelJob(const v1::CancelJobRequest& request, v1::Job* job);
  grpc::Status ListNodes(const v1::ListNodesRequest& request, v1::ListNodesResponse* response);

  // Streams, until `context` is cancelled or the callback returns false.
  grpc::Status WatchJob(grpc::ClientContext& context, const v1::WatchJobRequest& request,
                        const std::function<bool(const v1::WatchJobResponse&)>& each);
  grpc::Status StreamLogs(grpc::ClientContext& context, const v1::StreamLogsRequest& request,
                          const std::function<bool(const v1::StreamLogsResponse&)>& each);

  // What to print for a failed call: one line, and one a field for bad requests.
  std::string Explain(const grpc::Status& status) const;

 private:
  const std::string address_;
  const std::unique_ptr<v1::JobService::Stub> jobs_;
  const std::unique_ptr<v1::NodeService::Stub> nodes_;
};

// The exit code for a failed call (common/base/exit_codes.h).
int ExitCodeFor(const grpc::Status& status);

}  // namespace muster::cli
