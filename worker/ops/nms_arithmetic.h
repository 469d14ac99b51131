#pragma once

#include "worker/ops/host_device.h"

// Non-maximum suppression's test of one pair. No torch here: the CUDA kernels include this file.
namespace muster::ops {

// Half-open corners and the area, which does not change from pair to pair.
template <typename T>
struct NmsBox {
  T x1, y1, x2, y2, area;
};

// From four consecutive numbers.
template <typename T>
MUSTER_HOST_DEVICE inline NmsBox<T> MakeNmsBox(const T* corners) {
  return {corners[0], corners[1], corners[2], corners[3],
          (corners[2] - corners[0]) * (corners[3] - corners[1])};
}

// True when the two overlap by more than the threshold: intersection / union > threshold. Boxes
// without area do not overlap (0 / 0 is not greater).
template <typename T>
MUSTER_HOST_DEVICE inline bool Suppresses(const NmsBox<T>& a, const NmsBox<T>& b, T threshold) {
  const T left = a.x1 > b.x1 ? a.x1 : b.x1;
  const T top = a.y1 > b.y1 ? a.y1 : b.y1;
  const T right = a.x2 < b.x2 ? a.x2 : b.x2;
  const T bottom = a.y2 < b.y2 ? a.y2 : b.y2;
  const T width = right > left ? right - left : static_cast<T>(0);
  const T height = bottom > top ? bottom - top : static_cast<T>(0);
  const T intersection = width * height;
  return intersection / (a.area + b.area - intersection) > threshold;
}

}  // namespace muster::ops
