// Placements of gangs a second on one core, with a durable store: bench/compare --what placements.
//
// The real state thread, ClusterState and SQLite store; only gRPC is left out. The simulated
// workers answer at once, on the state thread: they acknowledge, prepare, run and, at the next
// chance, succeed. Everything is counted: submissions, all messages of the workers, heartbeats,
// ticks, log lines, commits. New jobs keep the queue as long as it is.
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

#include "CLI/CLI.hpp"
#include "common/base/clock.h"
#include "common/base/counter_random.h"
#include "common/config/defaults.h"
#include "coordinator/core/cluster_state.h"
#include "coordinator/core/timestamps.h"
#include "coordinator/service/job_watchers.h"
#include "coordinator/service/session_registry.h"
#include "coordinator/service/state_thread.h"
#include "coordinator/store/sqlite_state_store.h"
#include "tests/support/small_job.h"

namespace {

using namespace muster;  // NOLINT(build/namespaces): a program of one file
using coordinator::ClusterState;
using coordinator::Instant;
using coordinator::SessionId;
using coordinator::StateThread;
using v1::AllocationStatus;

struct Flags {
  std::string store;
  int nodes = 1000;
  int slots = 8;
  int queued = 10'000;
  int largest_gang = 64;
  int creators = 20;
  int seconds = 20;
  // End as soon as so many jobs have ended.
  int64_t jobs = 0;
  int keep_finished = 10'000;
};

class Load;

// One worker: what it was sent last, and what it has answered.
class SimulatedWorker : public coordinator::SessionWriter {
 public:
  SimulatedWorker(Load* load, std::string name) : load_(load), name_(std::move(name)) {}
  void Join(int slots);
  void Heartbeat();
  void Send(v1::CoordinatorMessage message, bool close) override;
  void EndRunning();

 private:
  void Report(AllocationStatus status);

  Load* const load_;
  const std::string name_;
  SessionId session_ = 0;
  std::vector<AllocationStatus> held_;
};

class Load : public coordinator::EffectsObserver {
 public:
  Load(const Flags& flags, const base::Clock* clock);

  coordinator::SessionRegistry* sessions() { return &sessions_; }
  StateThread* state() { return state_; }
  // Joins the workers, fills the queue and measures; prints the result.
  void Run(StateThread* state);

  void Committed(absl::Duration commit_time) override {
    ++commits_;
    commit_time_ += commit_time;
  }
  void Applied(const coordinator::Effects& effects) override {
    placements_ += static_cast<int64_t>(effects.queue_waits.size());
    for (const coordinator::StateChange& change : effects.state_changes) {
      if (change.to == v1::Job::STATE_SUCCEEDED) ++ended_;
    }
  }

 private:
  // On the state thread, after each batch of commands: what happens next.
  void Round(const ClusterState* state);
  void Submit();

  const Flags flags_;
  const base::Clock* const clock_;
  coordinator::SessionRegistry sessions_;
  std::vector<std::shared_ptr<SimulatedWorker>> workers_;
  StateThread* state_ = nullptr;
  base::CounterRandom random_{0, 0, 0, "load"};
  v1::Job job_;
  std::string request_body_;
  int64_t submitted_ = 0;
  int64_t ended_ = 0;
  int64_t placements_ = 0;
  int64_t commits_ = 0;
  absl::Duration commit_time_;
  absl::Duration tick_;
  absl::Duration heartbeat_;
  absl::Duration end_ = absl::InfiniteDuration();
  absl::Notification over_;
};

void SimulatedWorker::Join(int slots) {
  session_ = load_->sessions()->Add(
      std::shared_ptr<SessionWriter>(std::shared_ptr<SessionWriter>(), this));
  coordinator::WorkerHelloCommand command;
  command.session = session_;
  command.hello.set_node(name_);
  command.hello.set_node_uid(absl::StrCat("uid-", name_));
  command.hello.set_instance("1");
  command.hello.set_protocol_version(coordinator::kProtocolVersion);
  command.hello.mutable_inventory()->set_slots(slots);
  command.hello.mutable_inventory()->set_address("10.0.0.1");
  load_->state()->Post(std::move(command));
}

void SimulatedWorker::Heartbeat() {
  load_->state()->Post(coordinator::HeartbeatCommand{session_, {}});
}

void SimulatedWorker::Report(AllocationStatus status) {
  load_->state()->Post(coordinator::AllocationStatusCommand{session_, std::move(status)});
}

void SimulatedWorker::Send(v1::CoordinatorMessage message, bool) {
  if (!message.has_desired()) return;
  coordinator::AckCommand ack;
  ack.session = session_;
  ack.ack.set_version(message.desired().version());
  load_->state()->Post(std::move(ack));
  std::vector<AllocationStatus> held;
  for (const v1::Allocation& wanted : message.desired().allocations()) {
    AllocationStatus& status = held.emplace_back();
    auto known = std::find_if(held_.begin(), held_.end(), [&](const AllocationStatus& other) {
      return other.job() == wanted.job() && other.generation() == wanted.generation();
    });
    if (known != held_.end()) status = std::move(*known);
    const bool run = wanted.goal() == v1::Allocation::GOAL_RUN;
    if (status.job().empty()) {
      status.set_job(wanted.job());
      status.set_generation(wanted.generation());
      status.set_node_rank(wanted.node_rank());
      *status.mutable_ranks() = wanted.ranks();
      status.set_phase(AllocationStatus::PHASE_PREPARED);
      if (wanted.node_rank() == 0) status.set_master("10.0.0.1:4000");
      Report(status);
    } else if (run && status.phase() == AllocationStatus::PHASE_PREPARED) {
      status.set_phase(AllocationStatus::PHASE_RUNNING);
      Report(status);
    }
  }
  held_ = std::move(held);
}

void SimulatedWorker::EndRunning() {
  for (AllocationStatus& status : held_) {
    if (status.phase() != AllocationStatus::PHASE_RUNNING) continue;
    status.set_phase(AllocationStatus::PHASE_SUCCEEDED);
    Report(status);
  }
}

Load::Load(const Flags& flags, const base::Clock* clock) : flags_(flags), clock_(clock) {
  const v1::CreateJobRequest request = testing::SmallJobRequest("gang");
  request_body_ = request.SerializeAsString();
  job_ = request.job();
  config::ApplyDefaults(job_.mutable_config());
  for (int i = 0; i < flags_.nodes; ++i) {
    workers_.push_back(std::make_shared<SimulatedWorker>(this, absl::StrCat("node-", i)));
  }
}

void Load::Submit() {
  coordinator::CreateJobCommand command;
  command.job = job_;
  const std::string id = absl::StrCat("gang-", submitted_);
  command.job.set_name(absl::StrCat("jobs/", id));
  command.job.set_uid(absl::StrCat("uid-", id));
  command.actor = absl::StrCat("user-", submitted_ % flags_.creators);
  command.request_id = absl::StrCat("request-", id);
  command.request_body = request_body_;
  // As many devices as possible on each node.
  const int devices = 1 + static_cast<int>(random_.NextBelow(flags_.largest_gang));
  const int nodes = (devices + flags_.slots - 1) / flags_.slots;
  config::v1::Resources* resources = command.job.mutable_config()->mutable_resources();
  resources->set_nodes(nodes);
  resources->set_min_nodes(nodes);
  resources->set_max_nodes(nodes);
  resources->set_ranks_per_node((devices + nodes - 1) / nodes);
  // Backfill goes by it.
  *resources->mutable_max_run_time() =
      coordinator::ToProto(absl::Minutes(1 + static_cast<int>(random_.NextBelow(120))));
  ++submitted_;
  state_->Post(std::move(command));
}

void Load::Round(const ClusterState* state) {
  if (state == nullptr) return;
  const absl::Duration now = clock_->Monotonic();
  if (now >= end_ || (flags_.jobs > 0 && ended_ >= flags_.jobs)) {
    over_.Notify();
    return;
  }
  if (now - tick_ >= absl::Milliseconds(250)) {
    tick_ = now;
    state_->Post(coordinator::TickCommand{});
  }
  if (now - heartbeat_ >= absl::Seconds(1)) {
    heartbeat_ = now;
    for (const auto& worker : workers_) worker->Heartbeat();
  }
  for (const auto& worker : workers_) worker->EndRunning();
  const int queued = state->CountJobs().at(v1::Job::STATE_QUEUED);
  for (int i = queued; i < flags_.queued; ++i) Submit();
  state_->Ask([this](const ClusterState* next, Instant) { Round(next); });
}

absl::Duration CpuTime() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
}

void Load::Run(StateThread* state) {
  state_ = state;
  for (const auto& worker : workers_) worker->Join(flags_.slots);
  for (int i = 0; i < flags_.queued; ++i) Submit();
  state_->AskAndWait([](const ClusterState*, Instant) {});

  int64_t placements = 0;
  int64_t commits = 0;
  absl::Duration cpu;
  absl::Duration commit_time;
  const absl::Duration start = clock_->Monotonic();
  state_->AskAndWait([&](const ClusterState*, Instant) {
    placements = placements_;
    commits = commits_;
    cpu = CpuTime();
    commit_time = commit_time_;
    if (flags_.jobs == 0) end_ = start + absl::Seconds(flags_.seconds);
  });
  state_->Ask([this](const ClusterState* next, Instant) { Round(next); });
  over_.WaitForNotification();
  int queued = 0;
  state_->AskAndWait([&](const ClusterState* end, Instant) {
    queued = end->CountJobs().at(v1::Job::STATE_QUEUED);
    placements = placements_ - placements;
    commits = commits_ - commits;
    cpu = CpuTime() - cpu;
    commit_time = commit_time_ - commit_time;
  });
  const double seconds = absl::ToDoubleSeconds(clock_->Monotonic() - start);
  std::printf("placements_per_second %.0f\n", placements / seconds);
  std::printf("placements_per_cpu_second %.0f\n", placements / absl::ToDoubleSeconds(cpu));
  std::printf("cpu_ratio %.2f\n", absl::ToDoubleSeconds(cpu) / seconds);
  std::printf("placements %lld\n", static_cast<long long>(placements));
  std::printf("commits %lld\n", static_cast<long long>(commits));
  std::printf("commit_seconds %.2f\n", absl::ToDoubleSeconds(commit_time));
  std::printf("queued %d\n", queued);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  // As the daemons.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  Flags flags;
  CLI::App parser("Measures placements of gangs a second, on one core", "placement_rate");
  parser.option_defaults()->always_capture_default();
  parser.add_option("--store", flags.store, "A SQLite file, made anew")->required();
  parser.add_option("--nodes", flags.nodes);
  parser.add_option("--slots", flags.slots, "Of each node");
  parser.add_option("--queued", flags.queued, "Jobs that always wait");
  parser.add_option("--largest-gang", flags.largest_gang, "Devices; all sizes are equally likely");
  parser.add_option("--creators", flags.creators);
  parser.add_option("--seconds", flags.seconds);
  parser.add_option("--jobs", flags.jobs, "End when so many jobs have ended; 0: after --seconds");
  parser.add_option("--keep-finished", flags.keep_finished, "As muster-coordinator's");
  CLI11_PARSE(parser, argc, argv);

  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(std::max(0, sched_getcpu()), &one);
  if (sched_setaffinity(0, sizeof(one), &one) != 0) {
    std::perror("placement_rate: sched_setaffinity");
    return 1;
  }
  auto store = coordinator::SqliteStateStore::Open(flags.store);
  if (!store.ok()) {
    std::fprintf(stderr, "placement_rate: %s\n", std::string(store.status().message()).c_str());
    return 1;
  }
  const base::SystemClock clock;
  Load load(flags, &clock);
  ClusterState::Options options;
  options.keep_finished = static_cast<size_t>(flags.keep_finished);
  ClusterState cluster(options, {}, Instant{clock.Now(), clock.Monotonic()});
  coordinator::JobWatchers watchers;
  StateThread state(StateThread::Deps{&cluster, store->get(), &clock, load.sessions(), &watchers,
                                      &load, nullptr});
  load.Run(&state);
  state.Stop();
  return 0;
}
