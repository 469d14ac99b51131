#include <cstdint>

#include "worker/ops/cuda_launchers.h"
#include "worker/ops/roi_align_arithmetic.h"

namespace muster::ops {
namespace {

constexpr int kThreads = 256;

// One thread an output element (region, channel, bin row, bin column).
template <typename T>
__global__ void ForwardKernel(const T* features, int64_t channels, int height, int width,
                              const T* rois, const int64_t* levels, int64_t level,
                              int64_t num_elements, T spatial_scale, RoiAlignParameters parameters,
                              T* output) {
  const int64_t pooled = parameters.pooled_size;
  const int64_t plane = static_cast<int64_t>(height) * width;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < num_elements;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t region = i / (pooled * pooled * channels);
    if (levels[region] != level) continue;
    const int bin_x = static_cast<int>(i % pooled);
    const int bin_y = static_cast<int>(i / pooled % pooled);
    const int64_t channel = i / (pooled * pooled) % channels;
    const T* roi = rois + region * 5;
    const RoiGrid<T> grid = MakeRoiGrid(roi[1], roi[2], roi[3], roi[4], spatial_scale, parameters);
    const T* map = features + (static_cast<int64_t>(roi[0]) * channels + channel) * plane;
    T sum = 0;
    for (int point_y = 0; point_y < grid.points_y; ++point_y) {
      const T y = SamplingCoordinate(grid.start_y, grid.bin_height, bin_y, point_y, grid.points_y);
      for (int point_x = 0; point_x < grid.points_x; ++point_x) {
        const T x = SamplingCoordinate(grid.start_x, grid.bin_width, bin_x, point_x, grid.points_x);
        const BilinearTaps<T> taps = MakeBilinearTaps(y, x, height, width);
        if (!taps.inside) continue;
        sum += taps.weight[0] * map[taps.index[0]] + taps.weight[1] * map[taps.index[1]] +
               taps.weight[2] * map[taps.index[2]] + taps.weight[3] * map[taps.index[3]];
      }
    }
    output[i] = sum / static_cast<T>(PointsPerBin(grid));
  }
}

// One thread an output element, which spreads its gradient; the order of the additions varies.
template <typename T>
__global__ void BackwardKernel(const T* grad_output, int64_t channels, int height, int width,
                               const T* rois, const int64_t* levels, int64_t level,
                               int64_t num_elements, T spatial_scale, RoiAlignParameters parameters,
                               T* grad_features) {
  const int64_t pooled = parameters.pooled_size;
  const int64_t plane = static_cast<int64_t>(height) * width;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < num_elements;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t region = i / (pooled * pooled * channels);
    if (levels[region] != level) continue;
    const int bin_x = static_cast<int>(i % pooled);
    const int bin_y = static_cast<int>(i / pooled % pooled);
    const int64_t channel = i / (pooled * pooled) % channels;
    const T* roi = rois + region * 5;
    const RoiGrid<T> grid = MakeRoiGrid(roi[1], roi[2], roi[3], roi[4], spatial_scale, parameters);
    T* map = grad_features + (static_cast<int64_t>(roi[0]) * channels + channel) * plane;
    const T gradient = grad_output[i] / static_cast<T>(PointsPerBin(grid));
    for (int point_y = 0; point_y < grid.points_y; ++point_y) {
      const T y = SamplingCoordinate(grid.start_y, grid.bin_height, bin_y, point_y, grid.points_y);
      for (int point_x = 0; point_x < grid.points_x; ++point_x) {
        const T x = SamplingCoordinate(grid.start_x, grid.bin_width, bin_x, point_x, grid.points_x);
        const BilinearTaps<T> taps = MakeBilinearTaps(y, x, height, width);
        if (!taps.inside) continue;
        for (int tap = 0; tap < 4; ++tap) {
          atomicAdd(map + taps.index[tap], taps.weight[tap] * gradient);
        }
      }
    }
  }
}

int Blocks(int64_t num_elements) {
  constexpr int64_t kMaxBlocks = 65536;
  const int64_t blocks = (num_elements + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

int64_t Elements(int64_t channels, int64_t num_rois, const RoiAlignParameters& parameters) {
  return num_rois * channels * parameters.pooled_size * parameters.pooled_size;
}

template <typename T>
const char* Forward(const T* features, int64_t channels, int height, int width, const T* rois,
                    const int64_t* levels, int64_t level, int64_t num_rois, T spatial_scale,
                    const RoiAlignParameters& parameters, T* output, void* stream) {
  const int64_t elements = Elements(channels, num_rois, parameters);
  if (elements == 0) return nullptr;
  ForwardKernel<T><<<Blocks(elements), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      features, channels, height, width, rois, levels, level, elements, spatial_scale, parameters,
      output);
  return LaunchError();
}

template <typename T>
const char* Backward(const T* grad_output, int64_t channels, int height, int width, const T* rois,
                     const int64_t* levels, int64_t level, int64_t num_rois, T spatial_scale,
                     const RoiAlignParameters& parameters, T* grad_features, void* stream) {
  const int64_t elements = Elements(channels, num_rois, parameters);
  if (elements == 0) return nullptr;
  BackwardKernel<T><<<Blocks(elements), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      grad_output, channels, height, width, rois, levels, level, elements, spatial_scale,
      parameters, grad_features);
  return LaunchError();
}

}  // namespace

void FillRoiAlignLaunchers(CudaKernels* kernels) {
  kernels->float32.roi_align_forward = Forward<float>;
  kernels->float32.roi_align_backward = Backward<float>;
  kernels->float64.roi_align_forward = Forward<double>;
  kernels->float64.roi_align_backward = Backward<double>;
}

}  // namespace muster::ops
