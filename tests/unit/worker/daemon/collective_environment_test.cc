#include "worker/daemon/collective_environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/fixtures.h"

namespace muster::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

// Folders in the form of the kernel's.
class CollectiveEnvironmentTest : public ::testing::Test {
 protected:
  std::filesystem::path infiniband() const { return folder_.path() / "class/infiniband"; }
  std::filesystem::path cache() const { return folder_.path() / "ld.so.cache"; }
  NetworkHardware Find(const std::string& library_path = "") const {
    return FindNetworkHardware(library_path, infiniband(), cache());
  }

  void AddDevice(const std::string& name, const std::string& state, const std::string& layer) {
    WriteText(infiniband() / name / "ports/1/state", state + "\n");
    WriteText(infiniband() / name / "ports/1/link_layer", layer + "\n");
  }
  // An interface of the device, below one that `driver` drives.
  void PutBelow(const std::string& name, const std::string& driver) {
    const std::filesystem::path master = folder_.path() / "net/eth0";
    std::filesystem::create_directories(folder_.path() / "drivers" / driver);
    std::filesystem::create_directories(master / "device");
    std::filesystem::create_symlink(folder_.path() / "drivers" / driver, master / "device/driver");
    const std::filesystem::path interface = infiniband() / name / "device/net/enP1s1";
    std::filesystem::create_directories(interface);
    std::filesystem::create_symlink(master, interface / "master");
  }

  testing::TemporaryFolder folder_;
};

TEST_F(CollectiveEnvironmentTest, AnActiveInfinibandPortCounts) {
  EXPECT_FALSE(Find().rdma);
  AddDevice("mlx5_ib0", "1: DOWN", "InfiniBand");
  EXPECT_FALSE(Find().rdma);
  AddDevice("mlx5_ib1", "4: ACTIVE", "InfiniBand");
  EXPECT_TRUE(Find().rdma);
}

TEST_F(CollectiveEnvironmentTest, AcceleratedNetworkingDoesNot) {
  AddDevice("mlx5_an0", "4: ACTIVE", "Ethernet");
  PutBelow("mlx5_an0", "hv_netvsc");
  EXPECT_FALSE(Find().rdma);
}

TEST_F(CollectiveEnvironmentTest, RoceDoesAlsoBelowABond) {
  AddDevice("mlx5_0", "4: ACTIVE", "Ethernet");
  EXPECT_TRUE(Find().rdma);
  PutBelow("mlx5_0", "other");
  EXPECT_TRUE(Find().rdma);
}

TEST_F(CollectiveEnvironmentTest, ThePluginIsLookedForWhereTheLoaderLooks) {
  using std::string_literals::operator""s;
  WriteText(cache(), "glibc-ld.so.cache1.1\0libnccl-net.so.1\0/usr/lib/libnccl-net.so.1\0"s);
  EXPECT_FALSE(Find().nccl_plugin);
  EXPECT_FALSE(Find("/nowhere::" + folder_.path().string()).nccl_plugin);
  WriteText(folder_.path() / "libnccl-net.so", "");
  EXPECT_TRUE(Find("/nowhere::" + folder_.path().string()).nccl_plugin);
  WriteText(cache(), "glibc-ld.so.cache1.1\0libnccl-net.so\0/opt/libnccl-net.so\0"s);
  EXPECT_TRUE(Find().nccl_plugin);
}

TEST_F(CollectiveEnvironmentTest, WithoutHardwareBothAreSwitchedOff) {
  const Environment environment = CollectiveEnvironment({"eth0", "10.0.0.4", false}, {}, {}, {});
  EXPECT_THAT(environment,
              ElementsAre(Pair("GLOO_SOCKET_IFNAME", "eth0"), Pair("NCCL_IB_DISABLE", "1"),
                          Pair("NCCL_NET_PLUGIN", "none"), Pair("NCCL_SOCKET_IFNAME", "=eth0")));
}

TEST_F(CollectiveEnvironmentTest, TheJobWinsOverTheMachineOverWhatIsFound) {
  NetworkHardware hardware;
  hardware.rdma = true;
  hardware.nccl_plugin = true;
  EXPECT_THAT(
      CollectiveEnvironment({"ib0", "10.0.0.4", false}, hardware, {}, {}),
      UnorderedElementsAre(Pair("GLOO_SOCKET_IFNAME", "ib0"), Pair("NCCL_SOCKET_IFNAME", "=ib0")));
  config::v1::Distributed distributed;
  (*distributed.mutable_environment())["NCCL_DEBUG"] = "INFO";
  (*distributed.mutable_environment())["NCCL_IB_DISABLE"] = "0";
  const Environment inherited = {
      {"NCCL_DEBUG", "WARN"}, {"NCCL_NET_PLUGIN", "aws"}, {"GLOO_SOCKET_IFNAME", "docker0"}};
  EXPECT_THAT(CollectiveEnvironment({"eth0", "10.0.0.4", false}, {}, inherited, distributed),
              UnorderedElementsAre(Pair("GLOO_SOCKET_IFNAME", "eth0"),
                                   Pair("NCCL_SOCKET_IFNAME", "=eth0"), Pair("NCCL_DEBUG", "INFO"),
                                   Pair("NCCL_IB_DISABLE", "0"), Pair("NCCL_NET_PLUGIN", "aws")));
}

TEST_F(CollectiveEnvironmentTest, OnlyTheCollectivesVariablesAreTaken) {
  EXPECT_THAT(CollectiveVariables({"PATH=/bin", "NCCL_DEBUG=INFO", "TORCH_NCCL_BLOCKING_WAIT=a=b",
                                   "GLOO_X=", "NCCL_BROKEN", "MY_NCCL_X=1"}),
              ElementsAre(Pair("GLOO_X", ""), Pair("NCCL_DEBUG", "INFO"),
                          Pair("TORCH_NCCL_BLOCKING_WAIT", "a=b")));
  EXPECT_THAT(CollectiveVariables({""}), IsEmpty());
}

}  // namespace
}  // namespace muster::worker
