#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include "muster/v1/job.pb.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "muster/v1/node_service.grpc.pb.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"

namespace muster::testing {

// A coordinator and workers as real processes on loopback, with ports and folders of their own, and
// heartbeats every 250 ms, so that a job's progress is soon seen. Everything, trainers included, is
// killed with the object.
class LocalCluster {
 public:
  struct Options {
    int workers = 2;
    int slots = 1;
    std::filesystem::path data_root;
    // Of workers that have one of their own.
    std::map<int, std::filesystem::path> data_root_of = {};
    // A PostgreSQL URL, which also lets there be a standby; empty: a file.
    std::string store = {};
    // Where a worker asks what the cloud plans; others do as on any machine.
    std::map<int, std::string> scheduled_events_of = {};
  };
  explicit LocalCluster(const Options& options);
  ~LocalCluster();

  // Starts it with the addresses and the store that it had before, if it ran before.
  void StartCoordinator();
  void KillCoordinator();
  // A second one, which takes over when the first is killed, and is then the one that is spoken to.
  void StartStandby();
  // Workers are called w0, w1, ...
  void StartWorker(int index);
  // SIGKILL to the daemon, its shims and its trainers: what a power loss leaves.
  void KillWorkerAndTrainers(int index);
  void KillWorkerAlone(int index);
  void SignalWorker(int index, int signal) const { workers_.at(index)->Signal(signal); }
  pid_t worker_pid(int index) const { return workers_.at(index)->pid(); }
  pid_t coordinator_pid() const { return coordinator_->pid(); }

  const std::filesystem::path& folder() const { return folder_.path(); }
  std::filesystem::path StateFolder(int index) const;
  const std::string& rpc_address() const { return rpc_address_; }
  const std::string& http_address() const { return http_address_; }
  std::string WorkerOutput(int index) const;

  // Process ids of the trainers of one worker.
  std::vector<pid_t> Trainers(int index) const;
  // And of their shims.
  std::vector<pid_t> Shims(int index) const;
  std::vector<pid_t> AllTrainers() const;
  // Waits until so many nodes are ready.
  bool WaitForNodes(int count, absl::Duration timeout);

  // muster ARGUMENTS... against this coordinator.
  Finished Muster(std::vector<std::string> arguments,
                  absl::Duration timeout = absl::Minutes(2)) const;
  v1::Job GetJob(const std::string& name) const;
  // Watches the job until `done` holds or it has ended; reconnects while the coordinator is away.
  // The last job seen.
  v1::Job WaitForJob(const std::string& name, const std::function<bool(const v1::Job&)>& done,
                     absl::Duration timeout) const;

 private:
  // The first one's port on another address of loopback: known before it leads.
  std::string StandbyAddress() const;
  // Of the worker's trainers and shims, those that run this program.
  std::vector<pid_t> ProcessesOf(int index, const std::string& program) const;

  TemporaryFolder folder_;
  Options options_;
  std::string rpc_address_;
  std::string http_address_;
  std::unique_ptr<Process> coordinator_;
  std::unique_ptr<Process> standby_;
  std::map<int, std::unique_ptr<Process>> workers_;
};

bool HasEnded(const v1::Job& job);

}  // namespace muster::testing
