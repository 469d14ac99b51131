#include "worker/daemon/network_interfaces.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace muster::worker {
namespace {

bool IsIpv6(const std::string& ip) { return absl::StrContains(ip, ':'); }

// "eth0 10.0.0.4, lo 127.0.0.1"
std::string Names(const std::vector<InterfaceAddress>& all) {
  if (all.empty()) return "no interface that is up";
  return absl::StrJoin(all, ", ", [](std::string* out, const InterfaceAddress& one) {
    absl::StrAppend(out, one.interface, " ", one.ip);
  });
}

}  // namespace

std::vector<InterfaceAddress> ListInterfaceAddresses() {
  std::vector<InterfaceAddress> all;
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return all;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> list(first, freeifaddrs);
  for (const ifaddrs* entry = list.get(); entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    char text[INET6_ADDRSTRLEN] = {};
    if (entry->ifa_addr->sa_family == AF_INET) {
      const auto* v4 = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
      inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
    } else if (entry->ifa_addr->sa_family == AF_INET6) {
      const auto* v6 = reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr);
      if (IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr)) continue;
      inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
    } else {
      continue;
    }
    all.push_back({entry->ifa_name, text, (entry->ifa_flags & IFF_LOOPBACK) != 0});
  }
  return all;
}

absl::StatusOr<InterfaceAddress> ChooseInterface(const std::vector<InterfaceAddress>& all,
                                                 const std::string& wanted,
                                                 const std::string& node_address, bool alone,
                                                 const std::string& node) {
  const bool ipv6 = IsIpv6(node_address);
  const auto find = [&](const auto& fits) -> const InterfaceAddress* {
    const InterfaceAddress* other_family = nullptr;
    for (const InterfaceAddress& one : all) {
      if (!fits(one)) continue;
      if (IsIpv6(one.ip) == ipv6) return &one;
      if (other_family == nullptr) other_family = &one;
    }
    return other_family;
  };
  if (!wanted.empty()) {
    const auto* named = find([&](const InterfaceAddress& one) { return one.interface == wanted; });
    if (named != nullptr) return *named;
    return absl::InvalidArgumentError(
        absl::StrCat("distributed.interface: node ", node, " has no interface '", wanted,
                     "' with an IP address that is up; it has ", Names(all)));
  }
  const auto* loopback = find([](const InterfaceAddress& one) { return one.loopback; });
  if (alone && loopback != nullptr) return *loopback;
  const auto* holder = find([&](const InterfaceAddress& one) { return one.ip == node_address; });
  if (holder != nullptr) return *holder;
  if (absl::StartsWith(node_address, "127.") && loopback != nullptr) {
    return InterfaceAddress{loopback->interface, node_address, true};
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "no interface of node ", node, " has the address ", node_address,
      " that it is known by; start its worker with --advertise-address and one of ", Names(all)));
}

}  // namespace muster::worker
