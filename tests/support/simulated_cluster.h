#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

#include "common/base/counter_random.h"
#include "tests/support/cluster_driver.h"
#include "tests/support/job_time_checks.h"

namespace muster::testing {

// Of the simulated jobs.
inline constexpr JobTimes kSimulatedTimes = {
    .grace_period = absl::Seconds(1),
    .start_timeout = absl::Seconds(20),
    .restart_backoff = absl::Seconds(2),
};

// What a worker daemon and its trainers do, without the daemon.
struct SimulatedWorker {
  using Key = std::pair<std::string, int64_t>;  // job, generation

  std::string name;
  bool connected = false;
  // Sends heartbeats, and does nothing else.
  bool hangs = false;
  absl::Duration frozen_until = -absl::InfiniteDuration();
  // The newest desired state that has come, and whether it has been acted on.
  v1::DesiredState desired;
  bool taken = true;
  std::map<Key, v1::AllocationStatus> held;
  // Of these generations it has seen the end.
  std::set<Key> over;
  // Where each of them resumed.
  std::map<Key, v1::Checkpoint> resumed;
  // By job.
  std::map<std::string, std::vector<v1::Checkpoint>> disk;
  // What the cloud has announced.
  std::vector<v1::MaintenanceEvent> announced;
};

// A seeded, deterministic cluster: the real ClusterState, and workers that are cut off, lose power,
// hang, are drained, frozen or taken by maintenance and fail at random, while the coordinator is
// killed in the middle of commands, its store does not answer for a while and its wall clock jumps.
// Messages of one stream keep their order, as gRPC's do, but statuses may come twice, and
// heartbeats and checkpoints late.
//
// After every event the invariants are checked for all that it touched:
//   no slot is given twice; one generation of a job is wanted; a gang is whole or absent; what was
//   acknowledged (a submission, a cancellation, an end, a cordon) is never lost; every job ends
//   once the faults are over; nothing is waited for longer than its limit.
class SimulatedCluster {
 public:
  struct Options {
    int nodes = 5;
    int slots = 2;
    int events = 800;
    bool clock_jumps = false;
    // Few jobs, which run for long, and few faults.
    bool quiet = false;
    // Of the moves of a running rank, one in so many is a failure.
    int failure_in = 8;
    // Defects that the invariants must find. A worker gets another desired state than it was sent;
    // a status that is lost on its way; other effects than the core's.
    std::function<void(const std::string& node, v1::DesiredState*)> change_desired;
    std::function<bool(const v1::AllocationStatus&)> lose_status;
    std::function<void(coordinator::Effects*)> change_effects;
    // While its store does not answer the coordinator acts on what it has not stored.
    bool act_without_store = false;
  };

  SimulatedCluster(uint64_t seed, const Options& options);

  // Until the first violation.
  void Run();
  // Empty: none.
  const std::string& violation() const { return violation_; }
  // Of each type, over all jobs and nodes.
  void CountEvents(std::map<std::string, int>* seen);

 private:
  using Key = SimulatedWorker::Key;

  void RandomEvent();
  SimulatedWorker& AnyWorker() { return workers_[random_.NextBelow(workers_.size())]; }
  bool Chance(int percent) { return static_cast<int>(random_.NextBelow(100)) < percent; }

  void Submit();
  coordinator::CreateJobCommand RandomJob();
  void Upkeep();
  void Announce(const SimulatedWorker& worker);
  void Crash();
  // Clients and workers go on meanwhile; then it answers again, or the coordinator is killed.
  void StoreOutage();
  // Nobody has a stream any more, and what was on its way is lost.
  void ForgetStreams();

  void Connect(SimulatedWorker* worker);
  void Disconnect(SimulatedWorker* worker);
  void Send(SimulatedWorker* worker, const v1::AllocationStatus& status);
  void SendLate();
  void SetPhase(SimulatedWorker* worker, v1::AllocationStatus* status,
                v1::AllocationStatus::Phase phase);
  void WriteCheckpoint(SimulatedWorker* worker, const v1::AllocationStatus& status);
  // What the desired state says to bring here; false while it does not say from where.
  bool Fetch(SimulatedWorker* worker, v1::AllocationStatus* status);
  // What the stream has brought: drop what is not wanted, take up what is new.
  void TakeDesired(SimulatedWorker* worker);
  // Something that it holds goes one step further.
  void Move(SimulatedWorker* worker, bool may_fail);
  bool Wants(const SimulatedWorker& worker, const Key& key) const;
  bool Acts(const SimulatedWorker& worker) const;

  void LookAtEffects(coordinator::Effects* effects);
  void Check();
  void CheckAll();
  void CheckWorker(const SimulatedWorker& worker);
  void CheckJob(const std::string& name);
  void CheckAcknowledged(const v1::Job& job);
  void CheckGang(const v1::Job& job);
  void SettleDown();
  bool AllIsOver();
  void Violated(const std::string& what);

  const Options options_;
  base::CounterRandom random_;
  ClusterDriver driver_;
  std::vector<SimulatedWorker> workers_;
  std::map<std::string, int> worker_of_name_;
  std::map<coordinator::SessionId, int> worker_of_session_;
  std::vector<std::string> jobs_;
  // While the store does not answer: submissions without an answer yet.
  bool outage_ = false;
  std::vector<coordinator::CreateJobCommand> unanswered_;
  int outages_ = 0;
  int kills_in_outages_ = 0;
  // By job, as last acknowledged.
  struct Known {
    std::string uid;
    int64_t generation = 0;
    bool cancelled = false;
    v1::Job::State ended = v1::Job::STATE_UNSPECIFIED;
  };
  std::map<std::string, Known> known_;
  std::set<std::string> cordoned_;
  std::vector<coordinator::Command> late_;
  std::set<std::string> touched_jobs_;
  std::set<int> touched_workers_;
  JobTimeWatch watch_;
  int maintenance_ = 0;
  absl::Duration faults_end_;
  std::string violation_;
};

}  // namespace muster::testing
