// What is found out about the network between the nodes before a job's ranks start. Hosts are
// network namespaces; the trainer is a script that writes down its environment.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "tests/support/network_namespaces.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include <nlohmann/json.hpp>

namespace muster {
namespace {

using ::testing::AllOf;
using testing::Finished;
using ::testing::HasSubstr;
using testing::NetworkNamespaces;
using testing::Process;
using testing::ProgramFolder;

// The coordinator on host 0, workers w1 and w2 on hosts 1 and 2.
class NetworkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!NetworkNamespaces::Available()) GTEST_SKIP() << "no right to make network namespaces";
    network_ = std::make_unique<NetworkNamespaces>(3);
    for (const char* file : {"annotations/instances_train.json", "annotations/instances_val.json",
                             "images/train.zip", "images/val.zip"}) {
      const std::filesystem::path path = folder_.path() / "data/shapes" / file;
      std::filesystem::create_directories(path.parent_path());
      std::ofstream(path) << "x";
    }
    const std::filesystem::path trainer = folder_.path() / "muster-trainer";
    std::ofstream(trainer) << "#!/bin/sh\nenv > " << folder_.path().string() << "/env-$RANK\n";
    chmod(trainer.c_str(), 0755);

    const std::filesystem::path addresses = folder_.path() / "addresses";
    coordinator_ = Start(
        0, {"muster-coordinator", "--listen", Coordinator(), "--http", "127.0.0.1:0", "--store",
            folder_.path() / "store.sqlite", "--address-file", addresses, "--insecure-network"});
    ASSERT_TRUE(
        testing::WaitUntil([&] { return std::filesystem::exists(addresses); }, absl::Seconds(20)))
        << coordinator_->Output();
    for (int host : {1, 2}) {
      const std::string name = absl::StrCat("w", host);
      workers_[host] =
          Start(host, {"muster-worker", "--coordinator", Coordinator(), "--name", name, "--slots",
                       "1", "--state-dir", folder_.path() / name, "--data-root",
                       folder_.path() / "data", "--trainer", trainer, "--label", "rack=r1"});
      ASSERT_TRUE(testing::WaitUntil(
          [&] { return Muster({"nodes"}).output.find(name) != std::string::npos; },
          absl::Seconds(20)))
          << workers_[host]->Output();
    }
  }
  void TearDown() override {
    workers_.clear();
    testing::KillProcessesWith(folder_.path().string() + "/");
  }

  static std::string Coordinator() { return NetworkNamespaces::Address(0) + ":7070"; }
  std::unique_ptr<Process> Start(int host, std::vector<std::string> arguments) {
    const std::filesystem::path log = folder_.path() / absl::StrCat(arguments[0], host, ".log");
    arguments[0] = ProgramFolder() / arguments[0];
    return std::make_unique<Process>(Process::Options{network_->On(host, arguments), {}, log});
  }
  Finished Muster(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), ProgramFolder() / "muster");
    return testing::Run(network_->On(0, arguments), absl::Minutes(1),
                        {"MUSTER_COORDINATOR=" + Coordinator()});
  }
  // Of a job over both hosts: its name, once it has ended or, with that, failed to prepare.
  std::string Train(const std::vector<std::string>& settings = {}) const {
    std::vector<std::string> arguments = {
        "submit", testing::SourceFolder() / "configs/quick/demo.textproto",
        "--set",  "resources.nodes=2",
        "--set",  "resources.max_restarts=0"};
    for (const std::string& setting : settings) {
      arguments.insert(arguments.end(), {"--set", setting});
    }
    const Finished submitted = Muster(arguments);
    EXPECT_EQ(submitted.exit_code, 0) << submitted.output;
    std::string name(absl::StripAsciiWhitespace(submitted.output));
    Muster({"watch", name});
    return name;
  }
  nlohmann::json Job(const std::string& name) const {
    return nlohmann::json::parse(Muster({"describe", name, "--json"}).output);
  }
  // What the firewall of a host does with what others begin.
  void Filter(int host, const std::string& rule) const {
    const Finished set = testing::Run(
        network_->On(host, {"nft", absl::StrCat("add table inet t; add chain inet t in { type "
                                                "filter hook input priority 0 ; }; add rule inet t "
                                                "in tcp flags & (syn|ack) == syn ",
                                                rule)}),
        absl::Seconds(20));
    ASSERT_EQ(set.exit_code, 0) << set.output;
  }
  std::string EnvironmentOf(int rank) const {
    std::ostringstream text;
    text << std::ifstream(folder_.path() / absl::StrCat("env-", rank)).rdbuf();
    return text.str();
  }

  const testing::TemporaryFolder folder_;
  std::unique_ptr<NetworkNamespaces> network_;
  std::unique_ptr<Process> coordinator_;
  std::map<int, std::unique_ptr<Process>> workers_;
};

TEST_F(NetworkTest, TheInterfaceBetweenTheNodesIsPinnedAndShown) {
  const std::string name = Train();
  const nlohmann::json job = Job(name);
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);
  EXPECT_EQ(job["environment"]["NCCL_SOCKET_IFNAME"], "=eth0");
  EXPECT_EQ(job["environment"]["GLOO_SOCKET_IFNAME"], "eth0");
  EXPECT_THAT(Muster({"describe", name}).output, HasSubstr("NCCL_SOCKET_IFNAME==eth0"));
  for (int rank : {0, 1}) {
    EXPECT_THAT(EnvironmentOf(rank), AllOf(HasSubstr("\nNCCL_SOCKET_IFNAME==eth0\n"),
                                           HasSubstr("MUSTER_NODE_ADDRESS=10.231.0."),
                                           HasSubstr("MASTER_ADDR=10.231.0.")));
  }
  EXPECT_THAT(Muster({"nodes"}).output, HasSubstr("rack=r1"));
}

TEST_F(NetworkTest, AJobOnOneNodeStaysOnItsLoopback) {
  const nlohmann::json job = Job(Train({"resources.nodes=1"}));
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);
  EXPECT_THAT(EnvironmentOf(0),
              AllOf(HasSubstr("\nNCCL_SOCKET_IFNAME==lo\n"), HasSubstr("MASTER_ADDR=127.0.0.1\n")));
}

TEST_F(NetworkTest, ALinkThatIsBlockedIsNamed) {
  Filter(1, "ip saddr 10.231.0.3 drop");
  const nlohmann::json job = Job(Train());
  EXPECT_EQ(job["state"], "STATE_FAILED") << job.dump(2);
  EXPECT_THAT(job["stateReason"].get<std::string>(),
              AllOf(HasSubstr("nodes/w2 (eth0 10.231.0.3) cannot reach nodes/w1 at 10.231.0.2:"),
                    HasSubstr("connection timed out; open TCP between the nodes")));
}

TEST_F(NetworkTest, AFirewallThatOpensOnlyAPartOfThePortsIsNoticed) {
  // Linux's range is 32768 to 60999: all but its last quarter and a bit.
  Filter(1, "ip saddr 10.231.0.3 tcp dport 53000-60999 reject with tcp reset");
  const nlohmann::json job = Job(Train());
  EXPECT_EQ(job["state"], "STATE_FAILED") << job.dump(2);
  EXPECT_THAT(job["stateReason"].get<std::string>(),
              ::testing::ContainsRegex("cannot reach nodes/w1 at 10\\.231\\.0\\.2:"
                                       "5[3-9][0-9][0-9][0-9]: connection refused|"
                                       "cannot reach nodes/w1 at 10\\.231\\.0\\.2:"
                                       "60[0-9][0-9][0-9]: connection refused"));
}

TEST_F(NetworkTest, AnInterfaceThatIsNotThereIsNamed) {
  const nlohmann::json job = Job(Train({"distributed.interface=ib0"}));
  EXPECT_EQ(job["state"], "STATE_FAILED") << job.dump(2);
  EXPECT_THAT(
      job["stateReason"].get<std::string>(),
      HasSubstr("has no interface 'ib0' with an IP address that is up; it has lo 127.0.0.1, "
                "eth0 10.231.0."));
}

}  // namespace
}  // namespace muster
