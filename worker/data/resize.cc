#include "worker/data/resize.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <exception>

#include "absl/strings/str_cat.h"
#include "opencv2/core.hpp"
#include "opencv2/imgproc.hpp"

namespace muster::data {
namespace {

constexpr int kWeightBits = 22;
constexpr int32_t kHalf = 1 << (kWeightBits - 1);

size_t Values(int width, int height) {
  return size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height);
}

template <typename T>
absl::Status ResizeByOpenCv(absl::Span<const T> rgb, Size from, Size to, int type,
                            std::vector<T>* out) {
  out->resize(Values(to.width, to.height));
  try {
    const cv::Mat source(from.height, from.width, type, const_cast<T*>(rgb.data()));
    cv::Mat target(to.height, to.width, type, out->data());
    cv::resize(source, target, target.size(), 0, 0, cv::INTER_LINEAR);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("cannot be resized: ", error.what()));
  }
  return absl::OkStatus();
}

uint8_t ToByte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

}  // namespace

absl::Status ResizeLinear(absl::Span<const uint8_t> rgb, Size from, Size to,
                          std::vector<uint8_t>* out) {
  return ResizeByOpenCv(rgb, from, to, CV_8UC3, out);
}

absl::Status ResizeLinear(absl::Span<const float> rgb, Size from, Size to,
                          std::vector<float>* out) {
  return ResizeByOpenCv(rgb, from, to, CV_32FC3, out);
}

void PillowResizer::Filter::Prepare(int from, int to, int begin, int size) {
  const double scale = static_cast<double>(from) / to;
  // The triangle reaches one input place to each side, more when several fall on one output place.
  const double reach = std::max(scale, 1.0);
  stride = static_cast<int>(std::ceil(reach)) * 2 + 1;
  const auto places = static_cast<size_t>(size);
  first.resize(places);
  count.resize(places);
  weights.assign(places * static_cast<size_t>(stride), 0);
  std::vector<double> shares(static_cast<size_t>(stride));
  for (size_t i = 0; i < places; ++i) {
    const double centre = (begin + static_cast<double>(i) + 0.5) * scale;
    const int low = std::max(0, static_cast<int>(centre - reach + 0.5));
    const int high = std::min(from, static_cast<int>(centre + reach + 0.5));
    first[i] = low;
    count[i] = high - low;
    double total = 0;
    for (int x = low; x < high; ++x) {
      const double share = std::max(0.0, 1 - std::abs((x - centre + 0.5) * (1 / reach)));
      shares[static_cast<size_t>(x - low)] = share;
      total += share;
    }
    for (int x = 0; x < count[i]; ++x) {
      double& share = shares[static_cast<size_t>(x)];
      if (total != 0) share /= total;
      weights[i * static_cast<size_t>(stride) + static_cast<size_t>(x)] =
          static_cast<int32_t>(share * (1 << kWeightBits) + 0.5);
    }
  }
}

void PillowResizer::Resize(absl::Span<const uint8_t> rgb, Size from, Size to, const Rect& crop,
                           std::vector<uint8_t>* out) {
  columns_.Prepare(from.width, to.width, crop.left, crop.size.width);
  rows_.Prepare(from.height, to.height, crop.top, crop.size.height);
  const auto width = static_cast<size_t>(crop.size.width);
  const auto height = static_cast<size_t>(crop.size.height);
  out->resize(Values(crop.size.width, crop.size.height));
  if (out->empty()) return;

  const int first_row = rows_.first.front();
  const int end_row = rows_.first.back() + rows_.count.back();
  narrowed_.resize(Values(crop.size.width, end_row - first_row));
  uint8_t* target = narrowed_.data();
  for (int y = first_row; y < end_row; ++y) {
    const uint8_t* row = rgb.data() + Values(from.width, y);
    for (size_t x = 0; x < width; ++x) {
      const uint8_t* pixel = row + Values(columns_.first[x], 1);
      const int32_t* weights = &columns_.weights[x * static_cast<size_t>(columns_.stride)];
      int32_t red = kHalf;
      int32_t green = kHalf;
      int32_t blue = kHalf;
      for (int k = 0; k < columns_.count[x]; ++k, pixel += 3) {
        red += pixel[0] * weights[k];
        green += pixel[1] * weights[k];
        blue += pixel[2] * weights[k];
      }
      *target++ = ToByte(red);
      *target++ = ToByte(green);
      *target++ = ToByte(blue);
    }
  }

  const size_t row_values = 3 * width;
  std::vector<int32_t> sums(row_values);
  target = out->data();
  for (size_t y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), kHalf);
    const uint8_t* row =
        narrowed_.data() + row_values * static_cast<size_t>(rows_.first[y] - first_row);
    const int32_t* weights = &rows_.weights[y * static_cast<size_t>(rows_.stride)];
    for (int k = 0; k < rows_.count[y]; ++k, row += row_values) {
      for (size_t x = 0; x < row_values; ++x) sums[x] += row[x] * weights[k];
    }
    for (size_t x = 0; x < row_values; ++x) *target++ = ToByte(sums[x]);
  }
}

}  // namespace muster::data
