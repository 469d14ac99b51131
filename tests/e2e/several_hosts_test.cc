// Jobs over hosts with addresses of their own: network namespaces joined by a switch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

#include "tests/support/network_namespaces.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include <nlohmann/json.hpp>

namespace muster {
namespace {

using testing::Finished;
using testing::NetworkNamespaces;
using testing::Process;
using testing::ProgramFolder;

// Losses, learning rate and gradient norm of a step as they are written: equal text is equal bits.
using Trace = std::map<int64_t, nlohmann::json>;

// Adds the records of a metrics.jsonl. A step that is there already (it was done again after a
// restart) must be the same.
void AddTrace(const std::filesystem::path& file, Trace* trace) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    nlohmann::json record = nlohmann::json::parse(line);
    if (record["mode"] != "train") continue;
    for (const char* timing : {"time", "data_time", "images_per_second"}) record.erase(timing);
    const auto [at, added] = trace->emplace(record["step"].get<int64_t>(), record);
    EXPECT_EQ(at->second, record) << file;
  }
}

// A coordinator on host 0 and a worker on each of some hosts.
class Hosts {
 public:
  Hosts(int hosts, int slots, std::filesystem::path data_root)
      : network_(hosts), slots_(slots), data_root_(std::move(data_root)) {
    const std::filesystem::path addresses = folder_.path() / "addresses";
    coordinator_ =
        Start(0, "coordinator",
              {ProgramFolder() / "muster-coordinator", "--listen",
               NetworkNamespaces::Address(0) + ":7070", "--http", "127.0.0.1:0", "--store",
               folder_.path() / "store.sqlite", "--address-file", addresses, "--insecure-network"});
    EXPECT_TRUE(
        testing::WaitUntil([&] { return std::filesystem::exists(addresses); }, absl::Seconds(20)))
        << coordinator_->Output();
  }
  ~Hosts() {
    for (const auto& [host, worker] : workers_) KillWorkerAndTrainers(host);
  }

  void StartWorker(int host) {
    workers_[host] = Start(
        host, absl::StrCat("worker", host),
        {ProgramFolder() / "muster-worker", "--coordinator",
         NetworkNamespaces::Address(0) + ":7070", "--name", absl::StrCat("w", host), "--slots",
         absl::StrCat(slots_), "--state-dir", StateFolder(host), "--data-root", data_root_});
    EXPECT_TRUE(testing::WaitUntil(
        [&] { return Muster({"nodes"}).output.find(absl::StrCat("w", host)) != std::string::npos; },
        absl::Seconds(20)))
        << workers_[host]->Output();
  }

  void KillWorkerAndTrainers(int host) {
    workers_.at(host)->Signal(SIGKILL);
    workers_.at(host)->Wait(absl::Seconds(10));
    EXPECT_TRUE(testing::KillProcessesWith(StateFolder(host).string() + "/"));
  }

  // All packets between the two are dropped, without a word; or no more.
  void Cut(int host, int other) const {
    const std::string peer = NetworkNamespaces::Address(other);
    Nft(host,
        absl::StrCat("add table inet cut; add chain inet cut in { type filter hook input "
                     "priority 0 ; }; add rule inet cut in ip saddr ",
                     peer,
                     " drop; add chain inet cut out { type filter hook output priority 0 ; }; "
                     "add rule inet cut out ip daddr ",
                     peer, " drop"));
  }
  void Mend(int host) const { Nft(host, "delete table inet cut"); }

  Finished Muster(std::vector<std::string> arguments,
                  absl::Duration timeout = absl::Minutes(1)) const {
    arguments.insert(arguments.begin(), ProgramFolder() / "muster");
    return testing::Run(
        network_.On(0, arguments), timeout,
        {absl::StrCat("MUSTER_COORDINATOR=", NetworkNamespaces::Address(0), ":7070")});
  }

  nlohmann::json Job(const std::string& name) const {
    return nlohmann::json::parse(Muster({"describe", name, "--json"}).output);
  }

  // The job at its end.
  nlohmann::json AwaitEnd(const std::string& name) const {
    Muster({"watch", name}, absl::Minutes(5));
    return Job(name);
  }

  // Of all hosts.
  Trace CollectTrace() const {
    Trace trace;
    for (const auto& [host, worker] : workers_) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(StateFolder(host))) {
        if (entry.path().filename() == "metrics.jsonl") AddTrace(entry.path(), &trace);
      }
    }
    return trace;
  }

 private:
  std::unique_ptr<Process> Start(int host, const std::string& name,
                                 const std::vector<std::string>& arguments) {
    return std::make_unique<Process>(
        Process::Options{network_.On(host, arguments), {}, folder_.path() / (name + ".log")});
  }
  std::filesystem::path StateFolder(int host) const {
    return folder_.path() / absl::StrCat("w", host);
  }
  void Nft(int host, const std::string& commands) const {
    const Finished set = testing::Run(network_.On(host, {"nft", commands}), absl::Seconds(20));
    ASSERT_EQ(set.exit_code, 0) << set.output;
  }

  const testing::TemporaryFolder folder_;
  const NetworkNamespaces network_;
  const int slots_;
  const std::filesystem::path data_root_;
  std::unique_ptr<Process> coordinator_;
  std::map<int, std::unique_ptr<Process>> workers_;
};

class SeveralHostsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!NetworkNamespaces::Available()) GTEST_SKIP() << "no right to make network namespaces";
    const Finished made =
        testing::Run({ProgramFolder() / "muster-trainer", "make-shapes", "--output",
                      data_.path() / "shapes", "--train", "24", "--val", "6", "--seed", "3"},
                     absl::Minutes(1));
    ASSERT_EQ(made.exit_code, 0) << made.output;
  }

  // The demo's job without evaluation.
  static std::vector<std::string> Config(const std::vector<std::string>& settings) {
    std::vector<std::string> arguments;
    for (const std::string& setting : settings) {
      arguments.push_back("--set");
      arguments.push_back(setting);
    }
    return arguments;
  }

  static std::string ConfigFile() {
    return testing::SourceFolder() / "configs/quick/demo.textproto";
  }

  // The same job by hand: all ranks on this machine's loopback, without daemons.
  Trace TrainByHand(int ranks, const std::vector<std::string>& settings) const {
    const testing::TemporaryFolder output;
    std::vector<std::string> arguments = {ProgramFolder() / "muster-trainer",
                                          "train",
                                          "--config",
                                          ConfigFile(),
                                          "--output",
                                          output.path() / "run",
                                          "--data-root",
                                          data_.path(),
                                          "--ranks",
                                          absl::StrCat(ranks)};
    for (const std::string& word : Config(settings)) arguments.push_back(word);
    const Finished trained = testing::Run(arguments, absl::Minutes(5));
    EXPECT_EQ(trained.exit_code, 0) << trained.output;
    Trace trace;
    AddTrace(output.path() / "run/metrics.jsonl", &trace);
    return trace;
  }

  static std::string Submit(const Hosts& hosts, const std::vector<std::string>& settings) {
    std::vector<std::string> arguments = {"submit", ConfigFile()};
    for (const std::string& word : Config(settings)) arguments.push_back(word);
    const Finished submitted = hosts.Muster(arguments);
    EXPECT_EQ(submitted.exit_code, 0) << submitted.output;
    return std::string(absl::StripAsciiWhitespace(submitted.output));
  }

  testing::TemporaryFolder data_;
};

TEST_F(SeveralHostsTest, TwoHostsOfTwoRanksEqualOneHostOfFourStepByStep) {
  // 24 images, 4 ranks of one: 6 steps an epoch.
  const std::vector<std::string> settings = {
      "data.images_per_rank=1",    "schedule.epochs=4", "schedule.step_epochs=[]",
      "evaluation.every_epochs=0", "resources.nodes=2", "resources.ranks_per_node=2"};
  Hosts hosts(2, /*slots=*/2, data_.path());
  hosts.StartWorker(0);
  hosts.StartWorker(1);
  const std::string name = Submit(hosts, settings);
  const nlohmann::json job = hosts.AwaitEnd(name);
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);

  const Trace trace = hosts.CollectTrace();
  ASSERT_EQ(trace.size(), 24u);
  EXPECT_EQ(trace, TrainByHand(4, settings));
}

TEST_F(SeveralHostsTest, AJobMovesToAnotherHostWithoutATraceInItsLosses) {
  // 24 images, 2 ranks of two: 6 steps an epoch.
  const std::vector<std::string> settings = {"schedule.epochs=8", "schedule.step_epochs=[]",
                                             "evaluation.every_epochs=0",
                                             "checkpointing.every_steps=4"};
  Hosts hosts(3, /*slots=*/1, data_.path());
  hosts.StartWorker(0);
  hosts.StartWorker(1);
  const std::string name = Submit(hosts, settings);
  ASSERT_TRUE(testing::WaitUntil([&] { return hosts.Job(name).contains("newestCheckpoint"); },
                                 absl::Minutes(2)))
      << hosts.Job(name).dump(2);
  hosts.StartWorker(2);
  hosts.KillWorkerAndTrainers(1);
  const nlohmann::json job = hosts.AwaitEnd(name);
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);
  EXPECT_EQ(job["generation"], "2") << job.dump(2);
  EXPECT_FALSE(job.contains("restarts")) << "a lost node is no failure of the job";

  const Trace trace = hosts.CollectTrace();
  ASSERT_EQ(trace.size(), 48u);
  EXPECT_EQ(trace, TrainByHand(2, settings));
}

TEST_F(SeveralHostsTest, ADroppedLinkIsNamedAndTheJobGoesOn) {
  // 24 images, 2 ranks of two: 6 steps an epoch.
  const std::vector<std::string> settings = {"schedule.epochs=30", "schedule.step_epochs=[]",
                                             "evaluation.every_epochs=0",
                                             "checkpointing.every_steps=5"};
  Hosts hosts(3, /*slots=*/1, data_.path());
  hosts.StartWorker(1);
  hosts.StartWorker(2);
  const std::string name = Submit(hosts, settings);
  ASSERT_TRUE(testing::WaitUntil(
      [&] {
        const nlohmann::json job = hosts.Job(name);
        return job.contains("progress") && std::stoll(job["progress"].value("step", "0")) >= 60;
      },
      absl::Minutes(2)))
      << hosts.Job(name).dump(2);
  // Both still reach the coordinator.
  hosts.Cut(1, 2);
  const absl::Time cut = absl::Now();
  ASSERT_TRUE(testing::WaitUntil([&] { return hosts.Job(name)["state"] != "STATE_RUNNING"; },
                                 absl::Minutes(1)))
      << hosts.Job(name).dump(2);
  EXPECT_LT(absl::Now() - cut, absl::Seconds(30));
  hosts.Mend(1);
  const std::string reason = hosts.Job(name)["firstFailure"]["message"].get<std::string>();
  EXPECT_THAT(reason, ::testing::HasSubstr("hang: no rank made a step for "));
  EXPECT_THAT(reason, ::testing::HasSubstr("link nodes/w1 - nodes/w2: nodes/w"));
  EXPECT_THAT(reason, ::testing::HasSubstr("connection timed out"));

  const nlohmann::json job = hosts.AwaitEnd(name);
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);
  EXPECT_EQ(job["generation"], "2") << job.dump(2);
  const Trace trace = hosts.CollectTrace();
  ASSERT_EQ(trace.size(), 180u);
  EXPECT_EQ(trace, TrainByHand(2, settings));
}

}  // namespace
}  // namespace muster
