#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "worker/data/augmentation.h"
#include "worker/data/geometry.h"

namespace muster::data {

// Changes float32 RGB pixels of 0..255 in place, as mmdetection's PhotoMetricDistortion does with
// OpenCV: brightness, contrast, then saturation and hue in HSV, contrast, order of the channels.
// Values may leave 0..255.
absl::Status Distort(const Distortion& distortion, Size size, float* rgb);

// Distortion, expansion (into `fill`, RGB) and the first crop: *out is the kept part.
absl::Status AugmentPixels(absl::Span<const uint8_t> rgb, const Augmentation& drawn,
                           const std::array<float, 3>& fill, std::vector<float>* out);

// 0..255, the fraction dropped, as what Pillow is handed.
void ToBytes(absl::Span<const float> values, std::vector<uint8_t>* out);

}  // namespace muster::data
