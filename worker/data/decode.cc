#include "worker/data/decode.h"

#include <turbojpeg.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"
#include "opencv2/imgproc.hpp"

namespace muster::data {
namespace {

constexpr uint64_t kMaxPixels = 100'000'000;

bool StartsWith(absl::Span<const uint8_t> file, absl::string_view magic, size_t at = 0) {
  return file.size() >= at + magic.size() &&
         std::memcmp(file.data() + at, magic.data(), magic.size()) == 0;
}

bool IsJpeg(absl::Span<const uint8_t> file) { return StartsWith(file, "\xff\xd8\xff"); }
bool IsPng(absl::Span<const uint8_t> file) { return StartsWith(file, "\x89PNG\r\n\x1a\n"); }
bool IsBmp(absl::Span<const uint8_t> file) { return StartsWith(file, "BM"); }
bool IsWebp(absl::Span<const uint8_t> file) {
  return StartsWith(file, "RIFF") && StartsWith(file, "WEBP", 8);
}

// Sizes in the header that would make OpenCV allocate gigabytes; a WebP's sides end at 16383.
uint64_t HeaderPixels(absl::Span<const uint8_t> file) {
  const auto big_endian = [&](size_t at) {
    return uint64_t{file[at]} << 24 | uint64_t{file[at + 1]} << 16 | uint64_t{file[at + 2]} << 8 |
           file[at + 3];
  };
  const auto little_endian = [&](size_t at) {
    return static_cast<int32_t>(uint32_t{file[at]} | uint32_t{file[at + 1]} << 8 |
                                uint32_t{file[at + 2]} << 16 | uint32_t{file[at + 3]} << 24);
  };
  if (IsPng(file) && file.size() >= 24) return big_endian(16) * big_endian(20);
  if (IsBmp(file) && file.size() >= 26) {
    return static_cast<uint64_t>(std::abs(int64_t{little_endian(18)})) *
           static_cast<uint64_t>(std::abs(int64_t{little_endian(22)}));
  }
  return 0;
}

absl::Status TooLarge(uint64_t width, uint64_t height) {
  return absl::InvalidArgumentError(
      absl::StrCat("image of ", width, "x", height, " pixels; the limit is ", kMaxPixels));
}

absl::Status CheckSize(Size size) {
  const auto width = static_cast<uint64_t>(size.width);
  const auto height = static_cast<uint64_t>(size.height);
  if (size.width <= 0 || size.height <= 0) return absl::DataLossError("image without pixels");
  if (width * height > kMaxPixels) return TooLarge(width, height);
  return absl::OkStatus();
}

cv::Mat Wrap(std::vector<uint8_t>* rgb, Size size) {
  return cv::Mat(size.height, size.width, CV_8UC3, rgb->data());
}

size_t Bytes(Size size, size_t channels) {
  return channels * static_cast<size_t>(size.width) * static_cast<size_t>(size.height);
}

// libjpeg's conversion of Adobe's inverted CMYK, as OpenCV does it: c * k / 255 without rounding
// up.
void CmykToRgb(const std::vector<uint8_t>& cmyk, std::vector<uint8_t>* rgb) {
  for (size_t i = 0; i < cmyk.size() / 4; ++i) {
    const int k = cmyk[4 * i + 3];
    for (size_t c = 0; c < 3; ++c) {
      const int ink = cmyk[4 * i + c];
      (*rgb)[3 * i + c] = static_cast<uint8_t>(k - ((255 - ink) * k >> 8));
    }
  }
}

// Turns *rgb upright; *size becomes the new size.
void ApplyOrientation(int orientation, std::vector<uint8_t>* rgb, Size* size,
                      std::vector<uint8_t>* scratch) {
  if (orientation == 1) return;
  cv::Mat image = Wrap(rgb, *size);
  if (orientation >= 5) {
    scratch->resize(rgb->size());
    *size = {size->height, size->width};
    cv::Mat turned = Wrap(scratch, *size);
    cv::transpose(image, turned);
    rgb->swap(*scratch);
    image = Wrap(rgb, *size);
  }
  // What is left after the transposition; OpenCV's codes: 0 upside down, 1 mirrored, -1 both.
  switch (orientation) {
    case 2:
    case 6:
      cv::flip(image, image, 1);
      break;
    case 3:
    case 7:
      cv::flip(image, image, -1);
      break;
    case 4:
    case 8:
      cv::flip(image, image, 0);
      break;
    default:
      break;
  }
}

absl::StatusOr<Size> DecodeByOpenCv(absl::Span<const uint8_t> file, std::vector<uint8_t>* rgb) {
  try {
    const cv::Mat input(1, static_cast<int>(file.size()), CV_8UC1,
                        const_cast<uint8_t*>(file.data()));
    const cv::Mat bgr = cv::imdecode(input, cv::IMREAD_COLOR);
    if (bgr.empty()) return absl::DataLossError("damaged image");
    const Size size = {bgr.cols, bgr.rows};
    if (absl::Status status = CheckSize(size); !status.ok()) return status;
    rgb->resize(Bytes(size, 3));
    cv::Mat out = Wrap(rgb, size);
    cv::cvtColor(bgr, out, cv::COLOR_BGR2RGB);
    return size;
  } catch (const std::exception& error) {
    return absl::DataLossError(absl::StrCat("damaged image: ", error.what()));
  }
}

}  // namespace

int JpegOrientation(absl::Span<const uint8_t> file) {
  // The segments before the first scan; EXIF (JEITA CP-3451, section 4.5) is in an APP1.
  size_t at = 2;
  while (at + 4 <= file.size() && file[at] == 0xff) {
    const uint8_t marker = file[at + 1];
    if (marker == 0xff) {
      ++at;
      continue;
    }
    const size_t length = size_t{file[at + 2]} << 8 | file[at + 3];
    if (marker == 0xda || length < 2 || at + 2 + length > file.size()) return 1;
    const absl::Span<const uint8_t> segment = file.subspan(at + 4, length - 2);
    at += 2 + length;
    if (marker != 0xe1 || !StartsWith(segment, absl::string_view("Exif\0\0", 6))) continue;
    const absl::Span<const uint8_t> tiff = segment.subspan(6);
    if (tiff.size() < 8) return 1;
    const bool little = tiff[0] == 'I';
    const auto u16 = [&](size_t i) -> size_t {
      return little ? size_t{tiff[i]} | size_t{tiff[i + 1]} << 8
                    : size_t{tiff[i + 1]} | size_t{tiff[i]} << 8;
    };
    const auto u32 = [&](size_t i) {
      return little ? u16(i) | u16(i + 2) << 16 : u16(i + 2) | u16(i) << 16;
    };
    const size_t directory = u32(4);
    if (directory > tiff.size() - 2) return 1;
    const size_t entries = u16(directory);
    for (size_t i = 0; i < entries; ++i) {
      const size_t entry = directory + 2 + 12 * i;
      if (entry + 12 > tiff.size()) return 1;
      if (u16(entry) != 0x0112) continue;
      const size_t orientation = u16(entry + 8);
      return orientation >= 1 && orientation <= 8 ? static_cast<int>(orientation) : 1;
    }
    return 1;
  }
  return 1;
}

ImageDecoder::ImageDecoder() : jpeg_(tjInitDecompress()) {}

ImageDecoder::~ImageDecoder() {
  if (jpeg_ != nullptr) tjDestroy(jpeg_);
}

absl::StatusOr<Size> ImageDecoder::Decode(absl::Span<const uint8_t> file,
                                          std::vector<uint8_t>* rgb) {
  if (IsJpeg(file)) return DecodeJpeg(file, rgb);
  if (!IsPng(file) && !IsBmp(file) && !IsWebp(file)) {
    return absl::InvalidArgumentError("not a JPEG, PNG, BMP or WebP image");
  }
  if (HeaderPixels(file) > kMaxPixels) {
    return absl::InvalidArgumentError(
        absl::StrCat("image of more than ", kMaxPixels, " pixels, which is the limit"));
  }
  return DecodeByOpenCv(file, rgb);
}

absl::StatusOr<Size> ImageDecoder::DecodeJpeg(absl::Span<const uint8_t> file,
                                              std::vector<uint8_t>* rgb) {
  if (jpeg_ == nullptr) return absl::InternalError("libjpeg-turbo cannot start");
  Size size;
  int subsampling = 0;
  int colour_space = 0;
  // A warning alone does no harm here: the pixels are read below.
  if (tjDecompressHeader3(jpeg_, file.data(), file.size(), &size.width, &size.height, &subsampling,
                          &colour_space) != 0 &&
      tjGetErrorCode(jpeg_) == TJERR_FATAL) {
    return absl::DataLossError(absl::StrCat("damaged JPEG: ", tjGetErrorStr2(jpeg_)));
  }
  if (size.width <= 0) return absl::DataLossError("damaged JPEG: no picture in it");
  if (absl::Status status = CheckSize(size); !status.ok()) return status;
  const bool four_inks = colour_space == TJCS_CMYK || colour_space == TJCS_YCCK;
  rgb->resize(Bytes(size, 3));
  std::vector<uint8_t>* target = rgb;
  if (four_inks) {
    scratch_.resize(Bytes(size, 4));
    target = &scratch_;
  }
  // LIMITSCANS: a progressive file of a few kB with thousands of scans would take minutes.
  const int failed =
      tjDecompress2(jpeg_, file.data(), file.size(), target->data(), size.width, 0, size.height,
                    four_inks ? TJPF_CMYK : TJPF_RGB, TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS);
  if (failed != 0) {
    const std::string reason = tjGetErrorStr2(jpeg_);
    // Padding between segments, which some cameras write, harms nothing.
    const bool harmless = tjGetErrorCode(jpeg_) == TJERR_WARNING &&
                          absl::StrContains(reason, "extraneous bytes before marker");
    if (!harmless) return absl::DataLossError(absl::StrCat("damaged JPEG: ", reason));
  }
  if (four_inks) CmykToRgb(scratch_, rgb);
  ApplyOrientation(JpegOrientation(file), rgb, &size, &scratch_);
  return size;
}

}  // namespace muster::data
