#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/daemon/network_interfaces.h"

// The variables that tell NCCL and Gloo where to talk.
namespace muster::worker {

using Environment = std::map<std::string, std::string>;

// What NCCL could use besides plain TCP.
struct NetworkHardware {
  // An active InfiniBand port, or an Ethernet one (RoCE) that is not the hardware side of a virtual
  // machine's own interface: Azure's Accelerated Networking shows itself as an RDMA device, too,
  // and NCCL hangs on it.
  bool rdma = false;
  // libnccl-net.so can be loaded.
  bool nccl_plugin = false;
};

// `infiniband` is the kernel's list of RDMA devices, `loader_cache` that of the dynamic loader;
// `library_path` has the form of LD_LIBRARY_PATH.
NetworkHardware FindNetworkHardware(
    const std::string& library_path,
    const std::filesystem::path& infiniband = "/sys/class/infiniband",
    const std::filesystem::path& loader_cache = "/etc/ld.so.cache");

// Those of `variables` ("NAME=VALUE") whose names begin with NCCL_, GLOO_ or TORCH_NCCL_.
Environment CollectiveVariables(const std::vector<std::string>& variables);

// What the trainers of a job get. From weak to strong: what follows from the hardware, what the
// daemon was started with (`inherited`), the interface, what the job's config says.
Environment CollectiveEnvironment(const InterfaceAddress& interface,
                                  const NetworkHardware& hardware, const Environment& inherited,
                                  const config::v1::Distributed& distributed);

}  // namespace muster::worker
