// Jobs over hosts with addresses of their own: network namespaces joined by a switch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

#include "tests/support/host_cluster.h"
#include <nlohmann/json.hpp>

namespace muster {
namespace {

using testing::Finished;
using testing::HostCluster;
using testing::NetworkNamespaces;
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

// All packets between the two are dropped, without a word.
void Cut(const HostCluster& hosts, int host, int other) {
  const std::string peer = NetworkNamespaces::Address(other);
  hosts.Nft(host,
            absl::StrCat("add table inet cut; add chain inet cut in { type filter hook input "
                         "priority 0 ; }; add rule inet cut in ip saddr ",
                         peer,
                         " drop; add chain inet cut out { type filter hook output priority 0 ; }; "
                         "add rule inet cut out ip daddr ",
                         peer, " drop"));
}
void Mend(const HostCluster& hosts, int host) { hosts.Nft(host, "delete table inet cut"); }

// The job at its end.
nlohmann::json AwaitEnd(const HostCluster& hosts, const std::string& name) {
  return hosts.WaitForJob(name, [](const nlohmann::json&) { return false; });
}

// Of all hosts.
Trace CollectTrace(const HostCluster& hosts) {
  Trace trace;
  for (const std::filesystem::path& folder : hosts.StateFolders()) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.path().filename() == "metrics.jsonl") AddTrace(entry.path(), &trace);
    }
  }
  return trace;
}

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

  void StartWorker(HostCluster* hosts, int host, int slots = 1) const {
    hosts->StartWorker(host, {"--slots", absl::StrCat(slots), "--data-root", data_.path()});
  }

  static std::string Submit(const HostCluster& hosts, const std::vector<std::string>& settings) {
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
      "data.images_per_rank=1",    "schedule.epochs=2", "schedule.step_epochs=[]",
      "evaluation.every_epochs=0", "resources.nodes=2", "resources.ranks_per_node=2"};
  HostCluster hosts(2);
  StartWorker(&hosts, 0, /*slots=*/2);
  StartWorker(&hosts, 1, /*slots=*/2);
  const std::string name = Submit(hosts, settings);
  const nlohmann::json job = AwaitEnd(hosts, name);
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);

  const Trace trace = CollectTrace(hosts);
  ASSERT_EQ(trace.size(), 12u);
  EXPECT_EQ(trace, TrainByHand(4, settings));
}

TEST_F(SeveralHostsTest, AJobMovesToAnotherHostWithoutATraceInItsLosses) {
  // 24 images, 2 ranks of two: 6 steps an epoch.
  const std::vector<std::string> settings = {"schedule.epochs=5", "schedule.step_epochs=[]",
                                             "evaluation.every_epochs=0",
                                             "checkpointing.every_steps=4"};
  HostCluster hosts(3);
  for (const int host : {0, 1, 2}) StartWorker(&hosts, host);
  const std::string name = Submit(hosts, settings);
  const nlohmann::json running = hosts.WaitForJob(
      name, [](const nlohmann::json& job) { return job.contains("newestCheckpoint"); });
  ASSERT_EQ(running["ranks"].size(), 2u) << running.dump(2);
  const std::string victim = running["ranks"][1]["node"];
  hosts.KillWorkerAndTrainers(victim.back() - '0');
  const nlohmann::json job = AwaitEnd(hosts, name);
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);
  EXPECT_EQ(job["generation"], "2") << job.dump(2);
  EXPECT_FALSE(job.contains("restarts")) << "a lost node is no failure of the job";

  const Trace trace = CollectTrace(hosts);
  ASSERT_EQ(trace.size(), 30u);
  EXPECT_EQ(trace, TrainByHand(2, settings));
}

TEST_F(SeveralHostsTest, ADroppedLinkIsNamedAndTheJobGoesOn) {
  // 24 images, 2 ranks of two: 6 steps an epoch.
  const std::vector<std::string> settings = {"schedule.epochs=12", "schedule.step_epochs=[]",
                                             "evaluation.every_epochs=0",
                                             "checkpointing.every_steps=5"};
  HostCluster hosts(3);
  StartWorker(&hosts, 1);
  StartWorker(&hosts, 2);
  const std::string name = Submit(hosts, settings);
  // Enough for the coordinator to know the job's pace.
  const nlohmann::json steady = hosts.WaitForJob(name, [](const nlohmann::json& job) {
    return job.contains("progress") && std::stoll(job["progress"].value("step", "0")) >= 30;
  });
  ASSERT_EQ(steady["state"], "STATE_RUNNING") << steady.dump(2);
  // Both still reach the coordinator.
  Cut(hosts, 1, 2);
  const absl::Time cut = absl::Now();
  // In the meantime, as nobody else computes anything.
  std::future<Trace> by_hand =
      std::async(std::launch::async, [&] { return TrainByHand(2, settings); });
  const nlohmann::json hung = hosts.WaitForJob(
      name, [](const nlohmann::json& job) { return job["state"] != "STATE_RUNNING"; });
  EXPECT_LT(absl::Now() - cut, absl::Seconds(30));
  Mend(hosts, 1);
  const std::string reason = hung["firstFailure"]["message"];
  EXPECT_THAT(reason, ::testing::HasSubstr("hang: no rank made a step for "));
  EXPECT_THAT(reason, ::testing::HasSubstr("link nodes/w1 - nodes/w2: nodes/w"));
  EXPECT_THAT(reason, ::testing::HasSubstr("connection timed out"));

  const nlohmann::json job = AwaitEnd(hosts, name);
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);
  EXPECT_EQ(job["generation"], "2") << job.dump(2);
  const Trace trace = CollectTrace(hosts);
  ASSERT_EQ(trace.size(), 72u);
  EXPECT_EQ(trace, by_hand.get());
}

}  // namespace
}  // namespace muster
