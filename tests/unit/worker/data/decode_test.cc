#include "worker/data/decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <turbojpeg.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"
#include "opencv2/imgproc.hpp"

#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/coco_dataset.h"
#include "worker/data/image_source.h"

namespace muster::data {
namespace {

using ::testing::HasSubstr;

absl::Span<const uint8_t> Bytes(const std::string& text) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

cv::Mat ByOpenCv(absl::Span<const uint8_t> file) {
  const cv::Mat bgr =
      cv::imdecode(std::vector<uint8_t>(file.begin(), file.end()), cv::IMREAD_COLOR);
  cv::Mat rgb;
  if (!bgr.empty()) cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
  return rgb;
}

// What mmcv's cv2 backend gives, byte for byte.
void ExpectAsOpenCv(absl::Span<const uint8_t> file, const std::string& what) {
  ImageDecoder decoder;
  std::vector<uint8_t> rgb;
  const auto size = decoder.Decode(file, &rgb);
  ASSERT_TRUE(size.ok()) << what << ": " << size.status();
  const cv::Mat expected = ByOpenCv(file);
  ASSERT_EQ(*size, (Size{expected.cols, expected.rows})) << what;
  ASSERT_EQ(rgb.size(), expected.total() * 3) << what;
  EXPECT_EQ(std::memcmp(rgb.data(), expected.data, rgb.size()), 0) << what;
}

cv::Mat Picture() {
  const std::string jpeg = testing::TinyJpeg({61, 47});
  return cv::imdecode(std::vector<uint8_t>(jpeg.begin(), jpeg.end()), cv::IMREAD_COLOR);
}

std::string Encode(const std::string& extension, const cv::Mat& image,
                   const std::vector<int>& parameters = {}) {
  std::vector<uint8_t> bytes;
  EXPECT_TRUE(cv::imencode(extension, image, bytes, parameters));
  return {bytes.begin(), bytes.end()};
}

// The JPEG with an EXIF segment that says `orientation`.
std::string WithOrientation(const std::string& jpeg, char orientation, bool little) {
  std::string tiff = little ? std::string("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", 18)
                            : std::string("MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01", 18);
  tiff += little ? std::string({orientation, 0, 0, 0}) : std::string({0, orientation, 0, 0});
  tiff += std::string(4, '\0');
  const std::string segment = std::string("Exif\0\0", 6) + tiff;
  const size_t length = segment.size() + 2;
  return jpeg.substr(0, 2) + "\xff\xe1" + static_cast<char>(length >> 8) +
         static_cast<char>(length & 0xff) + segment + jpeg.substr(2);
}

TEST(ImageDecoderTest, AllKindsAsOpenCv) {
  const cv::Mat colour = Picture();
  cv::Mat grey;
  cv::cvtColor(colour, grey, cv::COLOR_BGR2GRAY);
  cv::Mat alpha;
  cv::cvtColor(colour, alpha, cv::COLOR_BGR2BGRA);
  ExpectAsOpenCv(Bytes(Encode(".jpg", colour)), "baseline");
  ExpectAsOpenCv(Bytes(Encode(".jpg", colour, {cv::IMWRITE_JPEG_PROGRESSIVE, 1})), "progressive");
  ExpectAsOpenCv(Bytes(Encode(".jpg", grey)), "grey JPEG");
  ExpectAsOpenCv(Bytes(Encode(".png", colour)), "PNG");
  ExpectAsOpenCv(Bytes(Encode(".png", grey)), "grey PNG");
  ExpectAsOpenCv(Bytes(Encode(".png", alpha)), "PNG with alpha");
  ExpectAsOpenCv(Bytes(Encode(".bmp", colour)), "BMP");
  ExpectAsOpenCv(Bytes(Encode(".webp", colour)), "WebP");
  cv::Mat wide;
  colour.convertTo(wide, CV_16UC3, 250);
  ExpectAsOpenCv(Bytes(Encode(".png", wide)), "PNG of 16 bits");
}

TEST(ImageDecoderTest, CmykJpegAsOpenCv) {
  const int width = 33;
  const int height = 17;
  std::vector<uint8_t> cmyk(static_cast<size_t>(4 * width * height));
  for (size_t i = 0; i < cmyk.size(); ++i) cmyk[i] = static_cast<uint8_t>(i * 37 / 16);
  tjhandle encoder = tjInitCompress();
  unsigned char* jpeg = nullptr;
  unsigned long size = 0;  // NOLINT: TurboJPEG's type
  ASSERT_EQ(tjCompress2(encoder, cmyk.data(), width, 0, height, TJPF_CMYK, &jpeg, &size, TJSAMP_444,
                        90, 0),
            0);
  ExpectAsOpenCv(absl::MakeConstSpan(jpeg, size), "CMYK");
  tjFree(jpeg);
  tjDestroy(encoder);
}

TEST(ImageDecoderTest, ExifOrientationAsOpenCv) {
  const std::string jpeg = testing::TinyJpeg({61, 47});
  for (char orientation = 1; orientation <= 8; ++orientation) {
    for (const bool little : {true, false}) {
      const std::string turned = WithOrientation(jpeg, orientation, little);
      EXPECT_EQ(JpegOrientation(Bytes(turned)), orientation);
      ExpectAsOpenCv(Bytes(turned), "orientation " + std::to_string(orientation));
    }
  }
  EXPECT_EQ(JpegOrientation(Bytes(jpeg)), 1);
}

TEST(ImageDecoderTest, BrokenOffOrDamagedFilesAreErrors) {
  const std::string jpeg = testing::TinyJpeg({200, 150});
  ImageDecoder decoder;
  std::vector<uint8_t> rgb;
  for (const size_t size : {size_t{3}, size_t{100}, jpeg.size() / 2, jpeg.size() - 20}) {
    const absl::Status status = decoder.Decode(Bytes(jpeg.substr(0, size)), &rgb).status();
    EXPECT_FALSE(status.ok()) << size;
    EXPECT_THAT(std::string(status.message()), HasSubstr("damaged JPEG")) << size;
  }
  const std::string png = Encode(".png", Picture());
  EXPECT_FALSE(decoder.Decode(Bytes(png.substr(0, 60)), &rgb).ok());
  EXPECT_THAT(std::string(decoder.Decode(Bytes("GIF89a, no"), &rgb).status().message()),
              HasSubstr("not a JPEG, PNG, BMP or WebP"));
  EXPECT_FALSE(decoder.Decode({}, &rgb).ok());
  // The decoder is usable after an error.
  EXPECT_TRUE(decoder.Decode(Bytes(jpeg), &rgb).ok());
}

TEST(ImageDecoderTest, HugeImagesAreRefusedBeforeTheyAreUnpacked) {
  std::string png = Encode(".png", Picture());
  png.replace(16, 8, std::string("\x00\x01\x00\x00\x00\x01\x00\x00", 8));  // 65536 x 65536
  std::string jpeg = testing::TinyJpeg({61, 47});
  const size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xff\xdc\xff\xdc");  // 65500 x 65500
  ImageDecoder decoder;
  std::vector<uint8_t> rgb;
  EXPECT_THAT(std::string(decoder.Decode(Bytes(png), &rgb).status().message()), HasSubstr("limit"));
  EXPECT_THAT(std::string(decoder.Decode(Bytes(jpeg), &rgb).status().message()),
              HasSubstr("limit"));
  EXPECT_TRUE(rgb.empty());
  std::string bmp = Encode(".bmp", Picture());
  bmp.replace(18, 4, std::string("\0\0\x01\0", 4));  // 65536 x -65536
  bmp.replace(22, 4, std::string("\0\0\xff\xff", 4));
  EXPECT_THAT(std::string(decoder.Decode(Bytes(bmp), &rgb).status().message()),
              HasSubstr("65536x65536"));
  const std::string riff = std::string("RIFF\x20\0\0\0WEBP", 12);
  const std::string extended =
      riff + std::string("VP8X\x0a\0\0\0\0\0\0\0\xff\xff\0\xff\xff\0", 18) + std::string(8, '\0');
  EXPECT_THAT(std::string(decoder.Decode(Bytes(extended), &rgb).status().message()),
              HasSubstr("65536x65536"));
  ImageDecoder strict(1000);
  for (const char* kind : {".jpg", ".png", ".bmp", ".webp"}) {
    EXPECT_THAT(std::string(strict.Decode(Bytes(Encode(kind, Picture())), &rgb).status().message()),
                HasSubstr("image of 61x47 pixels; the limit is 1000"))
        << kind;
  }
}

// Found by fuzzing: OpenCV handed such a file to its DICOM reader, which ended the process.
TEST(ImageDecoderTest, DamagedWebpIsNotTakenForAnotherFormat) {
  std::string file = std::string("RIFF\x92\x01\0\0WEBPVP8XV\0\0\x78", 20) + std::string(130, '\0');
  ImageDecoder decoder;
  std::vector<uint8_t> rgb;
  for (const auto& [at, mark] : {std::pair(128, "DICM\x08"), std::pair(140, "DTED\x08")}) {
    std::string marked = file;
    marked.replace(static_cast<size_t>(at), 5, mark);
    EXPECT_THAT(std::string(decoder.Decode(Bytes(marked), &rgb).status().message()),
                HasSubstr("damaged WebP"));
  }
}

TEST(ImageDecoderTest, DamagedBytesNeverCrash) {
  const std::string jpeg = WithOrientation(testing::TinyJpeg({48, 32}), 6, true);
  ImageDecoder decoder;
  std::vector<uint8_t> rgb;
  for (size_t i = 0; i < jpeg.size(); ++i) {
    std::string changed = jpeg;
    changed[i] = static_cast<char>(changed[i] ^ 0xff);
    const auto size = decoder.Decode(Bytes(changed), &rgb);
    if (size.ok()) {
      EXPECT_EQ(rgb.size(), static_cast<size_t>(3 * size->width * size->height));
    }
  }
}

TEST(ImageDecoderTest, RealImagesAsOpenCv) {
  const auto shared = testing::SharedData();
  if (!shared.has_value()) GTEST_SKIP() << "no ../shared";
  for (const char* split : {"train", "val"}) {
    const auto folder = *shared / "data/coco_cc";
    const auto dataset =
        CocoDataset::Load(folder / "annotations" / ("instances_" + std::string(split) + ".json"));
    const auto source = OpenImageSource(folder / "images" / (std::string(split) + ".zip"));
    ASSERT_TRUE(dataset.ok() && source.ok());
    std::vector<uint8_t> scratch;
    for (const DatasetImage& image : dataset->images()) {
      const auto bytes = (*source)->Read(image.file_name, &scratch);
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      ExpectAsOpenCv(*bytes, image.file_name);
    }
  }
}

}  // namespace
}  // namespace muster::data
