#pragma once

#include <cstdint>

#include "worker/ops/roi_align_arithmetic.h"

// The CUDA side of RoIAlign and NMS, as a table of functions on raw device pointers: a plugin
// library that links CUDA fills it in at run time, so that a CPU node needs none. No torch here.
namespace muster::ops {

// T is float or double. Pointers are device memory, contiguous; `stream` is a cudaStream_t.
// Functions queue their work and return; a launch that fails returns its text (static storage),
// else nullptr.
template <typename T>
struct CudaKernelsOf {
  // For every region r with levels[r] == level: output[r] (channels, pooled, pooled) from
  // features (images, channels, height, width) at rois[r] = (image, x1, y1, x2, y2).
  const char* (*roi_align_forward)(const T* features, int64_t channels, int height, int width,
                                   const T* rois, const int64_t* levels, int64_t level,
                                   int64_t num_rois, T spatial_scale,
                                   const RoiAlignParameters& parameters, T* output, void* stream);
  // Adds to grad_features (images, channels, height, width), which the caller has zeroed.
  const char* (*roi_align_backward)(const T* grad_output, int64_t channels, int height, int width,
                                    const T* rois, const int64_t* levels, int64_t level,
                                    int64_t num_rois, T spatial_scale,
                                    const RoiAlignParameters& parameters, T* grad_features,
                                    void* stream);
  // boxes (count, 4), best score first. Sets bit j % 64 of mask[i * words + j / 64], words =
  // ceil(count / 64), for every j > i that box i suppresses, and clears all others.
  const char* (*nms_mask)(const T* boxes, int64_t count, T threshold, uint64_t* mask, void* stream);
};

struct CudaKernels {
  CudaKernelsOf<float> float32;
  CudaKernelsOf<double> float64;
  // The current stream of `device_index`, as PyTorch's allocator sees it.
  void* (*current_stream)(int device_index);
};

// Called once, by the plugin's loader, before the first op on a CUDA tensor.
void RegisterCudaKernels(const CudaKernels& kernels);

// Null until registered.
const CudaKernels* RegisteredCudaKernels();

}  // namespace muster::ops
