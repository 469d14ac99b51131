#include "worker/data/decode.h"

#include <turbojpeg.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
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

// A WebP that OpenCV's WebP reader refuses is offered to its other readers, of which those for
// DICOM and DTED look for their mark in the middle of the file, and end the process on a damaged
// one.
bool MayBeTakenForAnother(absl::Span<const uint8_t> file) {
  return StartsWith(file, "DICM", 128) || StartsWith(file, "DTED", 140);
}

uint64_t BigEndian(absl::Span<const uint8_t> file, size_t at, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value = value << 8 | file[at + i];
  return value;
}

uint64_t LittleEndian(absl::Span<const uint8_t> file, size_t at, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = bytes; i-- > 0;) value = value << 8 | file[at + i];
  return value;
}

struct HeaderSize {
  uint64_t width = 0;
  uint64_t height = 0;
};

// What the header of a PNG, BMP or WebP says, before OpenCV allocates it; none when it is too
// short.
std::optional<HeaderSize> SizeInHeader(absl::Span<const uint8_t> file) {
  if (file.size() < 30) return std::nullopt;
  if (IsPng(file)) return HeaderSize{BigEndian(file, 16, 4), BigEndian(file, 20, 4)};
  if (IsBmp(file)) {
    // The first form of the format has 16-bit sides; later ones a height below 0 for upright rows.
    if (LittleEndian(file, 14, 4) == 12) {
      return HeaderSize{LittleEndian(file, 18, 2), LittleEndian(file, 20, 2)};
    }
    const auto side = [&](size_t at) {
      const auto value = static_cast<int32_t>(LittleEndian(file, at, 4));
      return static_cast<uint64_t>(std::abs(int64_t{value}));
    };
    return HeaderSize{side(18), side(22)};
  }
  // WebP: the extended, the lossless and the lossy form.
  if (StartsWith(file, "VP8X", 12)) {
    return HeaderSize{LittleEndian(file, 24, 3) + 1, LittleEndian(file, 27, 3) + 1};
  }
  if (StartsWith(file, "VP8L", 12)) {
    const uint64_t bits = LittleEndian(file, 21, 4);
    return HeaderSize{(bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1};
  }
  return HeaderSize{LittleEndian(file, 26, 2) & 0x3fff, LittleEndian(file, 28, 2) & 0x3fff};
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

ImageDecoder::ImageDecoder(uint64_t max_pixels)
    : max_pixels_(max_pixels), jpeg_(tjInitDecompress()) {}

ImageDecoder::~ImageDecoder() {
  if (jpeg_ != nullptr) tjDestroy(jpeg_);
}

absl::Status ImageDecoder::CheckSize(uint64_t width, uint64_t height) const {
  if (width == 0 || height == 0) return absl::DataLossError("damaged image: without pixels");
  if (width <= max_pixels_ / height) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("image of ", width, "x", height, " pixels; the limit is ", max_pixels_));
}

absl::StatusOr<Size> ImageDecoder::Decode(absl::Span<const uint8_t> file,
                                          std::vector<uint8_t>* rgb) {
  if (IsJpeg(file)) return DecodeJpeg(file, rgb);
  if (!IsPng(file) && !IsBmp(file) && !IsWebp(file)) {
    return absl::InvalidArgumentError("not a JPEG, PNG, BMP or WebP image");
  }
  if (IsWebp(file) && MayBeTakenForAnother(file)) return absl::DataLossError("damaged WebP image");
  const std::optional<HeaderSize> size = SizeInHeader(file);
  if (!size.has_value()) return absl::DataLossError("damaged image: broken off in its header");
  if (absl::Status status = CheckSize(size->width, size->height); !status.ok()) return status;
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
  if (size.width <= 0 || size.height <= 0) {
    return absl::DataLossError("damaged JPEG: no picture in it");
  }
  if (absl::Status status =
          CheckSize(static_cast<uint64_t>(size.width), static_cast<uint64_t>(size.height));
      !status.ok()) {
    return status;
  }
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
