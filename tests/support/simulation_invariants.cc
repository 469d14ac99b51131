// The part of SimulatedCluster that checks the invariants, and that every job ends.
#include <algorithm>

#include "absl/strings/str_cat.h"

#include "tests/support/simulated_cluster.h"

namespace muster::testing {

using v1::Allocation;
using v1::AllocationStatus;
using v1::Job;

void SimulatedCluster::Check() {
  for (int index : touched_workers_) CheckWorker(workers_[index]);
  for (const std::string& name : touched_jobs_) CheckJob(name);
  touched_workers_.clear();
  touched_jobs_.clear();
}

void SimulatedCluster::CheckAll() {
  for (const SimulatedWorker& worker : workers_) CheckWorker(worker);
  for (const std::string& name : jobs_) CheckJob(name);
}

void SimulatedCluster::CheckWorker(const SimulatedWorker& worker) {
  // The coordinator has not heard yet of what has happened.
  if (outage_) return;
  const std::optional<v1::Node> node = driver_.state().FindNode("nodes/" + worker.name);
  if (!node.has_value()) return Violated(absl::StrCat(worker.name, " was forgotten"));
  if (node->slots_used() > options_.slots) {
    Violated(absl::StrCat(worker.name, " has more slots used than there are"));
  }
  if (cordoned_.count(worker.name) > 0 && !node->cordoned()) {
    Violated(absl::StrCat("the cordon of ", worker.name, " was lost"));
  }
  int wanted = 0;
  if (worker.connected) {
    for (const Allocation& allocation : worker.desired.allocations()) {
      wanted += allocation.ranks_size();
      const Job* job = driver_.state().FindJob(allocation.job());
      const bool live = job != nullptr &&
                        (job->state() == Job::STATE_STARTING || job->state() == Job::STATE_RUNNING);
      if (!live || job->generation() != allocation.generation()) {
        Violated(absl::StrCat(worker.name, " is to hold generation ", allocation.generation(),
                              " of ", allocation.job(), ", which is over"));
      }
    }
  }
  int processes = 0;
  for (const auto& [key, status] : worker.held) {
    const bool runs = status.phase() == AllocationStatus::PHASE_STARTING ||
                      status.phase() == AllocationStatus::PHASE_RUNNING;
    if (!runs) continue;
    processes += status.ranks_size();
    if (worker.connected && !Wants(worker, key)) wanted += status.ranks_size();
  }
  if (processes > options_.slots) {
    Violated(absl::StrCat(worker.name, " runs more ranks than it has slots"));
  }
  if (wanted > options_.slots) {
    Violated(absl::StrCat(worker.name, " is to run more beside what it has not ended"));
  }
}

void SimulatedCluster::CheckJob(const std::string& name) {
  if (outage_) return;
  const Job* job = driver_.state().FindJob(name);
  if (job == nullptr) return Violated(absl::StrCat(name, " was acknowledged and is lost"));
  CheckAcknowledged(*job);
  CheckGang(*job);
  bool paused = false;
  for (const v1::RankPlacement& rank : job->ranks()) {
    if (rank.local_rank() > 0) continue;
    paused |= driver_.state().FindNode(rank.node())->maintenance_size() > 0;
  }
  const auto wrong = watch_.Look(*job, driver_.now(), paused);
  if (wrong.has_value()) Violated(*wrong);
}

void SimulatedCluster::CheckAcknowledged(const Job& job) {
  Known& known = known_[job.name()];
  if (job.uid() != known.uid) Violated(absl::StrCat(job.name(), " is another job now"));
  if (job.generation() < known.generation) {
    Violated(absl::StrCat(job.name(), " has fallen back to generation ", job.generation()));
  }
  known.generation = job.generation();
  if (known.ended != Job::STATE_UNSPECIFIED && job.state() != known.ended) {
    Violated(absl::StrCat(job.name(), " had ended and goes on"));
  }
  const bool ended = job.state() >= Job::STATE_SUCCEEDED;
  if (ended) known.ended = job.state();
  if (known.cancelled && !ended && job.state() != Job::STATE_CANCELLING) {
    Violated(absl::StrCat(job.name(), " was cancelled and goes on"));
  }
  if (job.restarts() > static_cast<int>(job.config().resources().max_restarts())) {
    Violated(absl::StrCat(job.name(), " has had more restarts than it may have"));
  }
}

void SimulatedCluster::CheckGang(const Job& job) {
  if (job.state() != Job::STATE_STARTING && job.state() != Job::STATE_RUNNING) return;
  const coordinator::Gang gang = coordinator::GangOf(job.config());
  const std::vector<std::string> nodes = driver_.NodesOf(job.name());
  const int count = static_cast<int>(nodes.size());
  if (count < gang.min_nodes || count > gang.max_nodes ||
      job.ranks_size() != count * gang.ranks_per_node) {
    Violated(absl::StrCat(job.name(), " has half a gang"));
  }
  for (const std::string& name : nodes) {
    const SimulatedWorker& worker = workers_[worker_of_name_.at(name)];
    const Key key(job.name(), job.generation());
    if (worker.connected && worker.over.count(key) == 0 && !Wants(worker, key)) {
      Violated(absl::StrCat(name, " was not told of ", job.name(), ", of whose gang it is a part"));
    }
  }
}

bool SimulatedCluster::AllIsOver() {
  for (const SimulatedWorker& worker : workers_) {
    if (!worker.connected || !Acts(worker)) return false;
    if (driver_.state().FindNode("nodes/" + worker.name)->slots_used() != 0) return false;
  }
  return std::all_of(jobs_.begin(), jobs_.end(), [&](const std::string& name) {
    return driver_.job(name).state() >= Job::STATE_SUCCEEDED;
  });
}

void SimulatedCluster::SettleDown() {
  SendLate();
  for (SimulatedWorker& worker : workers_) {
    driver_.Uncordon(worker.name);
    worker.announced.clear();
    if (worker.connected) Announce(worker);
  }
  cordoned_.clear();
  bool over = false;
  for (int round = 0; round < 6000 && violation_.empty() && !over; ++round) {
    driver_.Advance(absl::Seconds(1));
    // Not before all limits have passed.
    const bool wake = driver_.now().monotonic >=
                      faults_end_ + kSimulatedTimes.start_timeout + 2 * kSimulatedTimes.StopLimit();
    for (SimulatedWorker& worker : workers_) {
      worker.hangs &= !wake;
      if (!worker.connected && Acts(worker)) Connect(&worker);
      const size_t held = worker.held.size();
      TakeDesired(&worker);
      for (size_t i = 0; i < held; ++i) Move(&worker, /*may_fail=*/false);
    }
    // Attempts that failed before may set nodes aside even now.
    if (round % 60 == 0) {
      for (SimulatedWorker& worker : workers_) driver_.Uncordon(worker.name);
    }
    Check();
    over = round % 5 == 0 && AllIsOver();
  }
  if (over || !violation_.empty()) return;
  for (const std::string& name : jobs_) {
    const Job& job = driver_.job(name);
    if (job.state() < Job::STATE_SUCCEEDED)
      Violated(absl::StrCat(name, " never ends: ", job.ShortDebugString()));
  }
  for (const SimulatedWorker& worker : workers_) {
    const v1::Node node = *driver_.state().FindNode("nodes/" + worker.name);
    if (node.slots_used() != 0) Violated(absl::StrCat(worker.name, " keeps slots for ever"));
  }
}

}  // namespace muster::testing
