#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "worker/data/geometry.h"

namespace muster::data {

// Decodes image files to RGB, 8 bits a channel, as mmcv's imfrombytes(flag='color', backend='cv2')
// does (which then gives BGR): grey and CMYK are converted, alpha is dropped, the EXIF orientation
// is applied (mmdetection 0.6's zip reader left it out), 16 bits become 8. JPEG by libjpeg-turbo;
// PNG, BMP and WebP by OpenCV. A damaged or broken-off file is an error (OpenCV would give a
// picture that is grey in part), and so is one of more than max_pixels, which its header tells
// before anything is unpacked. One decoder a thread; it keeps its memory from image to image.
class ImageDecoder {
 public:
  static constexpr uint64_t kMaxPixels = 100'000'000;

  explicit ImageDecoder(uint64_t max_pixels = kMaxPixels);
  ~ImageDecoder();
  ImageDecoder(const ImageDecoder&) = delete;
  ImageDecoder& operator=(const ImageDecoder&) = delete;

  // Rows of 3 * width bytes without gaps into *rgb, which is resized to fit. Errors do not name the
  // file: the caller knows it.
  absl::StatusOr<Size> Decode(absl::Span<const uint8_t> file, std::vector<uint8_t>* rgb);

 private:
  absl::StatusOr<Size> DecodeJpeg(absl::Span<const uint8_t> file, std::vector<uint8_t>* rgb);

  absl::Status CheckSize(uint64_t width, uint64_t height) const;

  const uint64_t max_pixels_;
  void* jpeg_;  // TurboJPEG's handle
  std::vector<uint8_t> scratch_;
};

// The EXIF orientation 1 .. 8 of a JPEG file; 1 when it says nothing (understandable).
int JpegOrientation(absl::Span<const uint8_t> file);

}  // namespace muster::data
