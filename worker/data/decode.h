#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "worker/data/geometry.h"

namespace muster::data {

// Decodes image files to RGB, 8 bits a channel, as mmcv's imfrombytes(flag='color', backend='cv2')
// does (which then gives BGR): grey and CMYK are converted, alpha is dropped, the EXIF orientation
// is applied. JPEG by libjpeg-turbo; PNG, BMP and WebP by OpenCV. A damaged or broken-off file is
// an error (OpenCV would give a picture that is grey in part), and so is one of more than 100
// million pixels. One decoder a thread; it keeps its memory from image to image.
class ImageDecoder {
 public:
  ImageDecoder();
  ~ImageDecoder();
  ImageDecoder(const ImageDecoder&) = delete;
  ImageDecoder& operator=(const ImageDecoder&) = delete;

  // Rows of 3 * width bytes without gaps into *rgb, which is resized to fit. Errors do not name the
  // file: the caller knows it.
  absl::StatusOr<Size> Decode(absl::Span<const uint8_t> file, std::vector<uint8_t>* rgb);

 private:
  absl::StatusOr<Size> DecodeJpeg(absl::Span<const uint8_t> file, std::vector<uint8_t>* rgb);

  void* jpeg_;  // TurboJPEG's handle
  std::vector<uint8_t> scratch_;
};

// The EXIF orientation 1 .. 8 of a JPEG file; 1 when it says nothing (understandable).
int JpegOrientation(absl::Span<const uint8_t> file);

}  // namespace muster::data
