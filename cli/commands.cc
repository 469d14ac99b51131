#include "cli/commands.h"

#include <filesystem>
#include <ostream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

#include "cli/format.h"
#include "cli/interrupt.h"
#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/random_id.h"
#include "common/config/defaults.h"
#include "common/config/load.h"
#include "common/config/render.h"
#include "common/config/validate.h"

namespace muster::cli {
namespace {

int Fail(const Context& context, const grpc::Status& status) {
  context.err << "muster: " << context.client.Explain(status) << "\n";
  return ExitCodeFor(status);
}

int Fail(const Context& context, const std::string& message, int exit_code) {
  context.err << "muster: " << message << "\n";
  return exit_code;
}

// kExitCompleted, or prints what is wrong with the config.
int LoadConfig(const std::string& path, const std::vector<std::string>& overrides,
               const Context& context, config::v1::TrainJob* job) {
  config::LoadOptions options;
  options.overrides = overrides;
  absl::StatusOr<config::v1::TrainJob> loaded = config::LoadTrainJob(path, options);
  if (!loaded.ok())
    return Fail(context, std::string(loaded.status().message()), base::kExitBadConfig);
  *job = *std::move(loaded);
  config::ApplyDefaults(job);
  const std::vector<config::Violation> violations = config::Validate(*job);
  if (!violations.empty()) {
    const std::string text(absl::StripAsciiWhitespace(config::FormatViolations(violations)));
    return Fail(context, absl::StrCat(path, ":\n  ", absl::StrReplaceAll(text, {{"\n", "\n  "}})),
                base::kExitBadConfig);
  }
  return base::kExitCompleted;
}

// Survives a restart of the coordinator and the takeover by a standby: the same request sent again
// is answered with the job that it made.
grpc::Status CreatePatiently(const v1::CreateJobRequest& request, absl::Duration patience,
                             const Context& context, v1::Job* job) {
  const absl::Duration give_up = base::MonotonicNow() + patience;
  bool told = false;
  while (true) {
    const grpc::Status status = context.client.CreateJob(request, job);
    if (ExitCodeFor(status) != base::kExitUnavailable || base::MonotonicNow() >= give_up) {
      return status;
    }
    if (!std::exchange(told, true)) {
      context.err << "muster: the coordinator is away; trying again for "
                  << absl::FormatDuration(patience) << std::endl;
    }
    if (InterruptWatcher([] {}).WaitFor(absl::Milliseconds(500))) return status;
  }
}

bool ParseState(const std::string& text, v1::Job::State* state) {
  const std::string upper = absl::AsciiStrToUpper(text);
  return v1::Job::State_Parse(
             absl::StartsWith(upper, "STATE_") ? upper : absl::StrCat("STATE_", upper), state) &&
         *state != v1::Job::STATE_UNSPECIFIED;
}

}  // namespace

int Submit(const SubmitOptions& options, const Context& context) {
  v1::CreateJobRequest request;
  request.set_request_id(base::RandomUuid());
  request.set_validate_only(options.dry_run);
  request.set_job_id(options.job_id);
  v1::Job& job = *request.mutable_job();
  std::vector<std::string> overrides = options.overrides;
  if (options.nodes > 0) overrides.push_back(absl::StrCat("resources.nodes=", options.nodes));
  if (const int code = LoadConfig(options.config, overrides, context, job.mutable_config());
      code != 0)
    return code;
  job.set_display_name(std::filesystem::path(options.config).stem().string());
  for (const std::string& label : options.labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0) {
      return Fail(context, absl::StrCat("--label '", label, "': use NAME=VALUE"), base::kExitUsage);
    }
    (*job.mutable_labels())[label.substr(0, equals)] = label.substr(equals + 1);
  }

  v1::Job created;
  const grpc::Status status = CreatePatiently(request, options.patience, context, &created);
  if (!status.ok()) return Fail(context, status);
  if (options.json) {
    context.out << ToJson(created) << std::endl;
  } else if (options.dry_run) {
    context.out << options.config << " is valid";
    if (!created.state_reason().empty()) context.out << "; " << created.state_reason();
    context.out << std::endl;
  } else {
    context.out << created.name() << std::endl;
  }
  if (options.follow && !options.dry_run) return Watch(created.name(), options.json, context);
  return base::kExitCompleted;
}

int List(const ListOptions& options, const Context& context) {
  if (options.limit < 1) return Fail(context, "--limit must be at least 1", base::kExitUsage);
  v1::ListJobsRequest request;
  for (const std::string& text : options.states) {
    v1::Job::State state;
    if (!ParseState(text, &state)) {
      return Fail(context,
                  absl::StrCat("--state '", text,
                               "' is none; use QUEUED, STARTING, RUNNING, RESTARTING, CANCELLING, "
                               "SUCCEEDED, FAILED or "
                               "CANCELLED"),
                  base::kExitUsage);
    }
    request.add_states(state);
  }
  std::vector<v1::Job> jobs;
  while (static_cast<int>(jobs.size()) < options.limit) {
    request.set_page_size(std::min(options.limit - static_cast<int>(jobs.size()), 1000));
    v1::ListJobsResponse response;
    const grpc::Status status = context.client.ListJobs(request, &response);
    if (!status.ok()) return Fail(context, status);
    jobs.insert(jobs.end(), response.jobs().begin(), response.jobs().end());
    request.set_page_token(response.next_page_token());
    if (response.next_page_token().empty()) break;
  }
  if (options.json) {
    for (const v1::Job& job : jobs) context.out << ToJson(job) << "\n";
  } else if (jobs.empty()) {
    context.out << "no jobs\n";
  } else {
    context.out << JobTable(jobs, context.clock.Now());
  }
  return base::kExitCompleted;
}

int Describe(const std::string& name, bool json, const Context& context) {
  v1::Job job;
  const grpc::Status status = context.client.GetJob(JobName(name), &job);
  if (!status.ok()) return Fail(context, status);
  if (json) {
    context.out << ToJson(job) << std::endl;
    return base::kExitCompleted;
  }
  // The first message of a watch carries the kept events.
  std::vector<v1::JobEvent> events;
  grpc::ClientContext call;
  v1::WatchJobRequest request;
  request.set_name(JobName(name));
  context.client.WatchJob(call, request, [&](const v1::WatchJobResponse& response) {
    events.assign(response.events().begin(), response.events().end());
    return false;
  });
  context.out << Description(job, events, context.clock.Now(), context.view());
  return base::kExitCompleted;
}

int Logs(const LogsOptions& options, const Context& context) {
  v1::StreamLogsRequest request;
  request.set_name(JobName(options.job));
  request.set_rank(options.rank);
  request.set_follow(options.follow);
  request.set_tail_lines(options.tail_lines);
  request.set_generation(options.generation);
  request.set_stream(options.standard_output ? v1::StreamLogsRequest::STREAM_STDOUT
                                             : v1::StreamLogsRequest::STREAM_STDERR);
  grpc::ClientContext call;
  const InterruptWatcher interrupt([&] { call.TryCancel(); });
  const grpc::Status status =
      context.client.StreamLogs(call, request, [&](const v1::StreamLogsResponse& response) {
        if (options.json) {
          context.out << ToJson(response) << "\n";
        } else {
          context.out << response.data();
        }
        context.out.flush();
        return true;
      });
  if (interrupt.interrupted()) return base::kExitCompleted;
  return status.ok() ? static_cast<int>(base::kExitCompleted) : Fail(context, status);
}

int Cancel(const std::string& name, const std::string& reason, bool json, const Context& context) {
  v1::CancelJobRequest request;
  request.set_name(JobName(name));
  request.set_reason(reason);
  v1::Job job;
  const grpc::Status status = context.client.CancelJob(request, &job);
  if (!status.ok()) return Fail(context, status);
  if (json) {
    context.out << ToJson(job) << std::endl;
  } else {
    context.out << job.name() << " " << StateName(job.state()) << std::endl;
  }
  return base::kExitCompleted;
}

int RenderConfig(const std::string& path, const std::vector<std::string>& overrides, bool json,
                 const Context& context) {
  config::v1::TrainJob job;
  if (const int code = LoadConfig(path, overrides, context, &job); code != 0) return code;
  context.out << (json ? ToJson(job) + "\n" : config::RenderTrainJob(job));
  return base::kExitCompleted;
}

}  // namespace muster::cli
