#include "worker/daemon/network_interfaces.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace muster::worker {
namespace {

using ::testing::HasSubstr;

const std::vector<InterfaceAddress> kTwoNetworks = {{"lo", "127.0.0.1", true},
                                                    {"eth0", "10.0.0.4", false},
                                                    {"eth0", "fd00::4", false},
                                                    {"ib0", "fd01::4", false},
                                                    {"ib0", "172.16.0.4", false}};

absl::StatusOr<InterfaceAddress> Choose(const std::string& wanted, const std::string& address,
                                        bool alone = false) {
  return ChooseInterface(kTwoNetworks, wanted, address, alone, "a");
}

TEST(NetworkInterfacesTest, TheMachinesOwnListHasLoopback) {
  const std::vector<InterfaceAddress> all = ListInterfaceAddresses();
  EXPECT_TRUE(std::any_of(all.begin(), all.end(), [](const InterfaceAddress& one) {
    return one.loopback && one.interface == "lo" && one.ip == "127.0.0.1";
  }));
}

TEST(NetworkInterfacesTest, TheOneThatHoldsTheAddressTowardsThePeers) {
  EXPECT_EQ(Choose("", "10.0.0.4")->interface, "eth0");
  EXPECT_EQ(Choose("", "fd01::4")->interface, "ib0");
  const auto other_loopback = Choose("", "127.0.0.7");
  ASSERT_TRUE(other_loopback.ok());
  EXPECT_EQ(other_loopback->interface, "lo");
  EXPECT_EQ(other_loopback->ip, "127.0.0.7");
}

TEST(NetworkInterfacesTest, TheJobsWishWinsInTheAddressesFamily) {
  EXPECT_EQ(Choose("ib0", "10.0.0.4")->ip, "172.16.0.4");
  EXPECT_EQ(Choose("ib0", "fd00::4")->ip, "fd01::4");
  EXPECT_EQ(Choose("ib0", "10.0.0.4", /*alone=*/true)->ip, "172.16.0.4");
}

TEST(NetworkInterfacesTest, AJobAloneOnItsNodeStaysOnLoopback) {
  EXPECT_EQ(Choose("", "10.0.0.4", /*alone=*/true)->interface, "lo");
  // A namespace whose loopback is down.
  const auto without = ChooseInterface({{"eth0", "10.0.0.4", false}}, "", "10.0.0.4", true, "a");
  ASSERT_TRUE(without.ok());
  EXPECT_EQ(without->interface, "eth0");
}

TEST(NetworkInterfacesTest, ErrorsNameTheNodeAndWhatItHas) {
  const absl::Status no_interface = Choose("eth7", "10.0.0.4").status();
  EXPECT_TRUE(absl::IsInvalidArgument(no_interface));
  EXPECT_THAT(no_interface.message(),
              HasSubstr("distributed.interface: node a has no interface 'eth7'"));
  EXPECT_THAT(no_interface.message(), HasSubstr("eth0 10.0.0.4"));
  const absl::Status no_address = Choose("", "20.1.2.3").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(no_address));
  EXPECT_THAT(no_address.message(), HasSubstr("--advertise-address"));
}

}  // namespace
}  // namespace muster::worker
