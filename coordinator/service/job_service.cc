#include "coordinator/service/job_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "common/config/defaults.h"
#include "common/config/validate.h"
#include "common/rpc/errors.h"
#include "coordinator/service/job_errors.h"
#include "coordinator/service/logs_reactor.h"
#include "coordinator/service/page_token.h"
#include "coordinator/service/watch_reactor.h"

namespace muster::coordinator {
namespace {

constexpr size_t kLongestRequestId = 64;
constexpr size_t kLongestDisplayName = 200;
constexpr int kMostLabels = 32;

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const grpc::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

grpc::Status Stopping() {
  return JobError(absl::UnavailableError("the coordinator is stopping; try again"));
}

// [a-z]([a-z0-9-]{0,61}[a-z0-9])?
bool GoodJobId(const std::string& id) {
  return !id.empty() && id.size() <= 63 && absl::ascii_islower(static_cast<unsigned char>(id[0])) &&
         id.back() != '-' && std::all_of(id.begin(), id.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
         });
}

// Labels are a map: only the deterministic form is equal for equal requests.
std::string Fingerprint(v1::CreateJobRequest request) {
  request.clear_request_id();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    request.SerializeToCodedStream(&coded);
  }
  return bytes;
}

std::vector<rpc::FieldViolation> CheckRequest(const v1::CreateJobRequest& request) {
  std::vector<rpc::FieldViolation> violations;
  if (!request.job_id().empty() && !GoodJobId(request.job_id())) {
    violations.push_back({"job_id", absl::StrCat("'", request.job_id(),
                                                 "' must match [a-z]([a-z0-9-]{0,61}[a-z0-9])?")});
  }
  if (request.request_id().size() > kLongestRequestId) {
    violations.push_back({"request_id", "longer than 64 characters; send a UUID"});
  }
  if (request.job().display_name().size() > kLongestDisplayName) {
    violations.push_back({"job.display_name", "longer than 200 bytes"});
  }
  if (request.job().labels_size() > kMostLabels) {
    violations.push_back({"job.labels", "more than 32 labels"});
  }
  if (!request.job().has_config()) violations.push_back({"job.config", "is missing"});
  return violations;
}

grpc::Status Rejected(const std::vector<rpc::FieldViolation>& violations) {
  return rpc::ToGrpcStatus(rpc::BadRequestError(violations));
}

}  // namespace

std::string JobIdFromDisplayName(const std::string& display_name) {
  constexpr size_t kLongest = 56;
  std::string id;
  for (char c : display_name) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte)) {
      id.push_back(absl::ascii_tolower(byte));
    } else if (!id.empty() && id.back() != '-') {
      id.push_back('-');
    }
  }
  while (!id.empty() && !absl::ascii_isalpha(static_cast<unsigned char>(id[0]))) id.erase(0, 1);
  if (id.size() > kLongest) id.resize(kLongest);
  while (!id.empty() && id.back() == '-') id.pop_back();
  return id.empty() ? "job" : id;
}

grpc::ServerUnaryReactor* JobServiceImpl::CreateJob(grpc::CallbackServerContext* context,
                                                    const v1::CreateJobRequest* request,
                                                    v1::Job* reply) {
  std::vector<rpc::FieldViolation> violations = CheckRequest(*request);
  if (!violations.empty()) return Answer(context, Rejected(violations));

  CreateJobCommand command;
  command.request_id = request->request_id();
  command.request_body = Fingerprint(*request);
  command.actor = deps_.access->ActorOf(*context);
  v1::Job* job = &command.job;
  job->set_display_name(request->job().display_name());
  *job->mutable_labels() = request->job().labels();
  *job->mutable_config() = request->job().config();
  config::ApplyDefaults(job->mutable_config());
  for (const config::Violation& violation : config::Validate(job->config())) {
    violations.push_back({absl::StrCat("job.config.", violation.field), violation.description});
  }
  if (!violations.empty()) return Answer(context, Rejected(violations));
  const std::string id = !request->job_id().empty()
                             ? request->job_id()
                             : absl::StrCat(JobIdFromDisplayName(request->job().display_name()),
                                            "-", deps_.make_suffix());
  job->set_name(absl::StrCat("jobs/", id));
  job->set_uid(deps_.make_uid());

  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (request->validate_only()) {
    deps_.state->Ask([reactor, reply, job = *job](const ClusterState* state, Instant) {
      if (state == nullptr) {
        reactor->Finish(Stopping());
        return;
      }
      if (state->FindJob(job.name()) != nullptr) {
        reactor->Finish(JobError(absl::AlreadyExistsError(
            absl::StrCat(job.name(), " exists already; choose another job_id"))));
        return;
      }
      *reply = state->DryRun(job);
      reactor->Finish(grpc::Status::OK);
    });
    return reactor;
  }
  deps_.state->Post(std::move(command), [reactor, reply](const Effects& effects) {
    if (effects.reply->ok()) *reply = **effects.reply;
    reactor->Finish(JobError(effects.reply->status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* JobServiceImpl::GetJob(grpc::CallbackServerContext* context,
                                                 const v1::GetJobRequest* request, v1::Job* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  deps_.state->Ask([reactor, request, reply](const ClusterState* state, Instant) {
    if (state == nullptr) {
      reactor->Finish(Stopping());
      return;
    }
    const v1::Job* job = state->FindJob(request->name());
    if (job == nullptr) {
      reactor->Finish(
          JobError(absl::NotFoundError(absl::StrCat("there is no job '", request->name(), "'"))));
      return;
    }
    *reply = *job;
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* JobServiceImpl::ListJobs(grpc::CallbackServerContext* context,
                                                   const v1::ListJobsRequest* request,
                                                   v1::ListJobsResponse* reply) {
  const absl::StatusOr<int> size = PageSize(request->page_size());
  if (!size.ok()) return Answer(context, JobError(size.status()));
  const absl::StatusOr<std::string> position = ReadPageToken("jobs", request->page_token());
  if (!position.ok()) return Answer(context, JobError(position.status()));
  int64_t before = 0;
  if (!position->empty() && !absl::SimpleAtoi(*position, &before)) {
    return Answer(context, JobError(absl::InvalidArgumentError("page_token is damaged")));
  }
  std::set<v1::Job::State> states;
  for (int state : request->states()) states.insert(static_cast<v1::Job::State>(state));
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  deps_.state->Ask(
      [reactor, reply, size = *size, before, states](const ClusterState* state, Instant) {
        if (state == nullptr) {
          reactor->Finish(Stopping());
          return;
        }
        int64_t next = 0;
        for (v1::Job& job : state->ListJobs(size, before, states, &next)) {
          *reply->add_jobs() = std::move(job);
        }
        if (next != 0) reply->set_next_page_token(MakePageToken("jobs", absl::StrCat(next)));
        reactor->Finish(grpc::Status::OK);
      });
  return reactor;
}

grpc::ServerUnaryReactor* JobServiceImpl::CancelJob(grpc::CallbackServerContext* context,
                                                    const v1::CancelJobRequest* request,
                                                    v1::Job* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  deps_.state->Post(
      CancelJobCommand{request->name(), request->reason(), deps_.access->ActorOf(*context)},
      [reactor, reply](const Effects& effects) {
        if (effects.reply->ok()) *reply = **effects.reply;
        reactor->Finish(JobError(effects.reply->status()));
      });
  return reactor;
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* JobServiceImpl::WatchJob(
    grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) {
  auto reactor = std::make_shared<WatchReactor>(deps_.state, deps_.watchers, *request);
  deps_.streams->Add(deps_.access->CallerOf(*context), reactor);
  reactor->Begin();
  // It keeps itself until OnDone.
  return reactor.get();
}

grpc::ServerWriteReactor<v1::StreamLogsResponse>* JobServiceImpl::StreamLogs(
    grpc::CallbackServerContext* context, const v1::StreamLogsRequest* request) {
  auto reactor = std::make_shared<LogsReactor>(
      LogsReactor::Deps{deps_.state, deps_.watchers, deps_.logs}, *request);
  deps_.streams->Add(deps_.access->CallerOf(*context), reactor);
  reactor->Begin();
  return reactor.get();
}

}  // namespace muster::coordinator
