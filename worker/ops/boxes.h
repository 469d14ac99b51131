#pragma once

#include <torch/types.h>

#include <array>

// Boxes are half-open xyxy in absolute pixels everywhere; the inclusive boxes of mmdetection 0.6
// are these with (0, 0, 1, 1) added, which makes its formulas equal to mmdetection 3's but for the
// clip.
namespace muster::ops {

enum class BoxConvention {
  kMmdet3,
  kSeed,  // mmdetection 0.6
};

// Corners of one box, for loops that must not allocate.
template <typename T>
struct Corners {
  T x1, y1, x2, y2;
};

template <typename T>
inline T Area(const Corners<T>& box) {
  return (box.x2 - box.x1) * (box.y2 - box.y1);
}

template <typename T>
inline T Intersection(const Corners<T>& a, const Corners<T>& b) {
  const T left = a.x1 > b.x1 ? a.x1 : b.x1;
  const T top = a.y1 > b.y1 ? a.y1 : b.y1;
  const T right = a.x2 < b.x2 ? a.x2 : b.x2;
  const T bottom = a.y2 < b.y2 ? a.y2 : b.y2;
  const T width = right > left ? right - left : T{0};
  const T height = bottom > top ? bottom - top : T{0};
  return width * height;
}

// Intersection over union, with mmdetection's operations in its order: matching compares IoUs with
// ==, so one rounding more or less changes which anchors are trained.
template <typename T>
inline T IoU(const Corners<T>& a, T area_a, const Corners<T>& b, T area_b) {
  const T intersection = Intersection(a, b);
  const T joint = area_a + area_b - intersection;
  return intersection / (joint > static_cast<T>(1e-6) ? joint : static_cast<T>(1e-6));
}

// Intersection over the area of a ("foreground").
template <typename T>
inline T IoF(const Corners<T>& a, T area_a, const Corners<T>& b) {
  return Intersection(a, b) / (area_a > static_cast<T>(1e-6) ? area_a : static_cast<T>(1e-6));
}

// (A, 4) and (B, 4), one floating dtype, on the CPU -> (A, B).
at::Tensor PairwiseIoU(const at::Tensor& a, const at::Tensor& b);
at::Tensor PairwiseIoF(const at::Tensor& a, const at::Tensor& b);

// What a regression branch predicts: (dx, dy, dw, dh) / stds, where dx, dy are shifts of the centre
// in units of the prior's sides and dw, dh logarithms of the ratios of the sides (Girshick 2014).
// priors, targets (N, 4) -> (N, 4); the wider of the two dtypes.
at::Tensor EncodeBoxes(const at::Tensor& priors, const at::Tensor& targets,
                       const std::array<double, 4>& stds);

// The inverse: priors (N, 4), deltas (N, 4 K) -> (N, 4 K). |dw|, |dh| are limited to |log(16 /
// 1000)|. Boxes are clipped to the image: x to [0, image_w], y to [0, image_h] (kMmdet3), or as
// inclusive boxes are to [0, side - 1], so that x1 is in [0, side - 1] and x2 in [1, side] (kSeed).
at::Tensor DecodeBoxes(const at::Tensor& priors, const at::Tensor& deltas,
                       const std::array<double, 4>& stds, int image_h, int image_w,
                       BoxConvention convention);

}  // namespace muster::ops
