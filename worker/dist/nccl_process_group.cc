// The CUDA plugin, libmuster_cuda.so: NCCL and the table of kernels behind one C symbol.
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include <chrono>
#include <cstdio>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "worker/dist/cuda_plugin.h"
#include "worker/ops/cuda_launchers.h"

namespace muster::dist {
namespace {

int DeviceCount(char* reason, int reason_size) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    std::snprintf(reason, static_cast<size_t>(reason_size), "%s", cudaGetErrorString(error));
    return 0;
  }
  if (count == 0) std::snprintf(reason, static_cast<size_t>(reason_size), "the driver lists none");
  return count;
}

c10::intrusive_ptr<c10d::Backend> MakeNcclBackend(const c10::intrusive_ptr<c10d::Store>& store,
                                                  int rank, int world_size, at::Device device,
                                                  int64_t timeout_ms) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = std::chrono::milliseconds(timeout_ms);
  auto backend =
      c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, world_size, std::move(options));
  backend->setBoundDeviceId(device);
  return backend;
}

std::string DumpNcclTraceJson() {
  return c10d::dump_nccl_trace_json(/*includeCollectives=*/true, /*onlyActive=*/false);
}

int NcclVersion() {
  int version = 0;
  return ncclGetVersion(&version) == ncclSuccess ? version : 0;
}

void* CurrentStream(int device_index) {
  return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device_index)).stream();
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void muster_cuda_plugin(CudaPlugin* plugin) {
  plugin->device_count = DeviceCount;
  plugin->make_nccl_backend = MakeNcclBackend;
  plugin->dump_nccl_trace_json = DumpNcclTraceJson;
  plugin->nccl_version = NcclVersion;
  plugin->kernels.current_stream = CurrentStream;
  ops::FillRoiAlignLaunchers(&plugin->kernels);
  ops::FillNmsLaunchers(&plugin->kernels);
}

}  // namespace muster::dist
