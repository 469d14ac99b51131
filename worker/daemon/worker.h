#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/base/clock.h"
#include "common/base/endpoint.h"
#include "common/base/timer_queue.h"
#include "common/metrics/http_server.h"
#include "common/security/tls_files.h"
#include "worker/daemon/allocation_manager.h"
#include "worker/daemon/checkpoint_fetcher.h"
#include "worker/daemon/checkpoint_server.h"
#include "worker/daemon/collective_requests.h"
#include "worker/daemon/coordinator_session.h"
#include "worker/daemon/data_access.h"
#include "worker/daemon/diagnosis.h"
#include "worker/daemon/job_pruner.h"
#include "worker/daemon/log_streamer.h"
#include "worker/daemon/outbox.h"
#include "worker/daemon/peer_dialler.h"
#include "worker/daemon/probe_server.h"
#include "worker/daemon/process_trainer_launcher.h"
#include "worker/daemon/progress_board.h"
#include "worker/daemon/scheduled_events_poller.h"
#include "worker/daemon/state_folder.h"
#include "worker/daemon/trainer_service.h"
#include "worker/daemon/worker_metrics.h"

namespace muster::worker {

struct WorkerOptions {
  std::vector<std::string> coordinators;
  std::string name;
  int slots = 1;
  std::filesystem::path state_dir;
  std::vector<std::filesystem::path> data_roots;
  // muster-trainer.
  std::filesystem::path trainer;
  // The words that start a shim.
  std::vector<std::string> shim_command;
  base::Endpoint metrics;
  // Empty: found from the route to the coordinator.
  std::string advertise_address;
  // Shown by `muster nodes`, and what jobs may ask for.
  std::map<std::string, std::string> labels;
  // Where Azure's metadata service is; empty: no such machine. And this machine's name there;
  // empty: asked for.
  std::string scheduled_events;
  std::string vm_name;
  // The CA of the coordinator, and this worker's own certificate and key, which /metrics beyond
  // loopback is served with; empty: plaintext, on loopback only.
  security::TlsFiles tls;
  // Lets a node join whose credential the coordinator does not know; may be empty.
  std::string join_token;
  // CPU threads of a slot; 0: cores / slots.
  int threads_per_slot = 0;
  // Of the files of jobs that have ended.
  JobPruner::Options keep;
};

// The worker daemon, put together: everything with a thread of its own hangs here.
class Worker {
 public:
  // Takes the state folder, adopts what runs, serves metrics and trainers, and begins to look for
  // the coordinator. `on_refused` is called, from another thread, when the coordinator does not
  // want this worker.
  static absl::StatusOr<std::unique_ptr<Worker>> Start(
      const WorkerOptions& options, std::function<void(const std::string& reason)> on_refused);
  // Leaves trainers running; a daemon started on the same folder adopts them.
  ~Worker();

  // Ends all trainers, with the grace period of their jobs, and tells the coordinator.
  void StopTrainers();

  // "ip:port" of /metrics.
  std::string metrics_address() const { return http_->endpoint().ToString(); }

 private:
  Worker(const WorkerOptions& options, StateFolder state, DataAccess data,
         std::filesystem::path trainer_socket);
  void WatchScheduledEvents();

  const WorkerOptions options_;
  // In order of dependency: each uses only what stands above it.
  base::SystemClock clock_;
  base::ThreadTimerQueue timers_{clock_};
  const StateFolder state_;
  const DataAccess data_;
  const std::filesystem::path trainer_socket_;
  WorkerMetrics metrics_{clock_, timers_};
  ProgressBoard progress_;
  Outbox outbox_{clock_};
  LogStreamer logs_{state_};
  ProcessTrainerLauncher launcher_;
  ProbeServer probe_;
  PeerDialler dialler_;
  CheckpointServer checkpoints_;
  CheckpointFetcher fetcher_;
  AllocationManager manager_;
  CollectiveRequests collectives_;
  Diagnoser diagnoser_;
  TrainerService trainers_;
  std::unique_ptr<metrics::HttpServer> http_;
  // Null where the machine has no such service.
  std::unique_ptr<ScheduledEventsPoller> scheduled_events_;
  std::unique_ptr<CoordinatorSession> session_;
  std::unique_ptr<JobPruner> pruner_;
};

}  // namespace muster::worker
