#pragma once

#include <cmath>
#include <cstdint>

#include "worker/ops/host_device.h"

// RoIAlign's arithmetic (He et al. 2017, "Mask R-CNN"; the averaging variant of Caffe2, mmcv and
// torchvision), for one region of interest and one sampling point. No torch here: the CUDA kernels
// include this file.
namespace muster::ops {

struct RoiAlignParameters {
  // Bins per side of the output.
  int pooled_size = 7;
  // Sampling points per bin and side; 0: as many as the bin has feature cells, rounded up.
  int sampling_ratio = 0;
  // Subtracted from the scaled corners: 0.5 shifts to pixel centres ("aligned"), 0 does not.
  double offset = 0.5;
  // A region's scaled side is at least this (feature cells).
  double minimum_size = 0;
};

// The region on the feature map of one level.
template <typename T>
struct RoiGrid {
  T start_x, start_y;
  T bin_width, bin_height;
  // Sampling points per bin.
  int points_x, points_y;
};

// The comparison is false for NaN, whose conversion to int would be undefined.
template <typename T>
MUSTER_HOST_DEVICE inline int PointsPerSide(T bin_side, int sampling_ratio) {
  if (sampling_ratio > 0) return sampling_ratio;
  return bin_side > 0 ? static_cast<int>(std::ceil(bin_side)) : 0;
}

// (x1, y1, x2, y2): absolute pixels, half-open; spatial_scale = 1 / stride of the level.
template <typename T>
MUSTER_HOST_DEVICE inline RoiGrid<T> MakeRoiGrid(T x1, T y1, T x2, T y2, T spatial_scale,
                                                 const RoiAlignParameters& parameters) {
  const T offset = static_cast<T>(parameters.offset);
  const T minimum = static_cast<T>(parameters.minimum_size);
  RoiGrid<T> grid;
  grid.start_x = x1 * spatial_scale - offset;
  grid.start_y = y1 * spatial_scale - offset;
  T width = (x2 * spatial_scale - offset) - grid.start_x;
  T height = (y2 * spatial_scale - offset) - grid.start_y;
  width = width < minimum ? minimum : width;
  height = height < minimum ? minimum : height;
  grid.bin_width = width / static_cast<T>(parameters.pooled_size);
  grid.bin_height = height / static_cast<T>(parameters.pooled_size);
  grid.points_x = PointsPerSide(grid.bin_width, parameters.sampling_ratio);
  grid.points_y = PointsPerSide(grid.bin_height, parameters.sampling_ratio);
  return grid;
}

// Coordinate of sampling point `point` of `points` in bin `bin`, along one axis.
template <typename T>
MUSTER_HOST_DEVICE inline T SamplingCoordinate(T start, T bin_side, int bin, int point,
                                               int points) {
  return start + static_cast<T>(bin) * bin_side +
         (static_cast<T>(point) + static_cast<T>(0.5)) * bin_side / static_cast<T>(points);
}

// Divisor of a bin's sum; a region without area has no point and counts one.
template <typename T>
MUSTER_HOST_DEVICE inline int PointsPerBin(const RoiGrid<T>& grid) {
  const int points = grid.points_x * grid.points_y;
  return points < 1 ? 1 : points;
}

// The four cells around a point: index = y * width + x within one channel's plane. A point more
// than one cell outside the map has inside = false and counts as 0.
template <typename T>
struct BilinearTaps {
  bool inside;
  int64_t index[4];
  T weight[4];
};

template <typename T>
MUSTER_HOST_DEVICE inline BilinearTaps<T> MakeBilinearTaps(T y, T x, int height, int width) {
  BilinearTaps<T> taps;
  // So written that NaN is outside.
  taps.inside = y >= static_cast<T>(-1) && y <= static_cast<T>(height) && x >= static_cast<T>(-1) &&
                x <= static_cast<T>(width);
  if (!taps.inside) return taps;
  if (y <= 0) y = 0;
  if (x <= 0) x = 0;
  int y_low = static_cast<int>(y);
  int x_low = static_cast<int>(x);
  int y_high = y_low + 1;
  int x_high = x_low + 1;
  if (y_low >= height - 1) {
    y_low = y_high = height - 1;
    y = static_cast<T>(y_low);
  }
  if (x_low >= width - 1) {
    x_low = x_high = width - 1;
    x = static_cast<T>(x_low);
  }
  const T down = y - static_cast<T>(y_low);
  const T right = x - static_cast<T>(x_low);
  const T up = static_cast<T>(1) - down;
  const T left = static_cast<T>(1) - right;
  taps.index[0] = static_cast<int64_t>(y_low) * width + x_low;
  taps.index[1] = static_cast<int64_t>(y_low) * width + x_high;
  taps.index[2] = static_cast<int64_t>(y_high) * width + x_low;
  taps.index[3] = static_cast<int64_t>(y_high) * width + x_high;
  taps.weight[0] = up * left;
  taps.weight[1] = up * right;
  taps.weight[2] = down * left;
  taps.weight[3] = down * right;
  return taps;
}

}  // namespace muster::ops
