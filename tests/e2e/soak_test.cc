// Half an hour of a real cluster under random faults: the coordinator, four workers, trainers over
// Gloo, and each few seconds something that goes wrong or that somebody does. In the end every job
// has all of its steps or was cancelled, and nothing is left behind.
//
//   MUSTER_SOAK_MINUTES=2   a shorter one
//   MUSTER_SOAK_SEED=17     the faults of an earlier run, in their order
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/counter_random.h"
#include "tests/e2e/cluster_fixture.h"
#include "tests/e2e/process_usage.h"
#include "tests/unit/worker/daemon/fake_metadata_service.h"

namespace muster {
namespace {

using testing::LocalCluster;
using testing::ProcessUsage;
using worker::FakeMetadataService;

constexpr int kWorkers = 4;
constexpr int kEpochs = 3;
// More would train so slowly on two cores that the faults met nothing but starting jobs.
constexpr int kMostLiveJobs = 3;

// What a daemon may hold in the end beyond what it held before the first job. Memory: the
// coordinator keeps every job with its events (some 20 kB for one that restarted often, and a soak
// has a few hundred) and gRPC's and malloc's arenas grow with the threads that were ever busy at a
// time; neither grows with time. Descriptors: gRPC keeps a few of closed connections for a while.
constexpr int64_t kMoreMemory = int64_t{64} << 20;
constexpr int kMoreDescriptors = 16;

uint64_t Number(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

class SoakTest : public ClusterTest {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);
    seed_ = Number("MUSTER_SOAK_SEED", std::random_device{}());
    minutes_ = absl::Minutes(static_cast<int64_t>(Number("MUSTER_SOAK_MINUTES", 30)));
    std::printf("MUSTER_SOAK_SEED=%llu\n", static_cast<unsigned long long>(seed_));
    random_.emplace(seed_, 0, 0, "soak");
    LocalCluster::Options options = Options(kWorkers);
    options.scheduled_events_of[kWorkers - 1] = metadata_.url();
    cluster_.emplace(options);
    ASSERT_TRUE(cluster_->WaitForNodes(kWorkers, absl::Seconds(60)));
  }

  uint64_t Below(uint64_t end) { return random_->NextBelow(end); }
  void Say(const std::string& what) {
    std::printf("%6.1f s  %s\n", absl::ToDoubleSeconds(Passed()), what.c_str());
    std::fflush(stdout);
  }
  absl::Duration Passed() const { return absl::Now() - start_; }
  std::string Node(uint64_t index) const { return absl::StrCat("nodes/w", index); }
  std::shared_ptr<grpc::Channel> Channel() const {
    return grpc::CreateChannel(cluster_->rpc_address(), grpc::InsecureChannelCredentials());
  }
  static void SetDeadline(grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  }

  void SubmitOne() {
    const int nodes = 1 + static_cast<int>(Below(2));
    const int fewest = Below(2) == 0 ? 1 : nodes;
    const int priority = static_cast<int>(Below(3)) - 1;
    const int most = Below(3) == 0 ? nodes + 1 : nodes;
    if (static_cast<int>(Live().size()) >= kMostLiveJobs) return;
    const std::string id = absl::StrCat("soak-", jobs_.size());
    const testing::Finished submitted = cluster_->Muster(SubmitArguments(
        kEpochs,
        {"--name", id, "--set", absl::StrCat("resources.nodes=", nodes), "--set",
         absl::StrCat("resources.min_nodes=", fewest), "--set",
         absl::StrCat("resources.max_nodes=", most), "--set",
         absl::StrCat("resources.priority=", priority), "--set", "resources.max_restarts=1000",
         "--set", "resources.restart_backoff=0.2s", "--set", "checkpointing.every_steps=2"}));
    ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
    jobs_.push_back(absl::StrCat("jobs/", id));
    Say(absl::StrCat("submitted ", id, ": ", fewest, " to ", most, " nodes, priority ", priority));
  }
  // As far as the coordinator answers.
  std::vector<std::string> Live() const {
    std::vector<std::string> live;
    for (const std::string& name : jobs_) {
      if (!testing::HasEnded(cluster_->GetJob(name))) live.push_back(name);
    }
    return live;
  }

  // One thing that goes wrong, or that somebody does.
  void Fault() {
    const uint64_t which = Below(14);
    const uint64_t target = Below(1'000'000);
    const absl::Duration pause = absl::Milliseconds(200 + static_cast<int64_t>(Below(2000)));
    const uint64_t node = target % kWorkers;
    const auto index = static_cast<int>(node);
    switch (which) {
      case 0:
      case 1:
        return SignalOne(cluster_->AllTrainers(), target, SIGKILL, "trainer");
      case 2:
        return SignalOne(Shims(), target, SIGKILL, "shim");
      case 3: {
        const std::vector<pid_t> trainers = cluster_->AllTrainers();
        if (trainers.empty()) return;
        const pid_t pid = trainers[target % trainers.size()];
        Say(absl::StrCat("trainer ", pid, " stands still"));
        kill(pid, SIGSTOP);
        Wait(pause);
        kill(pid, SIGCONT);
        return;
      }
      case 4:
        Say(absl::StrCat("worker ", node, " stands still"));
        cluster_->SignalWorker(index, SIGSTOP);
        Wait(pause);
        cluster_->SignalWorker(index, SIGCONT);
        return;
      case 5:
        Say(absl::StrCat("worker ", node, " is killed alone"));
        cluster_->KillWorkerAlone(index);
        Wait(pause);
        cluster_->StartWorker(index);
        return;
      case 6:
        Say(absl::StrCat("worker ", node, " loses power"));
        cluster_->KillWorkerAndTrainers(index);
        Wait(pause);
        cluster_->StartWorker(index);
        return;
      case 7:
        // Later its memory is to be measured.
        if (Passed() > minutes_ / 2) return;
        Say("the coordinator is killed");
        cluster_->KillCoordinator();
        Wait(pause);
        cluster_->StartCoordinator();
        return;
      case 8:
        return Drain(node);
      case 9:
        return CancelOne(target);
      case 10:
        return Announce(target);
      default:
        return SubmitOne();
    }
  }

  void SignalOne(const std::vector<pid_t>& pids, uint64_t target, int signal_number,
                 const std::string& what) {
    if (pids.empty()) return;
    const pid_t pid = pids[target % pids.size()];
    Say(absl::StrCat(what, " ", pid, " is killed"));
    kill(pid, signal_number);
  }
  std::vector<pid_t> Shims() const {
    std::vector<pid_t> shims;
    for (int i = 0; i < kWorkers; ++i) {
      for (const pid_t pid : cluster_->Shims(i)) shims.push_back(pid);
    }
    return shims;
  }
  // Faults pile up on nodes, which are then set aside: somebody puts them back.
  void UncordonAll() {
    const auto stub = v1::NodeService::NewStub(Channel());
    for (uint64_t i = 0; i < kWorkers; ++i) {
      grpc::ClientContext context;
      SetDeadline(&context);
      v1::UncordonNodeRequest request;
      request.set_name(Node(i));
      v1::Node node;
      stub->UncordonNode(&context, request, &node);
    }
  }
  void Drain(uint64_t index) {
    Say(absl::StrCat(Node(index), " is drained"));
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::DrainNodeRequest request;
    request.set_name(Node(index));
    v1::Node node;
    const grpc::Status status =
        v1::NodeService::NewStub(Channel())->DrainNode(&context, request, &node);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  void CancelOne(uint64_t target) {
    const std::vector<std::string> live = Live();
    if (live.empty()) return;
    const std::string& name = live[target % live.size()];
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::CancelJobRequest request;
    request.set_name(name);
    v1::Job job;
    const grpc::Status status =
        v1::JobService::NewStub(Channel())->CancelJob(&context, request, &job);
    // It may have ended just now.
    if (!status.ok()) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION)
          << status.error_message();
      return;
    }
    Say(absl::StrCat(name, " is cancelled"));
    cancelled_.insert(name);
  }
  // For the last worker's machine.
  void Announce(uint64_t target) {
    const char* const types[] = {"Freeze", "Redeploy", "Preempt"};
    Say(absl::StrCat("scheduled event: ", types[target % 3]));
    metadata_.Announce("event", types[target % 3]);
  }

  // Daemons by name, as they are now.
  std::map<std::string, ProcessUsage> Usage() const {
    std::map<std::string, ProcessUsage> usage;
    usage["coordinator"] = testing::UsageOf(cluster_->coordinator_pid());
    for (int i = 0; i < kWorkers; ++i) {
      usage[absl::StrCat("worker ", i)] = testing::UsageOf(cluster_->worker_pid(i));
    }
    return usage;
  }

  static void Wait(absl::Duration duration) {
    testing::WaitUntil([] { return false; }, duration);
  }

  const absl::Time start_ = absl::Now();
  uint64_t seed_ = 0;
  absl::Duration minutes_;
  std::optional<base::CounterRandom> random_;
  FakeMetadataService metadata_;
  std::optional<LocalCluster> cluster_;
  std::vector<std::string> jobs_;
  std::set<std::string> cancelled_;
};

TEST_F(SoakTest, EveryJobEndsAsItShouldAndNothingIsLeft) {
  const std::map<std::string, ProcessUsage> before = Usage();
  int faults = 0;
  SubmitOne();
  while (Passed() < minutes_ && !HasFatalFailure()) {
    Wait(absl::Milliseconds(1000 + static_cast<int64_t>(Below(7000))));
    Fault();
    // Drained nodes come back, and what the cloud has announced is over.
    if (++faults % 3 == 0) {
      UncordonAll();
      metadata_.Withdraw("event");
    }
  }
  Say(absl::StrCat(faults, " faults are over"));
  metadata_.Withdraw("event");
  const bool over = testing::WaitUntil(
      [&] {
        UncordonAll();
        Wait(absl::Seconds(1));
        return Live().empty();
      },
      absl::Minutes(10));
  Say("the jobs are over");

  int succeeded = 0;
  for (const std::string& name : jobs_) {
    const v1::Job job = cluster_->GetJob(name);
    ASSERT_TRUE(over || testing::HasEnded(job)) << job.DebugString();
    // One that was just about to end may still do so.
    if (cancelled_.count(name) > 0 && job.state() == v1::Job::STATE_CANCELLED) continue;
    ExpectFinished(job, kEpochs);
    ++succeeded;
  }
  std::printf("%d faults, %zu jobs: %d with all their steps, %zu cancelled\n", faults, jobs_.size(),
              succeeded, jobs_.size() - static_cast<size_t>(succeeded));

  // Nothing runs but the daemons, which hold no more than at first.
  EXPECT_TRUE(testing::WaitUntil([&] { return cluster_->AllTrainers().empty() && Shims().empty(); },
                                 absl::Seconds(20)));
  EXPECT_TRUE(cluster_->WaitForNodes(kWorkers, absl::Seconds(20)));
  for (int i = 0; i < kWorkers; ++i) {
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(cluster_->StateFolder(i))) {
      EXPECT_NE(entry.path().filename(), "allocation.textproto")
          << entry.path() << ": a generation that is not over";
    }
  }
  std::map<std::string, ProcessUsage> after;
  const auto within = [&](const std::string& name) {
    return after[name].descriptors <= before.at(name).descriptors + kMoreDescriptors &&
           after[name].resident_bytes <= before.at(name).resident_bytes + kMoreMemory;
  };
  testing::WaitUntil(
      [&] {
        after = Usage();
        return std::all_of(before.begin(), before.end(),
                           [&](const auto& entry) { return within(entry.first); });
      },
      absl::Seconds(60));
  for (const auto& [name, usage] : before) {
    std::printf("%s: %d -> %d descriptors, %.1f -> %.1f MiB\n", name.c_str(), usage.descriptors,
                after[name].descriptors, static_cast<double>(usage.resident_bytes) / (1 << 20),
                static_cast<double>(after[name].resident_bytes) / (1 << 20));
    EXPECT_TRUE(within(name)) << name;
  }
}

}  // namespace
}  // namespace muster
