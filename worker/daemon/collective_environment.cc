#include "worker/daemon/collective_environment.h"

#include <system_error>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/files.h"
#include "common/config/collective_variables.h"

namespace muster::worker {
namespace {

constexpr char kPlugin[] = "libnccl-net.so";
// The driver of the interface that Hyper-V gives a virtual machine.
constexpr char kSyntheticDriver[] = "hv_netvsc";

std::string ReadWord(const std::filesystem::path& file) {
  const absl::StatusOr<std::string> text = base::ReadFile(file);
  return text.ok() ? std::string(absl::StripAsciiWhitespace(*text)) : "";
}

// Whether an interface of the RDMA device is the hardware side of a synthetic one.
bool IsAcceleratedNetworking(const std::filesystem::path& device) {
  std::error_code error;
  for (const auto& interface : std::filesystem::directory_iterator(device / "device/net", error)) {
    const std::filesystem::path driver =
        std::filesystem::canonical(interface.path() / "master/device/driver", error);
    if (!error && driver.filename() == kSyntheticDriver) return true;
  }
  return false;
}

bool IsUsable(const std::filesystem::path& device) {
  std::error_code error;
  for (const auto& port : std::filesystem::directory_iterator(device / "ports", error)) {
    // "4: ACTIVE"
    if (!absl::StartsWith(ReadWord(port.path() / "state"), "4")) continue;
    if (ReadWord(port.path() / "link_layer") == "InfiniBand") return true;
    if (!IsAcceleratedNetworking(device)) return true;
  }
  return false;
}

// The cache holds the libraries' names as strings that end with NUL.
bool LoaderKnows(const std::string& library, const std::filesystem::path& loader_cache) {
  const absl::StatusOr<std::string> cache = base::ReadFile(loader_cache);
  if (!cache.ok()) return false;
  const std::string entry = library + '\0';
  for (size_t at = cache->find(entry); at != std::string::npos; at = cache->find(entry, at + 1)) {
    if (at == 0 || (*cache)[at - 1] == '\0' || (*cache)[at - 1] == '/') return true;
  }
  return false;
}

}  // namespace

NetworkHardware FindNetworkHardware(const std::string& library_path,
                                    const std::filesystem::path& infiniband,
                                    const std::filesystem::path& loader_cache) {
  NetworkHardware hardware;
  std::error_code error;
  for (const auto& device : std::filesystem::directory_iterator(infiniband, error)) {
    if (IsUsable(device.path())) hardware.rdma = true;
  }
  hardware.nccl_plugin = LoaderKnows(kPlugin, loader_cache);
  for (absl::string_view folder : absl::StrSplit(library_path, ':', absl::SkipEmpty())) {
    if (std::filesystem::exists(std::filesystem::path(std::string(folder)) / kPlugin, error)) {
      hardware.nccl_plugin = true;
    }
  }
  return hardware;
}

Environment CollectiveVariables(const std::vector<std::string>& variables) {
  Environment found;
  for (const std::string& variable : variables) {
    const size_t equals = variable.find('=');
    if (equals != std::string::npos && config::IsCollectiveVariable(variable)) {
      found[variable.substr(0, equals)] = variable.substr(equals + 1);
    }
  }
  return found;
}

Environment CollectiveEnvironment(const InterfaceAddress& interface,
                                  const NetworkHardware& hardware, const Environment& inherited,
                                  const config::v1::Distributed& distributed) {
  Environment environment;
  if (!hardware.rdma) environment.emplace("NCCL_IB_DISABLE", "1");
  if (!hardware.nccl_plugin) environment.emplace("NCCL_NET_PLUGIN", "none");
  for (const auto& [name, value] : inherited) environment[name] = value;
  environment["GLOO_SOCKET_IFNAME"] = interface.interface;
  // Without the '=' NCCL takes the name for a prefix: eth1 would also mean eth10.
  environment["NCCL_SOCKET_IFNAME"] = absl::StrCat("=", interface.interface);
  for (const auto& [name, value] : distributed.environment()) environment[name] = value;
  return environment;
}

}  // namespace muster::worker
