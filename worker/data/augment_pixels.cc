#include "worker/data/augment_pixels.h"

#include <algorithm>
#include <cstddef>
#include <exception>

#include "absl/strings/str_cat.h"
#include "opencv2/core.hpp"
#include "opencv2/imgproc.hpp"

#include "common/base/status_macros.h"

namespace muster::data {
namespace {

size_t Values(int width, int height) {
  return size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height);
}

void ChangeColours(const Distortion& distortion, size_t pixels, float* hsv) {
  for (size_t i = 0; i < pixels; ++i, hsv += 3) {
    hsv[0] += distortion.hue;
    if (hsv[0] > 360) hsv[0] -= 360;
    if (hsv[0] < 0) hsv[0] += 360;
    hsv[1] *= distortion.saturation;
    // mmdetection 3 limits it where it was raised.
    if (distortion.limit_saturation && distortion.saturation > 1) {
      hsv[1] = std::clamp(hsv[1], 0.0F, 1.0F);
    }
  }
}

}  // namespace

absl::Status Distort(const Distortion& distortion, Size size, float* rgb) {
  const size_t values = Values(size.width, size.height);
  const auto multiply = [&](float by) {
    for (size_t i = 0; i < values; ++i) rgb[i] *= by;
  };
  for (size_t i = 0; i < values; ++i) rgb[i] += distortion.brightness;
  if (distortion.contrast_first) multiply(distortion.contrast);
  try {
    cv::Mat image(size.height, size.width, CV_32FC3, rgb);
    cv::cvtColor(image, image, cv::COLOR_RGB2HSV);
    ChangeColours(distortion, values / 3, rgb);
    cv::cvtColor(image, image, cv::COLOR_HSV2RGB);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("cannot be distorted: ", error.what()));
  }
  if (!distortion.contrast_first) multiply(distortion.contrast);
  const auto& channels = distortion.channels;
  if (channels != std::array<int, 3>{0, 1, 2}) {
    for (size_t i = 0; i < values; i += 3) {
      const std::array<float, 3> pixel = {rgb[i], rgb[i + 1], rgb[i + 2]};
      for (size_t c = 0; c < 3; ++c) rgb[i + c] = pixel[static_cast<size_t>(channels[c])];
    }
  }
  return absl::OkStatus();
}

absl::Status AugmentPixels(absl::Span<const uint8_t> rgb, const Augmentation& drawn,
                           const std::array<float, 3>& fill, std::vector<float>* out) {
  const Rect& placed = drawn.placed;
  const Rect& kept = drawn.kept;
  std::vector<float> image;
  // Without expansion and crop the image is changed where it shall end up.
  const bool whole = placed == kept;
  std::vector<float>& pixels = whole ? *out : image;
  pixels.assign(rgb.begin(), rgb.end());
  if (drawn.distortion.has_value()) {
    MUSTER_RETURN_IF_ERROR(Distort(*drawn.distortion, placed.size, pixels.data()));
  }
  if (whole) return absl::OkStatus();

  out->resize(Values(kept.size.width, kept.size.height));
  for (size_t i = 0; i < out->size(); ++i) (*out)[i] = fill[i % 3];
  const int left = std::max(placed.left, kept.left);
  const int right = std::min(placed.left + placed.size.width, kept.left + kept.size.width);
  const int top = std::max(placed.top, kept.top);
  const int bottom = std::min(placed.top + placed.size.height, kept.top + kept.size.height);
  if (right <= left) return absl::OkStatus();
  for (int y = top; y < bottom; ++y) {
    const float* from =
        &image[Values(placed.size.width, y - placed.top) + Values(left - placed.left, 1)];
    float* to = &(*out)[Values(kept.size.width, y - kept.top) + Values(left - kept.left, 1)];
    std::copy_n(from, Values(right - left, 1), to);
  }
  return absl::OkStatus();
}

void ToBytes(absl::Span<const float> values, std::vector<uint8_t>* out) {
  out->resize(values.size());
  std::transform(values.begin(), values.end(), out->begin(),
                 [](float value) { return static_cast<uint8_t>(std::clamp(value, 0.0F, 255.0F)); });
}

}  // namespace muster::data
