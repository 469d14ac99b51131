#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace muster::eval {

// A detected object, in pixels of the original image.
struct Detection {
  int64_t image_id = 0;
  int64_t category_id = 0;
  std::array<double, 4> bbox = {};  // x, y, width, height
  double score = 0;

  friend bool operator==(const Detection&, const Detection&) = default;
};

// By image id; those of one image keep their order. After it, detections that were gathered from
// ranks are in the same order for any number of ranks.
void SortByImage(std::vector<Detection>* detections);

}  // namespace muster::eval
