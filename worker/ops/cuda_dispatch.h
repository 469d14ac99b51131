#pragma once

#include <torch/types.h>

#include <type_traits>

#include "worker/ops/cuda_kernels.h"

namespace muster::ops {

// The registered kernels; throws c10::Error with the fix when there are none.
const CudaKernels& RequireCudaKernels();

template <typename T>
const CudaKernelsOf<T>& CudaKernelsFor(const CudaKernels& kernels) {
  if constexpr (std::is_same_v<T, float>) {
    return kernels.float32;
  } else {
    return kernels.float64;
  }
}

// Throws c10::Error where a launch function returned an error text.
void CheckLaunch(const char* kernel, const char* error);

}  // namespace muster::ops
