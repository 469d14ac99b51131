#include "tests/support/tiny_coco.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "absl/status/status.h"
#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"

namespace muster::testing {

std::string TinyJpeg(data::Size size, int seed) {
  cv::Mat image(size.height, size.width, CV_8UC3);
  for (int y = 0; y < size.height; ++y) {
    for (int x = 0; x < size.width; ++x) {
      image.at<cv::Vec3b>(y, x) = {cv::saturate_cast<uchar>(128 + 100 * std::sin(0.05 * x + seed)),
                                   cv::saturate_cast<uchar>(128 + 100 * std::cos(0.07 * y + seed)),
                                   cv::saturate_cast<uchar>(40 + 37 * seed % 150)};
    }
  }
  std::vector<uchar> jpeg;
  if (!cv::imencode(".jpg", image, jpeg)) throw std::runtime_error("no JPEG encoder");
  return {jpeg.begin(), jpeg.end()};
}

TinyCoco::TinyCoco()
    : json({{"images", nlohmann::ordered_json::array()},
            {"annotations", nlohmann::ordered_json::array()},
            {"categories", {{{"id", 1}, {"name", "cat"}}, {{"id", 2}, {"name", "dog"}}}}}) {}

int64_t TinyCoco::AddImage(const std::string& file_name, data::Size size) {
  const auto id = static_cast<int64_t>(json["images"].size()) + 1;
  json["images"].push_back(
      {{"id", id}, {"file_name", file_name}, {"width", size.width}, {"height", size.height}});
  members.push_back({file_name, TinyJpeg(size, static_cast<int>(id))});
  return id;
}

int64_t TinyCoco::AddObject(int64_t image_id, std::vector<double> bbox, int64_t category_id,
                            bool crowd) {
  const auto id = static_cast<int64_t>(json["annotations"].size()) + 1;
  json["annotations"].push_back({{"id", id},
                                 {"image_id", image_id},
                                 {"category_id", category_id},
                                 {"bbox", bbox},
                                 {"area", bbox.at(2) * bbox.at(3)},
                                 {"iscrowd", crowd ? 1 : 0}});
  return id;
}

void TinyCoco::Write(const std::filesystem::path& folder, const std::string& split,
                     data::ZipCompression compression) const {
  std::filesystem::create_directories(folder / "annotations");
  std::filesystem::create_directories(folder / "images");
  WriteText(folder / "annotations" / ("instances_" + split + ".json"), json.dump());
  const absl::Status status =
      data::WriteZip(folder / "images" / (split + ".zip"), members, compression);
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

void WriteText(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.good()) throw std::runtime_error("cannot write " + path.string());
}

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file.good()) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace muster::testing
