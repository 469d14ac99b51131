// Random lives of a small cluster: workers that run, fail, hang, vanish and return, a coordinator
// that is killed, jobs that are cancelled. After every event the invariants are checked; at the
// end, with the faults over, every job must end. A failure prints the seed.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/counter_random.h"
#include "common/base/exit_codes.h"
#include "coordinator/core/timestamps.h"
#include "tests/support/cluster_driver.h"
#include "tests/unit/coordinator/core/job_time_checks.h"

namespace muster::testing {
namespace {

using v1::Allocation;
using v1::AllocationStatus;
using v1::Job;

constexpr int kNodes = 5;
constexpr int kSlots = 2;
constexpr int kEvents = 800;
const JobTimes kTimes = {
    .grace_period = absl::Seconds(1),
    .start_timeout = absl::Seconds(20),
    .restart_backoff = absl::Seconds(2),
};

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
  // Sends heartbeats, and does nothing else.
  bool hangs = false;
  int64_t acknowledged = 0;
  std::map<std::pair<std::string, int64_t>, AllocationStatus> held;
  // Of these generations it has seen the end.
  std::set<std::pair<std::string, int64_t>> over;
  // Where each of them resumed.
  std::map<std::pair<std::string, int64_t>, v1::Checkpoint> resumed;
  // By job.
  std::map<std::string, std::vector<v1::Checkpoint>> disk;

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
    workers_.resize(kNodes);
    for (int i = 0; i < kNodes; ++i) workers_[i].name = absl::StrCat("n", i);
  }

  void Run() {
    for (SimulatedWorker& worker : workers_) Connect(&worker);
    for (int i = 0; i < kEvents && !::testing::Test::HasFailure(); ++i) {
      RandomEvent();
      CheckInvariants();
    }
    faults_end_ = driver_.now().monotonic;
    SettleDown();
    for (const std::string& name : jobs_) CheckBackoff(&driver_, name, kTimes);
  }

  // Of each type, over all jobs.
  void CountEvents(std::map<std::string, int>* seen) {
    for (const std::string& name : jobs_) {
      for (const v1::JobEvent& event : driver_.state().EventsAfter(name, 0)) {
        ++(*seen)[event.type()];
        if (event.message().find(" is given up: ") != std::string::npos) ++(*seen)["given up"];
      }
    }
  }

 private:
  SimulatedWorker& AnyWorker() { return workers_[random_.NextBelow(kNodes)]; }

  void RandomEvent() {
    const uint64_t dice = random_.NextBelow(100);
    if (dice < 50) {
      WorkerMoves(&AnyWorker(), /*may_fail=*/true);
    } else if (dice < 53) {
      SimulatedWorker& worker = AnyWorker();
      worker.hangs = random_.NextBelow(2) == 0;
    } else if (dice < 65) {
      driver_.Advance(absl::Milliseconds(250 * (1 + random_.NextBelow(4))));
    } else if (dice < 75) {
      Submit();
    } else if (dice < 78) {
      if (!jobs_.empty()) driver_.Cancel(jobs_[random_.NextBelow(jobs_.size())]);
    } else if (dice < 83) {
      SimulatedWorker& worker = AnyWorker();
      if (worker.connected && !worker.hangs) Disconnect(&worker);
    } else if (dice < 86) {
      // Power loss: its trainers die with it.
      SimulatedWorker& worker = AnyWorker();
      if (worker.connected) Disconnect(&worker);
      worker.held.clear();
      worker.hangs = false;
    } else if (dice < 97) {
      SimulatedWorker& worker = AnyWorker();
      if (!worker.connected && !worker.hangs) Connect(&worker);
    } else if (dice < 98) {
      driver_.Restart();
      for (SimulatedWorker& worker : workers_) worker.connected = false;
      // The new coordinator grants all time anew.
      watch_.Forget();
    } else {
      driver_.Advance(absl::Seconds(4 * (1 + random_.NextBelow(4))));
    }
    for (SimulatedWorker& worker : workers_) TakeDesired(&worker);
  }

  void Submit() {
    // Some ask for more nodes than there are at times, none for more than there can be.
    const int nodes = 1 + static_cast<int>(random_.NextBelow(kNodes));
    const int ranks = 1 + static_cast<int>(random_.NextBelow(kSlots));
    coordinator::CreateJobCommand command;
    command.job.set_name(absl::StrCat("jobs/j", jobs_.size()));
    auto* resources = command.job.mutable_config()->mutable_resources();
    resources->set_nodes(nodes);
    resources->set_ranks_per_node(ranks);
    resources->set_max_restarts(2);
    *resources->mutable_grace_period() = coordinator::ToProto(kTimes.grace_period);
    *resources->mutable_start_timeout() = coordinator::ToProto(kTimes.start_timeout);
    *resources->mutable_restart_backoff() = coordinator::ToProto(kTimes.restart_backoff);
    driver_.Apply(command);
    jobs_.push_back(command.job.name());
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
    status->clear_checkpoints();
    if (Over(*status)) worker->over.insert({status->job(), status->generation()});
    if (phase == AllocationStatus::PHASE_PREPARED) {
      status->set_master("10.0.0.1:1");
      for (const v1::Checkpoint& held : worker->disk[status->job()]) {
        *status->add_checkpoints() = held;
      }
    }
    const AllocationStatus copy = *status;
    Send(worker, copy);
  }

  // Nodes of a generation that write at one step write the same.
  void WriteCheckpoint(SimulatedWorker* worker, const AllocationStatus& status) {
    const v1::Checkpoint& parent = worker->resumed[{status.job(), status.generation()}];
    const v1::Checkpoint written =
        MakeCheckpoint(status.job(), status.generation(),
                       parent.step() + 10 * (1 + static_cast<int64_t>(random_.NextBelow(3))),
                       parent.generation(), parent.step());
    worker->disk[status.job()].push_back(written);
    if (!worker->connected) return;
    driver_.Apply(coordinator::CheckpointCommand{driver_.session(worker->name), written});
  }

  // What the stream has brought: drop what is not wanted, take up what is new.
  void TakeDesired(SimulatedWorker* worker) {
    if (!worker->connected || driver_.SaidGoodbye(worker->name)) {
      worker->connected = false;
      return;
    }
    if (worker->hangs) return;
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
        worker->resumed[key] = allocation.resume_from();
        it->second.set_phase(AllocationStatus::PHASE_STARTING);
      }
    }
    driver_.AckNewest(worker->name);
  }

  // Something that it holds goes one step further.
  void WorkerMoves(SimulatedWorker* worker, bool may_fail) {
    if (worker->held.empty() || worker->hangs) return;
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
        switch (random_.NextBelow(4)) {
          case 0:
            SetPhase(worker, status, AllocationStatus::PHASE_SUCCEEDED);
            break;
          case 1:
            WriteCheckpoint(worker, *status);
            break;
          default:
            break;
        }
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
      int ranks = 0;
      std::set<std::pair<std::string, int64_t>> wanted;
      const v1::DesiredState desired = driver_.Desired(worker.name);
      for (const Allocation& allocation : desired.allocations()) {
        const Job& job = driver_.job(allocation.job());
        EXPECT_EQ(allocation.generation(), job.generation())
            << worker.name << " is to hold an old generation of " << job.name();
        EXPECT_TRUE(job.state() == Job::STATE_STARTING || job.state() == Job::STATE_RUNNING);
        ranks += allocation.ranks_size();
        wanted.insert({allocation.job(), allocation.generation()});
      }
      for (const auto& [key, status] : worker.held) {
        if (HasProcesses(status) && wanted.count(key) == 0) ranks += status.ranks_size();
      }
      EXPECT_LE(ranks, kSlots) << worker.name << " is to run more beside what it has not ended";
    }
    for (const std::string& name : jobs_) watch_.Look(driver_.job(name), driver_.now());
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
          if (worker.over.count({name, job.generation()}) > 0) continue;
          EXPECT_TRUE(driver_.Allocation(node, name).has_value())
              << node << " was not told of " << name;
        }
      }
    }
  }

  bool AllIsOver() {
    bool over = true;
    for (const std::string& name : jobs_) over &= Ended(driver_.job(name));
    for (const SimulatedWorker& worker : workers_) {
      const auto node = driver_.state().FindNode("nodes/" + worker.name);
      over &= worker.connected && !worker.hangs && node->slots_used() == 0;
    }
    return over;
  }

  void SettleDown() {
    for (int round = 0; round < 3000 && !::testing::Test::HasFailure(); ++round) {
      if (AllIsOver()) break;
      driver_.Advance(absl::Seconds(1));
      // Not before all limits have passed.
      const bool wake =
          driver_.now().monotonic >= faults_end_ + kTimes.start_timeout + 2 * kTimes.StopLimit();
      for (SimulatedWorker& worker : workers_) {
        worker.hangs &= !wake;
        if (!worker.connected && !worker.hangs) Connect(&worker);
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
  JobTimeWatch watch_{kTimes};
  absl::Duration faults_end_;
};

// The thread sanitizer has nothing to find in one thread, and takes ten times as long.
#ifdef __SANITIZE_THREAD__
constexpr uint64_t kSeeds = 12;
#else
constexpr uint64_t kSeeds = 36;
#endif

TEST(SimulationTest, InvariantsHoldAndEveryJobEnds) {
  std::map<std::string, int> seen;
  for (uint64_t seed = 1; seed <= kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Simulation simulation(seed);
    simulation.Run();
    simulation.CountEvents(&seen);
  }
  // Otherwise the seeds went past what they are for.
  for (const char* type : {"Running", "Succeeded", "Failed", "Cancelled", "RankFailed", "NodeLost",
                           "Restarting", "StartTimeout", "Checkpoint", "given up"}) {
    EXPECT_GT(seen[type], static_cast<int>(kSeeds / 7)) << type;
  }
  EXPECT_EQ(seen["CheckpointRejected"], 0);
}

}  // namespace
}  // namespace muster::testing
