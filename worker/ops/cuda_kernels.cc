#include "worker/ops/cuda_kernels.h"

#include <atomic>

#include "worker/ops/cuda_dispatch.h"

namespace muster::ops {
namespace {

// Set once by the plugin's loader before training starts; a table of functions, not state.
std::atomic<const CudaKernels*>& Registered() {
  static std::atomic<const CudaKernels*> kernels{nullptr};
  return kernels;
}

}  // namespace

void RegisterCudaKernels(const CudaKernels& kernels) {
  static const CudaKernels table = kernels;
  Registered().store(&table);
}

const CudaKernels* RegisteredCudaKernels() { return Registered().load(); }

const CudaKernels& RequireCudaKernels() {
  const CudaKernels* kernels = RegisteredCudaKernels();
  TORCH_CHECK(kernels != nullptr,
              "a tensor is on a CUDA device, but the CUDA kernels are not loaded: load the plugin "
              "libmuster_cuda.so first, or keep the model on the CPU");
  return *kernels;
}

void CheckLaunch(const char* kernel, const char* error) {
  TORCH_CHECK(error == nullptr, "CUDA kernel ", kernel, " could not be launched: ", error);
}

}  // namespace muster::ops
