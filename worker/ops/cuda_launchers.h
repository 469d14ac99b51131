#pragma once

#include <cuda_runtime.h>

#include "worker/ops/cuda_kernels.h"

// Inside the CUDA plugin only: the parts of its kernel table, one a .cu file.
namespace muster::ops {

void FillRoiAlignLaunchers(CudaKernels* kernels);
void FillNmsLaunchers(CudaKernels* kernels);

// Text of the launch that has just been tried, null when it worked.
inline const char* LaunchError() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace muster::ops
