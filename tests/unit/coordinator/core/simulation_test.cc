// Random lives of a small cluster: workers that run, fail, vanish and return, a coordinator that is
// killed, jobs that are cancelled. After every event the invariants are checked; at the end, with
// the faults over, every job must end. A failure prints the seed.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/counter_random.h"
#include "common/base/exit_codes.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using v1::Allocation;
using v1::AllocationStatus;
using v1::Job;

constexpr int kNodes = 5;
constexpr int kSlots = 2;
constexpr int kEvents = 600;

bool HasProcesses(const AllocationStatus& status) {
  return status.phase() == AllocationStatus::PHASE_STARTING ||
         status.phase() == AllocationStatus::PHASE_RUNNING;
}

bool Over(const AllocationStatus& status) {
  return status.phase() == AllocationStatus::PHASE_SUCCEEDED ||
         status.phase() == AllocationStatus::PHASE_FAILED ||
         status.phase() == AllocationStatus::PHASE_STOPPED;
}

bool Ended(const Job& job) {
  return job.state() == Job::STATE_SUCCEEDED || job.state() == Job::STATE_FAILED ||
         job.state() == Job::STATE_CANCELLED;
}

// What a worker daemon and its trainers do, without the daemon.
struct SimulatedWorker {
  std::string name;
  bool connected = false;
  int64_t acknowledged = 0;
  std::map<std::pair<std::string, int64_t>, AllocationStatus> held;

  int Processes() const {
    int processes = 0;
    for (const auto& [key, status] : held) {
      if (HasProcesses(status)) processes += status.ranks_size();
    }
    return processes;
  }
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed, 0, 0, "simulation") {
    for (int i = 0; i < kNodes; ++i) workers_.push_back({absl::StrCat("n", i), false, 0, {}});
  }

  void Run() {
    for (SimulatedWorker& worker : workers_) Connect(&worker);
    for (int i = 0; i < kEvents && !::testing::Test::HasFailure(); ++i) {
      RandomEvent();
      CheckInvariants();
    }
    SettleDown();
  }

  // Of each type, over all jobs.
  void CountEvents(std::map<std::string, int>* seen) const {
    for (const std::string& name : jobs_) {
      for (const std::string& type : driver_.EventTypes(name)) ++(*seen)[type];
    }
  }

 private:
  SimulatedWorker& AnyWorker() { return workers_[random_.NextBelow(kNodes)]; }

  void RandomEvent() {
    const uint64_t dice = random_.NextBelow(100);
    if (dice < 50) {
      WorkerMoves(&AnyWorker(), /*may_fail=*/true);
    } else if (dice < 65) {
      driver_.Advance(absl::Milliseconds(250 * (1 + random_.NextBelow(4))));
    } else if (dice < 75) {
      Submit();
    } else if (dice < 78) {
      if (!jobs_.empty()) driver_.Cancel(jobs_[random_.NextBelow(jobs_.size())]);
    } else if (dice < 83) {
      SimulatedWorker& worker = AnyWorker();
      if (worker.connected) Disconnect(&worker);
    } else if (dice < 86) {
      // Power loss: its trainers die with it.
      SimulatedWorker& worker = AnyWorker();
      if (worker.connected) Disconnect(&worker);
      worker.held.clear();
    } else if (dice < 97) {
      SimulatedWorker& worker = AnyWorker();
      if (!worker.connected) Connect(&worker);
    } else if (dice < 98) {
      driver_.Restart();
      for (SimulatedWorker& worker : workers_) worker.connected = false;
    } else {
      driver_.Advance(absl::Seconds(4));
    }
    for (SimulatedWorker& worker : workers_) TakeDesired(&worker);
  }

  void Submit() {
    // Some ask for more nodes than there are at times, none for more than there can be.
    const int nodes = 1 + static_cast<int>(random_.NextBelow(kNodes));
    const int ranks = 1 + static_cast<int>(random_.NextBelow(kSlots));
    jobs_.push_back(driver_.Submit(absl::StrCat("j", jobs_.size()), nodes, ranks, 2));
  }

  void Connect(SimulatedWorker* worker) {
    std::vector<AllocationStatus> statuses;
    for (const auto& [key, status] : worker->held) statuses.push_back(status);
    worker->connected = true;
    worker->acknowledged = 0;
    driver_.Join(worker->name, kSlots, statuses);
  }

  void Disconnect(SimulatedWorker* worker) {
    worker->connected = false;
    driver_.Disconnect(worker->name);
  }

  void Send(SimulatedWorker* worker, const AllocationStatus& status) {
    if (!worker->connected) return;
    driver_.Apply(coordinator::AllocationStatusCommand{driver_.session(worker->name), status});
  }

  void SetPhase(SimulatedWorker* worker, AllocationStatus* status, AllocationStatus::Phase phase) {
    status->set_phase(phase);
    if (phase == AllocationStatus::PHASE_PREPARED) status->set_master("10.0.0.1:1");
    const AllocationStatus copy = *status;
    Send(worker, copy);
  }

  // What the stream has brought: drop what is not wanted, take up what is new.
  void TakeDesired(SimulatedWorker* worker) {
    if (!worker->connected || driver_.SaidGoodbye(worker->name)) {
      worker->connected = false;
      return;
    }
    const v1::DesiredState desired = driver_.Desired(worker->name);
    if (desired.version() == worker->acknowledged) return;
    worker->acknowledged = desired.version();
    std::map<std::pair<std::string, int64_t>, Allocation> wanted;
    for (const Allocation& allocation : desired.allocations()) {
      wanted[{allocation.job(), allocation.generation()}] = allocation;
    }
    for (auto it = worker->held.begin(); it != worker->held.end();) {
      const bool forget = wanted.count(it->first) == 0 && Over(it->second);
      it = forget ? worker->held.erase(it) : std::next(it);
    }
    for (const auto& [key, allocation] : wanted) {
      auto [it, is_new] = worker->held.try_emplace(key);
      if (is_new) {
        it->second.set_job(key.first);
        it->second.set_generation(key.second);
        *it->second.mutable_ranks() = allocation.ranks();
        it->second.set_phase(AllocationStatus::PHASE_PREPARING);
      }
      if (allocation.goal() == Allocation::GOAL_RUN &&
          it->second.phase() == AllocationStatus::PHASE_PREPARED) {
        it->second.set_phase(AllocationStatus::PHASE_STARTING);
      }
    }
    driver_.AckNewest(worker->name);
  }

  // Something that it holds goes one step further.
  void WorkerMoves(SimulatedWorker* worker, bool may_fail) {
    if (worker->held.empty()) return;
    auto it = std::next(worker->held.begin(), random_.NextBelow(worker->held.size()));
    AllocationStatus* status = &it->second;
    const v1::DesiredState desired = driver_.Desired(worker->name);
    bool wanted = !worker->connected;
    for (const Allocation& allocation : desired.allocations()) {
      wanted |= std::pair(allocation.job(), allocation.generation()) == it->first;
    }
    if (Over(*status)) return;
    if (!wanted) {
      SetPhase(worker, status, AllocationStatus::PHASE_STOPPED);
      return;
    }
    if (may_fail && HasProcesses(*status) && random_.NextBelow(8) == 0) {
      *status->mutable_failure() = random_.NextBelow(2) == 0
                                       ? MakeFailure(0, 9, 0)
                                       : MakeFailure(0, 0, base::kExitCollectiveLost);
      SetPhase(worker, status, AllocationStatus::PHASE_FAILED);
      return;
    }
    switch (status->phase()) {
      case AllocationStatus::PHASE_PREPARING:
        SetPhase(worker, status, AllocationStatus::PHASE_PREPARED);
        break;
      case AllocationStatus::PHASE_STARTING:
        SetPhase(worker, status, AllocationStatus::PHASE_RUNNING);
        break;
      case AllocationStatus::PHASE_RUNNING:
        if (random_.NextBelow(3) == 0) SetPhase(worker, status, AllocationStatus::PHASE_SUCCEEDED);
        break;
      default:
        break;
    }
  }

  void CheckInvariants() {
    for (const SimulatedWorker& worker : workers_) {
      EXPECT_LE(worker.Processes(), kSlots) << worker.name << ": a slot was given twice";
      const auto node = driver_.state().FindNode("nodes/" + worker.name);
      EXPECT_LE(node.has_value() ? node->slots_used() : 0, kSlots) << worker.name;
      if (!worker.connected) continue;
      const v1::DesiredState desired = driver_.Desired(worker.name);
      for (const Allocation& allocation : desired.allocations()) {
        const Job& job = driver_.job(allocation.job());
        EXPECT_EQ(allocation.generation(), job.generation())
            << worker.name << " is to hold an old generation of " << job.name();
        EXPECT_TRUE(job.state() == Job::STATE_STARTING || job.state() == Job::STATE_RUNNING);
      }
    }
    for (const std::string& name : jobs_) {
      const Job& job = driver_.job(name);
      EXPECT_GE(job.generation(), generations_[name]) << name;
      generations_[name] = job.generation();
      if (job.state() != Job::STATE_STARTING && job.state() != Job::STATE_RUNNING) continue;
      const auto& resources = job.config().resources();
      EXPECT_EQ(job.ranks_size(), static_cast<int>(resources.nodes() * resources.ranks_per_node()))
          << name << ": half a gang";
      for (const std::string& node : driver_.NodesOf(name)) {
        for (const SimulatedWorker& worker : workers_) {
          if (worker.name != node || !worker.connected) continue;
          EXPECT_TRUE(driver_.Allocation(node, name).has_value())
              << node << " was not told of " << name;
        }
      }
    }
  }

  void SettleDown() {
    for (int round = 0; round < 3000 && !::testing::Test::HasFailure(); ++round) {
      bool all_ended = true;
      for (const std::string& name : jobs_) all_ended &= Ended(driver_.job(name));
      if (all_ended) break;
      driver_.Advance(absl::Seconds(1));
      for (SimulatedWorker& worker : workers_) {
        if (!worker.connected) Connect(&worker);
        TakeDesired(&worker);
        for (size_t i = 0; i < worker.held.size(); ++i) WorkerMoves(&worker, /*may_fail=*/false);
      }
      CheckInvariants();
    }
    for (const std::string& name : jobs_) {
      EXPECT_TRUE(Ended(driver_.job(name)))
          << name << " hangs: " << driver_.job(name).ShortDebugString();
    }
    for (SimulatedWorker& worker : workers_) {
      EXPECT_EQ(driver_.state().FindNode("nodes/" + worker.name)->slots_used(), 0) << worker.name;
    }
  }

  base::CounterRandom random_;
  ClusterDriver driver_;
  std::vector<SimulatedWorker> workers_;
  std::vector<std::string> jobs_;
  std::map<std::string, int64_t> generations_;
};

TEST(SimulationTest, InvariantsHoldAndEveryJobEnds) {
  std::map<std::string, int> seen;
  for (uint64_t seed = 1; seed <= 30 && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Simulation simulation(seed);
    simulation.Run();
    simulation.CountEvents(&seen);
  }
  // Otherwise the seeds went past what they are for.
  for (const char* type :
       {"Running", "Succeeded", "Failed", "Cancelled", "RankFailed", "NodeLost", "Restarting"}) {
    EXPECT_GT(seen[type], 5) << type;
  }
}

}  // namespace
}  // namespace muster::testing
