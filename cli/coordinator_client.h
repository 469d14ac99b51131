#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

#include "muster/v1/access_service.grpc.pb.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "muster/v1/node_service.grpc.pb.h"

namespace muster::cli {

// "jobs/x" from "x" or "jobs/x".
std::string JobName(const std::string& job);

// The calls of the commands, with deadlines and errors for people. Thread-safe.
class CoordinatorClient {
 public:
  // `addresses` is one, or several with commas, of which the first that answers is used, and looked
  // for again when it goes away. `credentials` as of LoadCredentials; null: plaintext.
  explicit CoordinatorClient(const std::string& addresses,
                             std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr);

  grpc::Status CreateJob(const v1::CreateJobRequest& request, v1::Job* job);
  grpc::Status GetJob(const std::string& name, v1::Job* job);
  grpc::Status ListJobs(const v1::ListJobsRequest& request, v1::ListJobsResponse* response);
  grpc::Status CancelJob(const v1::CancelJobRequest& request, v1::Job* job);
  grpc::Status ListEvents(const v1::ListEventsRequest& request, v1::ListEventsResponse* response);
  grpc::Status GetNode(const std::string& name, v1::Node* node);
  grpc::Status ListNodes(const v1::ListNodesRequest& request, v1::ListNodesResponse* response);
  grpc::Status CordonNode(const v1::CordonNodeRequest& request, v1::Node* node);
  grpc::Status UncordonNode(const v1::UncordonNodeRequest& request, v1::Node* node);
  grpc::Status DrainNode(const v1::DrainNodeRequest& request, v1::Node* node);

  grpc::Status CreateToken(const v1::CreateTokenRequest& request,
                           v1::CreateTokenResponse* response);
  grpc::Status ListTokens(const v1::ListTokensRequest& request, v1::ListTokensResponse* response);
  grpc::Status RevokeToken(const v1::RevokeTokenRequest& request, v1::Token* token);

  // Streams, until `context` is cancelled or the callback returns false.
  grpc::Status WatchJob(grpc::ClientContext& context, const v1::WatchJobRequest& request,
                        const std::function<bool(const v1::WatchJobResponse&)>& each);
  grpc::Status StreamLogs(grpc::ClientContext& context, const v1::StreamLogsRequest& request,
                          const std::function<bool(const v1::StreamLogsResponse&)>& each);

  // What to print for a failed call: one line, and one a field for bad requests.
  std::string Explain(const grpc::Status& status) const;

 private:
  // Of one coordinator.
  struct Stubs {
    std::unique_ptr<v1::JobService::Stub> jobs;
    std::unique_ptr<v1::NodeService::Stub> nodes;
    std::unique_ptr<v1::AccessService::Stub> access;
  };
  std::shared_ptr<Stubs> Connect();
  // As it is; another coordinator is looked for after one that is not there.
  grpc::Status Noted(const grpc::Status& status);

  const std::string addresses_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  absl::Mutex mutex_;
  // Null: to be chosen.
  std::shared_ptr<Stubs> stubs_ ABSL_GUARDED_BY(mutex_);
};

// The exit code for a failed call (common/base/exit_codes.h).
int ExitCodeFor(const grpc::Status& status);

}  // namespace muster::cli
