#include "tests/support/network_namespaces.h"

#include <unistd.h>

#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "tests/support/process.h"

namespace muster::testing {
namespace {

Finished TryIp(const std::string& arguments) {
  std::vector<std::string> words = absl::StrSplit(arguments, ' ');
  words.insert(words.begin(), "ip");
  return Run(words, absl::Seconds(20));
}

void Ip(const std::string& arguments) {
  const Finished finished = TryIp(arguments);
  if (finished.exit_code != 0) {
    throw std::runtime_error(absl::StrCat("ip ", arguments, ": ", finished.output));
  }
}

}  // namespace

bool NetworkNamespaces::Available() {
  const std::string name = absl::StrCat("muster-", getpid(), "-probe");
  if (geteuid() != 0 || TryIp("netns add " + name).exit_code != 0) return false;
  return TryIp("netns del " + name).exit_code == 0;
}

NetworkNamespaces::NetworkNamespaces(int hosts)
    : prefix_(absl::StrCat("muster-", getpid(), "-")), hosts_(hosts) {
  const std::string network = prefix_ + "switch";
  try {
    Ip("netns add " + network);
    Ip(absl::StrCat("-n ", network, " link add switch type bridge"));
    Ip(absl::StrCat("-n ", network, " link set switch up"));
    for (int host = 0; host < hosts_; ++host) {
      const std::string port = absl::StrCat("port", host);
      Ip("netns add " + Name(host));
      Ip(absl::StrCat("link add eth0 netns ", Name(host), " type veth peer name ", port, " netns ",
                      network));
      Ip(absl::StrCat("-n ", network, " link set ", port, " master switch up"));
      Ip(absl::StrCat("-n ", Name(host), " addr add ", Address(host), "/24 dev eth0"));
      Ip(absl::StrCat("-n ", Name(host), " link set eth0 up"));
      Ip(absl::StrCat("-n ", Name(host), " link set lo up"));
    }
  } catch (...) {
    Remove();
    throw;
  }
}

NetworkNamespaces::~NetworkNamespaces() { Remove(); }

void NetworkNamespaces::Remove() {
  for (int host = 0; host < hosts_; ++host) TryIp("netns del " + Name(host));
  TryIp("netns del " + prefix_ + "switch");
}

std::string NetworkNamespaces::Name(int host) const { return absl::StrCat(prefix_, host); }

std::string NetworkNamespaces::Address(int host) { return absl::StrCat("10.231.0.", host + 1); }

std::vector<std::string> NetworkNamespaces::On(int host,
                                               const std::vector<std::string>& arguments) const {
  std::vector<std::string> all = {"ip", "netns", "exec", Name(host)};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return all;
}

}  // namespace muster::testing
