// JPEG, PNG, BMP and WebP files.
#include <cstdint>
#include <string>
#include <vector>

#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"

#include "tests/fuzz/fuzz_target.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/decode.h"

namespace muster::fuzz {
namespace {

constexpr uint64_t kMaxPixels = 256 * 256;

std::string Encode(const char* extension, const cv::Mat& image,
                   const std::vector<int>& parameters = {}) {
  std::vector<uint8_t> bytes;
  Require(cv::imencode(extension, image, bytes, parameters), "seed");
  return {bytes.begin(), bytes.end()};
}

}  // namespace

std::vector<std::string> Seeds() {
  const std::string jpeg = testing::TinyJpeg({24, 17});
  const cv::Mat colour = cv::imdecode(std::vector<uint8_t>(jpeg.begin(), jpeg.end()), 1);
  cv::Mat grey;
  cv::extractChannel(colour, grey, 0);
  cv::Mat wide;
  colour.convertTo(wide, CV_16UC3, 250);
  // An EXIF segment with orientation 6.
  const std::string tiff("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", 26);
  const std::string exif = std::string("\xff\xe1\0\x22", 4) + std::string("Exif\0\0", 6) + tiff;
  return {jpeg,
          jpeg.substr(0, 2) + exif + jpeg.substr(2),
          Encode(".jpg", colour, {cv::IMWRITE_JPEG_PROGRESSIVE, 1}),
          Encode(".jpg", grey),
          Encode(".png", colour),
          Encode(".png", grey),
          Encode(".png", wide),
          Encode(".bmp", colour),
          Encode(".webp", colour)};
}

void FuzzOne(absl::Span<const uint8_t> input) {
  static data::ImageDecoder* const decoder = new data::ImageDecoder(kMaxPixels);
  static std::vector<uint8_t>* const rgb = new std::vector<uint8_t>();
  const int orientation = data::JpegOrientation(input);
  Require(orientation >= 1 && orientation <= 8, "an orientation");
  const auto size = decoder->Decode(input, rgb);
  if (!size.ok()) {
    Require(!size.status().message().empty(), "an error has a message");
    return;
  }
  Require(size->width > 0 && size->height > 0, "a picture has pixels");
  const uint64_t pixels = static_cast<uint64_t>(size->width) * static_cast<uint64_t>(size->height);
  Require(pixels <= kMaxPixels, "the limit holds");
  Require(rgb->size() == 3 * pixels, "three bytes a pixel");
}

}  // namespace muster::fuzz
