#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

#include "worker/ops/cuda_kernels.h"

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace muster::dist {

// What the library with the CUDA parts, lib/libmuster_cuda.so, offers. It is loaded when a job asks
// for a CUDA device, so that the trainer itself runs on nodes that have no CUDA libraries. Loading
// it also gives at:: its CUDA backend. Stays loaded until the process ends.
struct CudaPlugin {
  // Visible devices; 0 with the driver's reason in `reason` (capacity `reason_size`, ends in '\0').
  int (*device_count)(char* reason, int reason_size) = nullptr;
  // An NCCL backend whose collectives run on `device` and fail after `timeout_ms`. Throws
  // c10::Error.
  c10::intrusive_ptr<c10d::Backend> (*make_nccl_backend)(
      const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size, at::Device device,
      int64_t timeout_ms) = nullptr;
  // NCCL's part of c10d's flight recorder, as dump_fr_trace_json has Gloo's.
  std::string (*dump_nccl_trace_json)() = nullptr;
  // For example 23007 for 2.30.7.
  int (*nccl_version)() = nullptr;
  // For ops::RegisterCudaKernels.
  ops::CudaKernels kernels = {};
};

// Loads the library once: from `file` or, with an empty path, from ../lib beside the program's
// folder or from that folder itself. NotFound: this build has no CUDA parts. Call it before at:: is
// asked for a CUDA tensor. Thread-safe.
absl::StatusOr<CudaPlugin> LoadCudaPlugin(const std::filesystem::path& file = {});

// The plugin, if it has been loaded. Thread-safe.
std::optional<CudaPlugin> LoadedCudaPlugin();

// The plugin, when device `index` can be used (-1: any). FailedPrecondition (the program exits with
// kExitDeviceError) tells why not: no CUDA parts, no driver, no such device.
absl::StatusOr<CudaPlugin> RequireCudaDevice(int index);

}  // namespace muster::dist
