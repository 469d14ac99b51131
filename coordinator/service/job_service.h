#pragma once

#include <functional>
#include <string>

#include "coordinator/service/access_control.h"
#include "coordinator/service/job_watchers.h"
#include "coordinator/service/log_relay.h"
#include "coordinator/service/open_streams.h"
#include "coordinator/service/state_thread.h"
#include "muster/v1/job_service.grpc.pb.h"

namespace muster::coordinator {

// JobService over gRPC's callback API: checks requests, turns them into commands and effects into
// replies. The reasons of its errors (ErrorInfo): BAD_REQUEST (with all violations),
// INVALID_REQUEST, JOB_NOT_FOUND, JOB_ALREADY_EXISTS, JOB_STATE (it has ended, or was not placed
// yet), UNAVAILABLE (a node is not connected, or the coordinator stops), READER_TOO_SLOW.
class JobServiceImpl : public v1::JobService::CallbackService {
 public:
  struct Deps {
    StateThread* state;
    JobWatchers* watchers;
    LogRelay* logs;
    const AccessControl* access;
    OpenStreams* streams;
    // Random ids: a UUID, and six characters of [a-z0-9].
    std::function<std::string()> make_uid;
    std::function<std::string()> make_suffix;
  };
  explicit JobServiceImpl(Deps deps) : deps_(std::move(deps)) {}

  grpc::ServerUnaryReactor* CreateJob(grpc::CallbackServerContext* context,
                                      const v1::CreateJobRequest* request, v1::Job* reply) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const v1::GetJobRequest* request, v1::Job* reply) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* reply) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const v1::CancelJobRequest* request, v1::Job* reply) override;
  grpc::ServerUnaryReactor* ListEvents(grpc::CallbackServerContext* context,
                                       const v1::ListEventsRequest* request,
                                       v1::ListEventsResponse* reply) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;
  grpc::ServerWriteReactor<v1::StreamLogsResponse>* StreamLogs(
      grpc::CallbackServerContext* context, const v1::StreamLogsRequest* request) override;

 private:
  const Deps deps_;
};

// "Small HRNet run #2" -> "small-hrnet-run-2"; "job" when nothing is left. At most 56 characters.
std::string JobIdFromDisplayName(const std::string& display_name);

}  // namespace muster::coordinator
