#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "worker/data/geometry.h"

// Pictures are rows of 3 values a pixel without gaps; *out is resized to fit.
namespace muster::data {

// OpenCV's INTER_LINEAR, which mmcv uses: no smoothing when a picture becomes smaller.
absl::Status ResizeLinear(absl::Span<const uint8_t> rgb, Size from, Size to,
                          std::vector<uint8_t>* out);
absl::Status ResizeLinear(absl::Span<const float> rgb, Size from, Size to, std::vector<float>* out);

// Pillow's Image.resize(to, BILINEAR) to the bit: a triangle filter that becomes wider when the
// picture becomes smaller, in 22-bit fixed point, columns first, rounded to 8 bits in between. Only
// the part `crop` of the result is computed. One resizer a thread; it keeps its memory.
class PillowResizer {
 public:
  void Resize(absl::Span<const uint8_t> rgb, Size from, Size to, const Rect& crop,
              std::vector<uint8_t>* out);

 private:
  // For each output place the first input place and the weights of it and those after it.
  struct Filter {
    std::vector<int> first;
    std::vector<int> count;
    std::vector<int32_t> weights;  // `stride` for each place
    int stride = 0;

    // For the places begin .. begin + size - 1 of `to`.
    void Prepare(int from, int to, int begin, int size);
  };

  Filter columns_;
  Filter rows_;
  std::vector<uint8_t> narrowed_;  // all input rows that matter, resized in width
};

}  // namespace muster::data
