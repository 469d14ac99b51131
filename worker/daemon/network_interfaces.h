#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace muster::worker {

// An IP address of one of the machine's network interfaces; an interface may have several.
struct InterfaceAddress {
  // "eth0"
  std::string interface;
  // "10.0.0.4", "fd00::4"
  std::string ip;
  bool loopback = false;
};

// Of the interfaces that are up, in the system's order. Link-local IPv6 addresses, which mean
// nothing without their interface, are left out.
std::vector<InterfaceAddress> ListInterfaceAddresses();

// Where the ranks of a job meet, out of `all`: the interface `wanted`, or, when that is empty, the
// one that has `node_address` (any address of 127.0.0.0/8 belongs to the loopback interface). A job
// that is `alone` on its node stays on loopback, unless it wants an interface. Of several addresses
// one of node_address's family is taken.
//
// InvalidArgument when there is no interface `wanted`, FailedPrecondition when none has the
// address; both name the node and what it has.
absl::StatusOr<InterfaceAddress> ChooseInterface(const std::vector<InterfaceAddress>& all,
                                                 const std::string& wanted,
                                                 const std::string& node_address, bool alone,
                                                 const std::string& node);

}  // namespace muster::worker
