#include "worker/dist/process_groups.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "common/base/status_macros.h"
#include "worker/dist/c10d_communicator.h"
#include "worker/dist/cuda_plugin.h"

namespace muster::dist {
namespace {

using Getter = std::function<const char*(const char*)>;

absl::StatusOr<int> ReadInt(const Getter& get, const char* name, int minimum, int maximum) {
  const char* text = get(name);
  if (text == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "environment variable ", name,
        " is not set: a rank of several needs it (the worker and train --ranks set it)"));
  }
  int value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < minimum || value > maximum) {
    return absl::InvalidArgumentError(absl::StrCat("environment variable ", name, "='", text,
                                                   "': must be a number in ", minimum, "..",
                                                   maximum));
  }
  return value;
}

std::chrono::milliseconds ToChrono(absl::Duration duration) {
  return absl::ToChronoMilliseconds(duration);
}

// Gloo's devices bind to the interface that has this address.
c10::intrusive_ptr<c10d::Backend> MakeGlooBackend(const char* name,
                                                  const c10::intrusive_ptr<c10d::Store>& store,
                                                  int rank, int world_size,
                                                  const std::string& node_address, int threads,
                                                  absl::Duration timeout) {
  auto options = c10d::ProcessGroupGloo::Options::create(ToChrono(timeout));
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(node_address));
  options->threads = threads;
  auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(
      c10::make_intrusive<c10d::PrefixStore>(name, store), rank, world_size, options);
  // The flight recorder's name for it.
  backend->setGroupDesc(name);
  return backend;
}

}  // namespace

absl::StatusOr<RankEnvironment> ReadRankEnvironment(const Getter& get) {
  RankEnvironment environment;
  const auto text = [&](const char* name) {
    const char* value = get(name);
    return std::string(value == nullptr ? "" : value);
  };
  environment.node_address = text("MUSTER_NODE_ADDRESS");
  if (get("WORLD_SIZE") == nullptr) {
    if (get("RANK") != nullptr) {
      return absl::InvalidArgumentError(
          "environment variable WORLD_SIZE is not set, but RANK is: set both or none");
    }
    return environment;
  }
  constexpr int kMaximum = std::numeric_limits<int>::max();
  MUSTER_ASSIGN_OR_RETURN(environment.world_size, ReadInt(get, "WORLD_SIZE", 1, 1 << 20));
  const int last_rank = environment.world_size - 1;
  MUSTER_ASSIGN_OR_RETURN(environment.rank, ReadInt(get, "RANK", 0, last_rank));
  // By hand, without the local variables, each rank is a node of its own.
  if (get("LOCAL_WORLD_SIZE") != nullptr) {
    MUSTER_ASSIGN_OR_RETURN(environment.local_world_size,
                            ReadInt(get, "LOCAL_WORLD_SIZE", 1, environment.world_size));
  }
  if (get("LOCAL_RANK") != nullptr) {
    MUSTER_ASSIGN_OR_RETURN(environment.local_rank,
                            ReadInt(get, "LOCAL_RANK", 0, environment.local_world_size - 1));
  }
  if (get("NODE_RANK") != nullptr) {
    MUSTER_ASSIGN_OR_RETURN(environment.node_rank, ReadInt(get, "NODE_RANK", 0, last_rank));
  }
  if (environment.world_size == 1) return environment;
  environment.master_address = text("MASTER_ADDR");
  if (environment.master_address.empty()) {
    return absl::InvalidArgumentError(
        "environment variable MASTER_ADDR is not set: it must be the IP of rank 0's node");
  }
  MUSTER_ASSIGN_OR_RETURN(const int port, ReadInt(get, "MASTER_PORT", 1, 65535));
  environment.master_port = static_cast<uint16_t>(port);
  if (environment.rank == 0 && get("MUSTER_MASTER_FD") != nullptr) {
    MUSTER_ASSIGN_OR_RETURN(environment.master_fd, ReadInt(get, "MUSTER_MASTER_FD", 0, kMaximum));
  }
  return environment;
}

absl::StatusOr<RankEnvironment> ReadRankEnvironment() {
  return ReadRankEnvironment([](const char* name) { return std::getenv(name); });
}

absl::StatusOr<std::string> AddressTowards(const std::string& peer_address) {
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* peer = nullptr;
  if (getaddrinfo(peer_address.c_str(), "9", &hints, &peer) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", peer_address, "' is not a numeric IP address: MASTER_ADDR must be one"));
  }
  // Connecting a datagram socket sends nothing: it only picks the route.
  const int fd = socket(peer->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_storage own = {};
  socklen_t own_size = sizeof(own);
  char text[INET6_ADDRSTRLEN + 20] = "";
  const bool found = fd >= 0 && connect(fd, peer->ai_addr, peer->ai_addrlen) == 0 &&
                     getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) == 0 &&
                     getnameinfo(reinterpret_cast<sockaddr*>(&own), own_size, text, sizeof(text),
                                 nullptr, 0, NI_NUMERICHOST) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  freeaddrinfo(peer);
  if (!found) {
    return absl::UnavailableError(absl::StrCat("no route to ", peer_address, ": ",
                                               std::strerror(error),
                                               "; set MUSTER_NODE_ADDRESS to this node's IP"));
  }
  return std::string(text);
}

ProcessGroups::ProcessGroups(std::unique_ptr<Communicator> control,
                             std::unique_ptr<Communicator> sync_batch_norm,
                             c10::intrusive_ptr<c10d::ProcessGroup> gradients)
    : control_(std::move(control)),
      sync_batch_norm_(std::move(sync_batch_norm)),
      gradients_(std::move(gradients)) {}

ProcessGroups::~ProcessGroups() = default;

absl::StatusOr<std::unique_ptr<ProcessGroups>> JoinProcessGroupsThrough(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size,
    const std::string& node_address, const ProcessGroupOptions& options) {
  const bool cuda = options.device.is_cuda();
  std::optional<CudaPlugin> plugin;
  if (cuda) {
    MUSTER_ASSIGN_OR_RETURN(plugin, RequireCudaDevice(options.device.index()));
  }
  if (world_size == 1) {
    return std::make_unique<ProcessGroups>(MakeSoleCommunicator(), MakeSoleCommunicator(), nullptr);
  }
  try {
    const auto make = [&](const char* name, int threads) {
      return MakeGlooBackend(name, store, rank, world_size, node_address, threads, options.timeout);
    };
    const auto make_on_device = [&](const char* name, int threads) {
      if (!cuda) return make(name, threads);
      auto backend = plugin->make_nccl_backend(c10::make_intrusive<c10d::PrefixStore>(name, store),
                                               rank, world_size, options.device,
                                               absl::ToInt64Milliseconds(options.timeout));
      backend->setGroupDesc(name);
      return backend;
    };
    auto control =
        std::make_unique<C10dCommunicator>("control", make("control", 1), at::Device(at::kCPU));
    auto sync_batch_norm = std::make_unique<C10dCommunicator>(
        "sync_batch_norm", make_on_device("sync_bn", 1), options.device);

    const auto type =
        cuda ? c10d::ProcessGroup::BackendType::NCCL : c10d::ProcessGroup::BackendType::GLOO;
    auto gradients = c10::make_intrusive<c10d::ProcessGroup>(store, rank, world_size);
    gradients->setBackend(options.device.type(), type, make_on_device("gradients", 2));
    if (cuda) {
      // The Reducer broadcasts its buckets' order in CPU tensors.
      gradients->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO,
                            make("gradients_order", 1));
    }
    gradients->setDefaultBackend(type);
    return std::make_unique<ProcessGroups>(std::move(control), std::move(sync_batch_norm),
                                           std::move(gradients));
  } catch (...) {
    RethrowAsCollectiveLost(absl::StrCat("connecting rank ", rank, " of ", world_size, " at ",
                                         node_address, " with its peers"));
  }
}

absl::StatusOr<std::unique_ptr<ProcessGroups>> JoinProcessGroups(
    const RankEnvironment& environment, const ProcessGroupOptions& options) {
  if (environment.world_size == 1) {
    return JoinProcessGroupsThrough(nullptr, 0, 1, "", options);
  }
  std::string node_address = environment.node_address;
  if (node_address.empty()) {
    MUSTER_ASSIGN_OR_RETURN(node_address, AddressTowards(environment.master_address));
  }
  c10::intrusive_ptr<c10d::Store> store;
  try {
    c10d::TCPStoreOptions store_options;
    store_options.port = environment.master_port;
    store_options.isServer = environment.rank == 0;
    store_options.numWorkers = environment.world_size;
    store_options.waitWorkers = true;
    store_options.timeout = ToChrono(options.timeout);
    store_options.masterListenFd = environment.master_fd;
    store = c10::make_intrusive<c10d::TCPStore>(environment.master_address, store_options);
  } catch (...) {
    RethrowAsCollectiveLost(absl::StrCat("rank ", environment.rank, " of ", environment.world_size,
                                         " joining rank 0's store at ", environment.master_address,
                                         ":", environment.master_port));
  }
  return JoinProcessGroupsThrough(store, environment.rank, environment.world_size, node_address,
                                  options);
}

}  // namespace muster::dist
