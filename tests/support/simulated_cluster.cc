#include "tests/support/simulated_cluster.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/exit_codes.h"
#include "coordinator/core/timestamps.h"

namespace muster::testing {

using coordinator::Command;
using v1::Allocation;
using v1::AllocationStatus;
using v1::Job;

namespace {

constexpr int kWidestJob = 5;
constexpr size_t kKeptCheckpoints = 3;

bool HasProcesses(const AllocationStatus& status) {
  return status.phase() == AllocationStatus::PHASE_STARTING ||
         status.phase() == AllocationStatus::PHASE_RUNNING;
}

bool Over(const AllocationStatus& status) {
  return status.phase() == AllocationStatus::PHASE_SUCCEEDED ||
         status.phase() == AllocationStatus::PHASE_FAILED ||
         status.phase() == AllocationStatus::PHASE_STOPPED;
}

}  // namespace

SimulatedCluster::SimulatedCluster(uint64_t seed, const Options& options)
    : options_(options), random_(seed, 0, 0, "simulation"), watch_(kSimulatedTimes) {
  workers_.resize(options_.nodes);
  for (int i = 0; i < options_.nodes; ++i) {
    workers_[i].name = absl::StrCat("n", i);
    worker_of_name_[workers_[i].name] = i;
  }
  driver_.Observe([this](coordinator::Effects* effects) { LookAtEffects(effects); });
}

void SimulatedCluster::Violated(const std::string& what) {
  if (violation_.empty()) violation_ = what;
}

void SimulatedCluster::Run() {
  for (SimulatedWorker& worker : workers_) Connect(&worker);
  for (int i = 0; i < options_.events && violation_.empty(); ++i) {
    RandomEvent();
    Check();
    if (i % 100 == 0) CheckAll();
  }
  faults_end_ = driver_.now().monotonic;
  SettleDown();
  if (options_.clock_jumps) return;
  for (const std::string& name : jobs_) {
    const auto wrong = CheckBackoff(driver_.state().EventsAfter(name, 0), kSimulatedTimes);
    if (wrong.has_value()) Violated(*wrong);
  }
}

void SimulatedCluster::CountEvents(std::map<std::string, int>* seen) {
  (*seen)["store outage"] += outages_;
  (*seen)["killed in a store outage"] += kills_in_outages_;
  bool more = true;
  for (int64_t after = 0; more;) {
    for (const v1::JobEvent& event : driver_.state().ListEvents("", after, 1000, &more)) {
      after = event.sequence();
      ++(*seen)[event.type()];
      if (event.message().find(" is given up: ") != std::string::npos) ++(*seen)["given up"];
    }
  }
}

void SimulatedCluster::LookAtEffects(coordinator::Effects* effects) {
  if (options_.change_effects) options_.change_effects(effects);
  for (const std::string& name : effects->changed_jobs) touched_jobs_.insert(name);
  for (const coordinator::SessionMessage& message : effects->messages) {
    auto it = worker_of_session_.find(message.session);
    if (it == worker_of_session_.end()) continue;
    SimulatedWorker& worker = workers_[it->second];
    touched_workers_.insert(it->second);
    if (message.close) worker.connected = false;
    if (!message.message.has_desired()) continue;
    worker.desired = message.message.desired();
    worker.taken = false;
    if (options_.change_desired) options_.change_desired(worker.name, &worker.desired);
  }
}

void SimulatedCluster::RandomEvent() {
  uint64_t dice = random_.NextBelow(1000);
  const bool fault = (dice >= 520 && dice < 545) || (dice >= 785 && dice < 850);
  if (fault && options_.quiet && Chance(80)) dice = 0;
  if (dice < 520) {
    Move(&AnyWorker(), /*may_fail=*/true);
  } else if (dice < 545) {
    SimulatedWorker& worker = AnyWorker();
    worker.hangs = Chance(50);
  } else if (dice < 665) {
    driver_.Advance(absl::Milliseconds(250 * (1 + random_.NextBelow(4))));
  } else if (dice < 765) {
    if (!options_.quiet || Chance(20)) Submit();
  } else if (dice < 785) {
    if (jobs_.empty()) return;
    const std::string& name = jobs_[random_.NextBelow(jobs_.size())];
    const auto reply = driver_.Cancel(name).reply;
    if (reply.has_value() && reply->ok()) known_[name].cancelled = true;
  } else if (dice < 825) {
    SimulatedWorker& worker = AnyWorker();
    if (worker.connected && Acts(worker)) Disconnect(&worker);
  } else if (dice < 850) {
    // Power loss: its trainers die with it.
    SimulatedWorker& worker = AnyWorker();
    if (worker.connected) Disconnect(&worker);
    worker.held.clear();
    worker.hangs = false;
  } else if (dice < 915) {
    SimulatedWorker& worker = AnyWorker();
    if (!worker.connected && Acts(worker)) Connect(&worker);
  } else if (dice < 960) {
    Upkeep();
  } else if (dice < 970) {
    SendLate();
  } else if (dice < 978) {
    StoreOutage();
  } else if (dice < 985) {
    Crash();
  } else if (dice < 990 && options_.clock_jumps) {
    driver_.JumpWallClock(absl::Minutes(static_cast<int64_t>(random_.NextBelow(600)) - 300));
  } else {
    driver_.Advance(absl::Seconds((options_.quiet ? 40 : 4) * (1 + random_.NextBelow(4))));
  }
  const std::set<int> touched = touched_workers_;
  for (int index : touched) TakeDesired(&workers_[index]);
}

coordinator::CreateJobCommand SimulatedCluster::RandomJob() {
  coordinator::CreateJobCommand command;
  const size_t number = jobs_.size() + unanswered_.size();
  command.job.set_name(absl::StrCat("jobs/j", number));
  command.job.set_uid(absl::StrCat("uid-", number));
  command.actor = absl::StrCat("user", random_.NextBelow(3));
  auto* resources = command.job.mutable_config()->mutable_resources();
  // Some ask for more nodes than there are at times, none for more than there can be.
  const int widest = std::min(kWidestJob, options_.nodes);
  const int nodes = 1 + static_cast<int>(random_.NextBelow(widest));
  resources->set_nodes(nodes);
  resources->set_ranks_per_node(1 + static_cast<int>(random_.NextBelow(options_.slots)));
  resources->set_max_restarts(2);
  resources->set_priority(static_cast<int>(random_.NextBelow(3)) - 1);
  resources->set_preemptible(!Chance(20));
  if (Chance(options_.quiet ? 80 : 30)) {
    resources->set_min_nodes(1 + static_cast<int>(random_.NextBelow(nodes)));
    resources->set_max_nodes(nodes + static_cast<int>(random_.NextBelow(3)));
  }
  if (Chance(30)) resources->mutable_max_run_time()->set_seconds(60 + random_.NextBelow(300));
  *resources->mutable_grace_period() = coordinator::ToProto(kSimulatedTimes.grace_period);
  *resources->mutable_start_timeout() = coordinator::ToProto(kSimulatedTimes.start_timeout);
  *resources->mutable_restart_backoff() = coordinator::ToProto(kSimulatedTimes.restart_backoff);
  return command;
}

void SimulatedCluster::Submit() {
  const coordinator::CreateJobCommand command = RandomJob();
  const coordinator::Effects effects = driver_.Apply(command);
  if (outage_) return unanswered_.push_back(command);
  if (!effects.reply->ok()) return Violated(effects.reply->status().ToString());
  jobs_.push_back(command.job.name());
  known_[command.job.name()].uid = command.job.uid();
}

void SimulatedCluster::Upkeep() {
  // People wait for the answer before they believe it.
  if (outage_) return;
  SimulatedWorker& worker = AnyWorker();
  touched_workers_.insert(worker_of_name_[worker.name]);
  switch (random_.NextBelow(5)) {
    case 0:
      driver_.Cordon(worker.name, /*drain=*/Chance(50));
      cordoned_.insert(worker.name);
      return;
    case 1:
    case 2:
      driver_.Uncordon(worker.name);
      cordoned_.erase(worker.name);
      return;
    case 3: {
      const char* const types[] = {"Freeze", "Reboot", "Redeploy", "Preempt", "Terminate"};
      worker.announced.push_back(MakeMaintenance(absl::StrCat("e", ++maintenance_),
                                                 types[random_.NextBelow(5)],
                                                 Chance(30) ? "Started" : "Scheduled"));
      worker.announced.back().set_duration_seconds(5);
      break;
    }
    default:
      worker.announced.clear();
  }
  if (worker.connected && Acts(worker)) {
    Announce(worker);
    for (const v1::MaintenanceEvent& event : worker.announced) {
      if (event.type() == "Freeze" && event.status() == "Started") {
        worker.frozen_until = driver_.now().monotonic + absl::Seconds(5);
      }
    }
  }
}

void SimulatedCluster::Announce(const SimulatedWorker& worker) {
  // Limits stand still until now, or from now on.
  const v1::Node node = *driver_.state().FindNode("nodes/" + worker.name);
  for (const std::string& job : node.jobs()) CheckJob(job);
  driver_.Announce(worker.name, worker.announced);
  for (const std::string& job : node.jobs()) CheckJob(job);
}

void SimulatedCluster::Crash() {
  if (outage_) return;
  const bool stored = Chance(50);
  switch (random_.NextBelow(3)) {
    case 0: {
      const coordinator::CreateJobCommand command = RandomJob();
      driver_.ApplyAndCrash(command, stored);
      // The client has no answer and asks again, with the same request.
      if (driver_.state().FindJob(command.job.name()) == nullptr) driver_.Apply(command);
      jobs_.push_back(command.job.name());
      known_[command.job.name()].uid = command.job.uid();
      break;
    }
    case 1: {
      const SimulatedWorker& worker = AnyWorker();
      driver_.ApplyAndCrash(
          coordinator::CordonNodeCommand{absl::StrCat("nodes/", worker.name), "test", true, ""},
          stored);
      if (stored) cordoned_.insert(worker.name);
      break;
    }
    default:
      driver_.ApplyAndCrash(coordinator::TickCommand{}, stored);
  }
  ForgetStreams();
  CheckAll();
}

void SimulatedCluster::ForgetStreams() {
  for (SimulatedWorker& worker : workers_) worker.connected = false;
  late_.clear();
  worker_of_session_.clear();
  // The new coordinator grants all time anew.
  watch_.Forget();
}

void SimulatedCluster::StoreOutage() {
  if (outage_) return;
  ++outages_;
  outage_ = !options_.act_without_store;
  if (outage_) {
    driver_.FailStore();
  } else {
    driver_.LoseWrites();
  }
  for (uint64_t i = random_.NextBelow(12); i > 0; --i) RandomEvent();
  const bool killed = Chance(40);
  if (killed) {
    driver_.CrashWithoutStore(random_.NextBelow(driver_.waiting() + 1));
    ForgetStreams();
    ++kills_in_outages_;
  } else {
    driver_.MendStore();
    // Limits may have stood still for a while that nobody saw.
    watch_.Forget();
  }
  outage_ = false;
  const std::vector<coordinator::CreateJobCommand> submitted = std::exchange(unanswered_, {});
  for (const coordinator::CreateJobCommand& command : submitted) {
    const bool there = driver_.state().FindJob(command.job.name()) != nullptr;
    if (!there && !killed) Violated(absl::StrCat(command.job.name(), " was never answered"));
    // The client has no answer and asks again, with the same request.
    if (!there) driver_.Apply(command);
    jobs_.push_back(command.job.name());
    known_[command.job.name()].uid = command.job.uid();
  }
  CheckAll();
}

bool SimulatedCluster::Acts(const SimulatedWorker& worker) const {
  return !worker.hangs && driver_.now().monotonic >= worker.frozen_until;
}

void SimulatedCluster::Connect(SimulatedWorker* worker) {
  std::vector<AllocationStatus> statuses;
  for (const auto& [key, status] : worker->held) statuses.push_back(status);
  worker->connected = true;
  worker->desired.Clear();
  worker->taken = true;
  worker_of_session_[driver_.next_session()] = worker_of_name_[worker->name];
  driver_.Join(worker->name, options_.slots, statuses);
  if (worker->connected) Announce(*worker);
}

void SimulatedCluster::Disconnect(SimulatedWorker* worker) {
  worker->connected = false;
  worker_of_session_.erase(driver_.session(worker->name));
  driver_.Disconnect(worker->name);
}

void SimulatedCluster::Send(SimulatedWorker* worker, const AllocationStatus& status) {
  touched_workers_.insert(worker_of_name_[worker->name]);
  touched_jobs_.insert(status.job());
  if (!worker->connected || (options_.lose_status && options_.lose_status(status))) return;
  const coordinator::AllocationStatusCommand command{driver_.session(worker->name), status};
  driver_.Apply(command);
  if (Chance(5)) driver_.Apply(command);
}

void SimulatedCluster::SendLate() {
  for (const Command& command : late_) driver_.Apply(command);
  late_.clear();
}

void SimulatedCluster::SetPhase(SimulatedWorker* worker, AllocationStatus* status,
                                AllocationStatus::Phase phase) {
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
void SimulatedCluster::WriteCheckpoint(SimulatedWorker* worker, const AllocationStatus& status) {
  const v1::Checkpoint& parent = worker->resumed[{status.job(), status.generation()}];
  const v1::Checkpoint written =
      MakeCheckpoint(status.job(), status.generation(),
                     parent.step() + 10 * (1 + static_cast<int64_t>(random_.NextBelow(3))),
                     parent.generation(), parent.step());
  std::vector<v1::Checkpoint>& disk = worker->disk[status.job()];
  disk.push_back(written);
  if (disk.size() > kKeptCheckpoints) disk.erase(disk.begin());
  if (!worker->connected) return;
  const coordinator::CheckpointCommand command{driver_.session(worker->name), written};
  if (Chance(20)) {
    late_.push_back(command);
  } else {
    driver_.Apply(command);
  }
}

void SimulatedCluster::TakeDesired(SimulatedWorker* worker) {
  if (!worker->connected || worker->taken || !Acts(*worker)) return;
  worker->taken = true;
  std::map<Key, Allocation> wanted;
  for (const Allocation& allocation : worker->desired.allocations()) {
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
    if (allocation.has_fetch() && it->second.phase() == AllocationStatus::PHASE_PREPARED) {
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

bool SimulatedCluster::Fetch(SimulatedWorker* worker, AllocationStatus* status) {
  status->clear_not_held_by();
  const auto same = [](const v1::Checkpoint& wanted) {
    return [&wanted](const v1::Checkpoint& held) { return held.digest() == wanted.digest(); };
  };
  for (const Allocation& allocation : worker->desired.allocations()) {
    if (allocation.job() != status->job() || !allocation.has_fetch()) continue;
    const v1::Checkpoint& wanted = allocation.fetch().checkpoint();
    std::vector<v1::Checkpoint>& disk = worker->disk[status->job()];
    if (std::any_of(disk.begin(), disk.end(), same(wanted))) return true;
    // It waits to be told where.
    if (allocation.fetch().sources().empty()) return false;
    for (const v1::CheckpointServer& source : allocation.fetch().sources()) {
      const auto& held = workers_[worker_of_name_.at(source.node())].disk[status->job()];
      if (std::any_of(held.begin(), held.end(), same(wanted))) {
        disk.push_back(wanted);
        return true;
      }
      status->add_not_held_by(source.node());
    }
  }
  return true;
}

bool SimulatedCluster::Wants(const SimulatedWorker& worker, const Key& key) const {
  // What it was told last holds while it is cut off.
  if (!worker.connected) return true;
  const auto& allocations = worker.desired.allocations();
  return std::any_of(allocations.begin(), allocations.end(), [&](const Allocation& allocation) {
    return allocation.job() == key.first && allocation.generation() == key.second;
  });
}

void SimulatedCluster::Move(SimulatedWorker* worker, bool may_fail) {
  TakeDesired(worker);
  if (worker->held.empty() || !Acts(*worker)) return;
  auto it = std::next(worker->held.begin(), random_.NextBelow(worker->held.size()));
  AllocationStatus* status = &it->second;
  if (Over(*status)) return;
  if (!Wants(*worker, it->first)) {
    SetPhase(worker, status, AllocationStatus::PHASE_STOPPED);
    return;
  }
  if (may_fail && HasProcesses(*status) && random_.NextBelow(options_.failure_in) == 0) {
    *status->mutable_failure() = random_.NextBelow(2) == 0
                                     ? MakeFailure(0, 9, 0)
                                     : MakeFailure(0, 0, base::kExitCollectiveLost);
    SetPhase(worker, status, AllocationStatus::PHASE_FAILED);
    return;
  }
  switch (status->phase()) {
    case AllocationStatus::PHASE_PREPARING:
      if (Fetch(worker, status)) SetPhase(worker, status, AllocationStatus::PHASE_PREPARED);
      break;
    case AllocationStatus::PHASE_STARTING:
      SetPhase(worker, status, AllocationStatus::PHASE_RUNNING);
      break;
    case AllocationStatus::PHASE_RUNNING:
      switch (random_.NextBelow(may_fail && options_.quiet ? 40 : 4)) {
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

}  // namespace muster::testing
