#pragma once

#include <string>
#include <vector>

namespace muster::testing {

// Hosts that share nothing but a switch: network namespaces, each with one interface and an address
// of its own in 10.231.0.0/24. Needs root and iproute2. Removed with the object; processes inside
// must have ended by then.
class NetworkNamespaces {
 public:
  // Whether this process may make namespaces here.
  static bool Available();

  // Throws std::runtime_error with ip's message.
  explicit NetworkNamespaces(int hosts);
  ~NetworkNamespaces();
  NetworkNamespaces(const NetworkNamespaces&) = delete;
  NetworkNamespaces& operator=(const NetworkNamespaces&) = delete;

  static std::string Address(int host);
  // The command line that runs `arguments` on the host; the process is the program itself.
  std::vector<std::string> On(int host, const std::vector<std::string>& arguments) const;

 private:
  std::string Name(int host) const;
  void Remove();

  std::string prefix_;
  int hosts_;
};

}  // namespace muster::testing
