// What is found out about the network between the nodes before a job's ranks start. Hosts are
// network namespaces; the trainer is a script that writes down its environment.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "tests/support/host_cluster.h"
#include "tests/support/shared_data.h"
#include <nlohmann/json.hpp>

namespace muster {
namespace {

using ::testing::AllOf;
using testing::Finished;
using ::testing::HasSubstr;
using testing::HostCluster;
using testing::NetworkNamespaces;

// Workers w1 and w2.
class NetworkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!NetworkNamespaces::Available()) GTEST_SKIP() << "no right to make network namespaces";
    hosts_ = std::make_unique<HostCluster>(3);
    for (const char* file : {"annotations/instances_train.json", "annotations/instances_val.json",
                             "images/train.zip", "images/val.zip"}) {
      const std::filesystem::path path = hosts_->folder() / "data/shapes" / file;
      std::filesystem::create_directories(path.parent_path());
      std::ofstream(path) << "x";
    }
    const std::filesystem::path trainer = hosts_->folder() / "muster-trainer";
    std::ofstream(trainer) << "#!/bin/sh\nenv > " << hosts_->folder().string() << "/env-$RANK\n";
    chmod(trainer.c_str(), 0755);
    for (const int host : {1, 2}) {
      hosts_->StartWorker(host, {"--slots", "1", "--data-root", hosts_->folder() / "data",
                                 "--trainer", trainer, "--label", "rack=r1"});
    }
  }

  // Of a job over both hosts: what there is of it once it has ended or failed to prepare.
  nlohmann::json Train(const std::vector<std::string>& settings = {}) const {
    std::vector<std::string> arguments = {
        "submit", testing::SourceFolder() / "configs/quick/demo.textproto",
        "--set",  "resources.nodes=2",
        "--set",  "resources.max_restarts=0"};
    for (const std::string& setting : settings) {
      arguments.insert(arguments.end(), {"--set", setting});
    }
    const Finished submitted = hosts_->Muster(arguments);
    EXPECT_EQ(submitted.exit_code, 0) << submitted.output;
    const std::string name(absl::StripAsciiWhitespace(submitted.output));
    hosts_->Muster({"watch", name});
    return hosts_->Job(name);
  }
  // What the firewall of a host does with what others begin.
  void Filter(int host, const std::string& rule) const {
    hosts_->Nft(host,
                absl::StrCat("add table inet t; add chain inet t in { type filter hook input "
                             "priority 0 ; }; add rule inet t in tcp flags & (syn|ack) == syn ",
                             rule));
  }
  std::string EnvironmentOf(int rank) const {
    std::ostringstream text;
    text << std::ifstream(hosts_->folder() / absl::StrCat("env-", rank)).rdbuf();
    return text.str();
  }

  std::unique_ptr<HostCluster> hosts_;
};

TEST_F(NetworkTest, TheInterfaceBetweenTheNodesIsPinnedAndShown) {
  const nlohmann::json job = Train();
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);
  EXPECT_EQ(job["environment"]["NCCL_SOCKET_IFNAME"], "=eth0");
  EXPECT_EQ(job["environment"]["GLOO_SOCKET_IFNAME"], "eth0");
  EXPECT_THAT(hosts_->Muster({"describe", job["name"]}).output,
              HasSubstr("NCCL_SOCKET_IFNAME==eth0"));
  for (int rank : {0, 1}) {
    EXPECT_THAT(EnvironmentOf(rank), AllOf(HasSubstr("\nNCCL_SOCKET_IFNAME==eth0\n"),
                                           HasSubstr("MUSTER_NODE_ADDRESS=10.231.0."),
                                           HasSubstr("MASTER_ADDR=10.231.0.")));
  }
  EXPECT_THAT(hosts_->Muster({"nodes"}).output, HasSubstr("rack=r1"));
}

TEST_F(NetworkTest, AJobOnOneNodeStaysOnItsLoopback) {
  const nlohmann::json job = Train({"resources.nodes=1"});
  ASSERT_EQ(job["state"], "STATE_SUCCEEDED") << job.dump(2);
  EXPECT_THAT(EnvironmentOf(0),
              AllOf(HasSubstr("\nNCCL_SOCKET_IFNAME==lo\n"), HasSubstr("MASTER_ADDR=127.0.0.1\n")));
}

TEST_F(NetworkTest, ALinkThatIsBlockedIsNamed) {
  Filter(1, "ip saddr 10.231.0.3 drop");
  const nlohmann::json job = Train();
  EXPECT_EQ(job["state"], "STATE_FAILED") << job.dump(2);
  EXPECT_THAT(job["stateReason"].get<std::string>(),
              AllOf(HasSubstr("nodes/w2 (eth0 10.231.0.3) cannot reach nodes/w1 at 10.231.0.2:"),
                    HasSubstr("connection timed out; open TCP between the nodes")));
}

TEST_F(NetworkTest, AFirewallThatOpensOnlyAPartOfThePortsIsNoticed) {
  // Linux's range is 32768 to 60999: all but its last quarter and a bit.
  Filter(1, "ip saddr 10.231.0.3 tcp dport 53000-60999 reject with tcp reset");
  const nlohmann::json job = Train();
  EXPECT_EQ(job["state"], "STATE_FAILED") << job.dump(2);
  EXPECT_THAT(job["stateReason"].get<std::string>(),
              ::testing::ContainsRegex("cannot reach nodes/w1 at 10\\.231\\.0\\.2:"
                                       "5[3-9][0-9][0-9][0-9]: connection refused|"
                                       "cannot reach nodes/w1 at 10\\.231\\.0\\.2:"
                                       "60[0-9][0-9][0-9]: connection refused"));
}

TEST_F(NetworkTest, AnInterfaceThatIsNotThereIsNamed) {
  const nlohmann::json job = Train({"distributed.interface=ib0"});
  EXPECT_EQ(job["state"], "STATE_FAILED") << job.dump(2);
  EXPECT_THAT(
      job["stateReason"].get<std::string>(),
      HasSubstr("has no interface 'ib0' with an IP address that is up; it has lo 127.0.0.1, "
                "eth0 10.231.0."));
}

}  // namespace
}  // namespace muster
