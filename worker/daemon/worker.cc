#include "worker/daemon/worker.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/endpoint.h"
#include "common/base/log.h"
#include "common/base/random_id.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/errors.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "worker/daemon/inventory.h"

namespace muster::worker {
namespace {

std::vector<std::string> OwnEnvironment() {
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) variables.emplace_back(*entry);
  return variables;
}

// Asks the first coordinator that answers.
absl::StatusOr<std::optional<v1::Job>> FindJob(
    const std::vector<std::string>& coordinators,
    const std::shared_ptr<grpc::ChannelCredentials>& credentials, const std::string& name) {
  absl::Status failure;
  for (const std::string& coordinator : coordinators) {
    const auto stub =
        v1::JobService::NewStub(rpc::CreateChannel(coordinator, {.credentials = credentials}));
    grpc::ClientContext context;
    // Not for long: the daemon may be ending.
    rpc::SetDeadline(&context, absl::Seconds(5));
    v1::GetJobRequest request;
    request.set_name(name);
    v1::Job job;
    const grpc::Status status = stub->GetJob(&context, request, &job);
    if (status.ok()) return job;
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) return std::nullopt;
    failure = rpc::FromGrpcStatus(status);
  }
  return failure;
}

std::string LibraryPath() {
  const char* path = std::getenv("LD_LIBRARY_PATH");
  return path != nullptr ? path : "";
}

}  // namespace

Worker::Worker(const WorkerOptions& options, StateFolder state, DataAccess data,
               std::filesystem::path trainer_socket)
    : options_(options),
      state_(std::move(state)),
      data_(std::move(data)),
      trainer_socket_(std::move(trainer_socket)),
      launcher_(options.shim_command, clock_),
      probe_(options.name, clock_),
      dialler_(options.name, clock_),
      checkpoints_(options.name, state_, clock_),
      fetcher_(options.name, clock_),
      manager_(
          AllocationContext{
              .node = options.name,
              .trainer = options.trainer,
              .threads_per_rank = options.threads_per_slot,
              .cores = AvailableCores(),
              .trainer_socket = trainer_socket_,
              .state = &state_,
              .data = &data_,
              .launcher = &launcher_,
              .dialler = &dialler_,
              .fetcher = &fetcher_,
              .clock = &clock_,
              .inherited = CollectiveVariables(OwnEnvironment()),
              .library_path = LibraryPath(),
          },
          options.slots,
          AllocationManager::Deps{
              .timers = &timers_,
              .outbox = &outbox_,
              .on_ended =
                  [this](const std::string& job, int64_t generation) {
                    progress_.Forget(job, generation);
                    metrics_.JobEnded(job);
                  },
              .on_slots_used = [this](int used) { metrics_.SetSlots(used, options_.slots); },
          }),
      diagnoser_({.node = options.name,
                  .clock = &clock_,
                  .state = &state_,
                  .manager = &manager_,
                  .progress = &progress_,
                  .collectives = &collectives_,
                  .outbox = &outbox_}),
      trainers_({&manager_, &progress_, &metrics_, &outbox_, &collectives_}) {}

absl::StatusOr<std::unique_ptr<Worker>> Worker::Start(
    const WorkerOptions& options, std::function<void(const std::string& reason)> on_refused) {
  const std::string beyond = base::FirstBeyondLoopback(absl::StrJoin(options.coordinators, ","));
  if (options.tls.empty() && !beyond.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--coordinator ", beyond,
                     " is not a loopback address and is not spoken to in plaintext: give the "
                     "coordinator's CA (--tls-ca)"));
  }
  MUSTER_ASSIGN_OR_RETURN(StateFolder state, StateFolder::Open(options.state_dir));
  MUSTER_ASSIGN_OR_RETURN(DataAccess data, DataAccess::Open(options.data_roots, options.name));
  MUSTER_ASSIGN_OR_RETURN(std::filesystem::path socket, state.TrainerSocket());
  MUSTER_ASSIGN_OR_RETURN(NodeCredentials credentials,
                          LoadNodeCredentials(options.tls, state.path(), options.join_token));
  const std::string node_uid = state.node_uid();
  std::unique_ptr<Worker> worker(
      new Worker(options, std::move(state), std::move(data), std::move(socket)));
  worker->metrics_.SetConnected(false);
  worker->metrics_.SetSlots(0, options.slots);
  worker->manager_.AdoptRecorded();
  MUSTER_RETURN_IF_ERROR(worker->trainers_.Start(worker->trainer_socket_));
  metrics::HttpProtection protection;
  // Beyond loopback /metrics is for those with a certificate of the cluster's CA.
  if (!options.metrics.IsLoopback() && !options.tls.certificate.empty()) {
    protection.tls = options.tls;
  }
  MUSTER_ASSIGN_OR_RETURN(
      worker->http_, metrics::HttpServer::Start(options.metrics,
                                                {metrics::MetricsRoute(worker->metrics_.registry()),
                                                 metrics::HealthRoute()},
                                                protection));

  CoordinatorSession::Options session;
  session.coordinators = options.coordinators;
  session.node = options.name;
  session.node_uid = node_uid;
  session.instance = base::RandomHex(8);
  session.inventory = MachineInventory();
  session.inventory.set_slots(options.slots);
  session.inventory.set_metrics_address(worker->metrics_address());
  for (const std::filesystem::path& root : worker->data_.roots()) {
    session.inventory.add_data_roots(root.string());
  }
  session.inventory.mutable_labels()->insert(options.labels.begin(), options.labels.end());
  session.advertise_address = options.advertise_address;
  const std::shared_ptr<grpc::ChannelCredentials> caller = credentials.session;
  session.credentials = std::move(credentials);
  worker->WatchScheduledEvents();
  worker->session_ = std::make_unique<CoordinatorSession>(
      std::move(session),
      CoordinatorSession::Deps{
          .clock = &worker->clock_,
          .manager = &worker->manager_,
          .progress = &worker->progress_,
          .logs = &worker->logs_,
          .outbox = &worker->outbox_,
          .probe = &worker->probe_,
          .checkpoints = &worker->checkpoints_,
          .on_refused = std::move(on_refused),
          .on_connected =
              [metrics = &worker->metrics_](bool connected) { metrics->SetConnected(connected); },
          .on_diagnosis_request =
              [diagnoser = &worker->diagnoser_](const v1::DiagnosisRequest& request) {
                diagnoser->Start(request);
              },
          .on_approval =
              [poller = worker->scheduled_events_.get()](const std::string& event_id) {
                if (poller != nullptr) poller->Approve(event_id);
              },
      });
  worker->session_->Start();
  worker->pruner_ = std::make_unique<JobPruner>(
      options.keep,
      JobPruner::Deps{
          .state = &worker->state_,
          .clock = &worker->clock_,
          .held =
              [manager = &worker->manager_] {
                std::set<std::string> jobs;
                for (const v1::AllocationStatus& status : manager->Statuses()) {
                  jobs.insert(status.job());
                }
                return jobs;
              },
          .find_job = [coordinators = options.coordinators, caller](
                          const std::string& job) { return FindJob(coordinators, caller, job); },
      });
  worker->pruner_->Start();
  return worker;
}

void Worker::WatchScheduledEvents() {
  if (options_.scheduled_events.empty()) {
    // A machine that had some, and was moved elsewhere, has none any more.
    outbox_.SetMaintenance({});
    return;
  }
  ScheduledEventsPoller::Options poller;
  poller.url = options_.scheduled_events;
  poller.vm = options_.vm_name;
  ScheduledEventsPoller::Deps deps;
  deps.on_answer = [this](const std::vector<v1::MaintenanceEvent>& events) {
    metrics_.ShowMaintenance(events);
  };
  deps.on_change = [this](const std::vector<v1::MaintenanceEvent>& events) {
    v1::Maintenance maintenance;
    maintenance.mutable_events()->Assign(events.begin(), events.end());
    outbox_.SetMaintenance(maintenance);
  };
  scheduled_events_ = std::make_unique<ScheduledEventsPoller>(std::move(poller), std::move(deps));
}

Worker::~Worker() {
  if (session_ != nullptr) session_->Stop(absl::Seconds(2));
  trainers_.Stop();
}

void Worker::StopTrainers() {
  manager_.StopAll();
  // Longer than any grace period: SIGKILL has been sent by then.
  while (!manager_.WaitUntilIdle(absl::Seconds(60))) {
    base::Log(base::LogSeverity::kWarning, "worker", "ranks are still ending");
  }
}

}  // namespace muster::worker
