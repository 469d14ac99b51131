#include <cstdint>

#include "worker/ops/cuda_launchers.h"
#include "worker/ops/roi_align_arithmetic.h"

namespace muster::ops {
namespace {

constexpr int kThreads = 256;

// The arguments that both directions share.
template <typename T>
struct Level {
  int64_t channels;
  int height;
  int width;
  const T* rois;
  const int64_t* levels;
  int64_t level;
  int64_t num_elements;  // of the pooled tensor
  T spatial_scale;
  RoiAlignParameters parameters;
};

// One element of the pooled tensor.
template <typename T>
struct Bin {
  RoiGrid<T> grid;
  int x;
  int y;
  int64_t plane;  // offset of the (height, width) map that it is pooled from
};

// False where the element's region is of another level.
template <typename T>
__device__ bool FindBin(const Level<T>& level, int64_t element, Bin<T>* bin) {
  const int64_t pooled = level.parameters.pooled_size;
  const int64_t region = element / (pooled * pooled * level.channels);
  if (level.levels[region] != level.level) return false;
  const int64_t channel = element / (pooled * pooled) % level.channels;
  const T* roi = level.rois + region * 5;
  bin->grid = MakeRoiGrid(roi[1], roi[2], roi[3], roi[4], level.spatial_scale, level.parameters);
  bin->x = static_cast<int>(element % pooled);
  bin->y = static_cast<int>(element / pooled % pooled);
  bin->plane = (static_cast<int64_t>(roi[0]) * level.channels + channel) *
               (static_cast<int64_t>(level.height) * level.width);
  return true;
}

// Calls visit(taps) for each of the bin's sampling points that lies inside the map.
template <typename T, typename Visit>
__device__ void VisitPoints(const Level<T>& level, const Bin<T>& bin, Visit visit) {
  const RoiGrid<T>& grid = bin.grid;
  for (int point_y = 0; point_y < grid.points_y; ++point_y) {
    const T y = SamplingCoordinate(grid.start_y, grid.bin_height, bin.y, point_y, grid.points_y);
    for (int point_x = 0; point_x < grid.points_x; ++point_x) {
      const T x = SamplingCoordinate(grid.start_x, grid.bin_width, bin.x, point_x, grid.points_x);
      const BilinearTaps<T> taps = MakeBilinearTaps(y, x, level.height, level.width);
      if (taps.inside) visit(taps);
    }
  }
}

// Calls visit(element, bin) for every element of the level, one thread an element.
template <typename T, typename Visit>
__device__ void VisitElements(const Level<T>& level, Visit visit) {
  Bin<T> bin;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
       i < level.num_elements; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    if (FindBin(level, i, &bin)) visit(i, bin);
  }
}

template <typename T>
__global__ void ForwardKernel(const T* features, Level<T> level, T* output) {
  VisitElements(level, [&](int64_t i, const Bin<T>& bin) {
    const T* map = features + bin.plane;
    T sum = 0;
    VisitPoints(level, bin, [&](const BilinearTaps<T>& taps) {
      sum += taps.weight[0] * map[taps.index[0]] + taps.weight[1] * map[taps.index[1]] +
             taps.weight[2] * map[taps.index[2]] + taps.weight[3] * map[taps.index[3]];
    });
    output[i] = sum / static_cast<T>(PointsPerBin(bin.grid));
  });
}

// An element spreads its gradient; the order of the additions varies.
template <typename T>
__global__ void BackwardKernel(const T* grad_output, Level<T> level, T* grad_features) {
  VisitElements(level, [&](int64_t i, const Bin<T>& bin) {
    T* map = grad_features + bin.plane;
    const T gradient = grad_output[i] / static_cast<T>(PointsPerBin(bin.grid));
    VisitPoints(level, bin, [&](const BilinearTaps<T>& taps) {
      for (int tap = 0; tap < 4; ++tap) {
        atomicAdd(map + taps.index[tap], taps.weight[tap] * gradient);
      }
    });
  });
}

int Blocks(int64_t num_elements) {
  constexpr int64_t kMaxBlocks = 65536;
  const int64_t blocks = (num_elements + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

// Either kernel: from `source` to `target`.
template <typename T, void (*kKernel)(const T*, Level<T>, T*)>
const char* Launch(const T* source, int64_t channels, int height, int width, const T* rois,
                   const int64_t* levels, int64_t level, int64_t num_rois, T spatial_scale,
                   const RoiAlignParameters& parameters, T* target, void* stream) {
  const int64_t elements = num_rois * channels * parameters.pooled_size * parameters.pooled_size;
  if (elements == 0) return nullptr;
  kKernel<<<Blocks(elements), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      source,
      Level<T>{channels, height, width, rois, levels, level, elements, spatial_scale, parameters},
      target);
  return LaunchError();
}

template <typename T>
void Fill(CudaKernelsOf<T>* kernels) {
  kernels->roi_align_forward = Launch<T, ForwardKernel<T>>;
  kernels->roi_align_backward = Launch<T, BackwardKernel<T>>;
}

}  // namespace

void FillRoiAlignLaunchers(CudaKernels* kernels) {
  Fill(&kernels->float32);
  Fill(&kernels->float64);
}

}  // namespace muster::ops
