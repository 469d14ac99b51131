#pragma once

#include <torch/types.h>

#include <map>
#include <tuple>
#include <vector>

#include "worker/ops/boxes.h"

namespace muster::ops {

struct AnchorOptions {
  // Of each level; also the side that scales multiply.
  std::vector<int> strides;
  std::vector<double> scales;
  // Height over width.
  std::vector<double> ratios;
  // kMmdet3: centred on multiples of the stride. kSeed: on the centre of the first cell's inclusive
  // box, and rounded to whole pixels.
  BoxConvention convention = BoxConvention::kMmdet3;
};

// The reference boxes of every position of every level, on the CPU, bit-equal to mmdetection's.
class AnchorGenerator {
 public:
  explicit AnchorGenerator(AnchorOptions options);

  int num_levels() const { return static_cast<int>(options_.strides.size()); }
  int stride(int level) const { return options_.strides[static_cast<size_t>(level)]; }
  // Boxes per position.
  int64_t boxes_per_cell() const;

  // (boxes_per_cell, 4) float32 around the origin.
  const at::Tensor& BaseAnchors(int level) const { return base_[static_cast<size_t>(level)]; }
  // (height * width * boxes_per_cell, 4), ordered by y, x, box. Assignment takes float32 always;
  // the shifts are added in `type`, so that proposals of a float64 model have no float32 rounding
  // but the base's. Cached: feature shapes repeat.
  at::Tensor GridAnchors(int level, int64_t height, int64_t width,
                         at::ScalarType type = at::kFloat);

 private:
  AnchorOptions options_;
  std::vector<at::Tensor> base_;
  using Shape = std::tuple<int64_t, int64_t, at::ScalarType>;
  // Per level.
  std::vector<std::map<Shape, at::Tensor>> cache_;
};

}  // namespace muster::ops
