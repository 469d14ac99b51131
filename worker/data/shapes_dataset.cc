#include "worker/data/shapes_dataset.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"
#include "opencv2/imgproc.hpp"

#include "common/base/counter_random.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "worker/data/zip_writer.h"
#include <nlohmann/json.hpp>

namespace muster::data {
namespace {

using base::CounterRandom;
using nlohmann::ordered_json;

constexpr double kPi = 3.14159265358979323846;
constexpr std::array<const char*, 5> kNames = {"circle", "square", "triangle", "star", "cross"};
enum Shape : size_t { kCircle, kSquare, kTriangle, kStar, kCross };

constexpr int kJpegQuality = 92;
constexpr int kCrowdMembers = 14;

double Uniform(CounterRandom* random, double low, double high) {
  return low + (high - low) * random->NextDouble();
}

int UniformInt(CounterRandom* random, int low, int high) {
  return low + static_cast<int>(random->NextBelow(static_cast<uint64_t>(high - low + 1)));
}

// Hue in degrees, saturation and value 0..1, to BGR 0..255.
cv::Vec3d Colour(double hue, double saturation, double value) {
  const auto channel = [&](double n) {
    const double k = std::fmod(n + hue / 60 + 6, 6);
    const double share = std::clamp(std::min(k, 4 - k), 0.0, 1.0);
    return 255 * value * (1 - saturation * share);
  };
  return {channel(1), channel(3), channel(5)};
}

std::vector<cv::Point2d> Ring(int points, double phase, double outer, double inner) {
  std::vector<cv::Point2d> ring;
  for (int i = 0; i < points; ++i) {
    const double radius = i % 2 == 0 ? outer : inner;
    const double angle = phase + 2 * kPi * i / points;
    ring.emplace_back(radius * std::cos(angle), radius * std::sin(angle));
  }
  return ring;
}

// The outline round (0, 0), in a box of about 2 x 2 before turning.
std::vector<cv::Point2d> Outline(size_t shape) {
  switch (shape) {
    case kCircle:
      return Ring(48, 0, 1, 1);
    case kSquare:
      return {{-1, -1}, {1, -1}, {1, 1}, {-1, 1}};
    case kTriangle:
      return {{0, -1.05}, {1.1, 0.85}, {-1.1, 0.85}};
    case kStar:
      return Ring(10, -kPi / 2, 1.15, 0.48);
    default: {
      constexpr double kArm = 0.36;
      return {{-kArm, -1}, {kArm, -1}, {kArm, -kArm}, {1, -kArm}, {1, kArm},   {kArm, kArm},
              {kArm, 1},   {-kArm, 1}, {-kArm, kArm}, {-1, kArm}, {-1, -kArm}, {-kArm, -kArm}};
    }
  }
}

// A waving pattern with values around 1: stripes, checks or rings.
class Texture {
 public:
  explicit Texture(CounterRandom* random)
      : kind_(UniformInt(random, 0, 2)),
        angle_(Uniform(random, 0, kPi)),
        period_(Uniform(random, 5, 11)),
        depth_(Uniform(random, 0.1, 0.3)) {}

  double At(double x, double y) const {
    const double u = x * std::cos(angle_) + y * std::sin(angle_);
    const double v = y * std::cos(angle_) - x * std::sin(angle_);
    const double turn = 2 * kPi / period_;
    double wave = std::sin(turn * u);
    if (kind_ == 1) wave *= std::sin(turn * v) >= 0 ? 1 : -1;
    if (kind_ == 2) wave = std::sin(turn * std::hypot(u, v));
    return 1 + depth_ * wave;
  }

 private:
  int kind_;
  double angle_;
  double period_;
  double depth_;
};

// A greyish gradient under a texture and noise.
cv::Mat Background(CounterRandom* random, Size size) {
  const Texture texture(random);
  const cv::Vec3d from =
      Colour(Uniform(random, 0, 360), Uniform(random, 0, 0.25), Uniform(random, 0.25, 0.8));
  const cv::Vec3d to =
      Colour(Uniform(random, 0, 360), Uniform(random, 0, 0.25), Uniform(random, 0.25, 0.8));
  cv::Mat image(size.height, size.width, CV_8UC3);
  for (int y = 0; y < size.height; ++y) {
    for (int x = 0; x < size.width; ++x) {
      const double share =
          (static_cast<double>(x) / size.width + static_cast<double>(y) / size.height) / 2;
      const double light = texture.At(x, y) + 0.06 * (random->NextDouble() - 0.5);
      for (int c = 0; c < 3; ++c) {
        const double value = ((1 - share) * from[c] + share * to[c]) * light;
        image.at<cv::Vec3b>(y, x)[c] = cv::saturate_cast<uchar>(value);
      }
    }
  }
  return image;
}

struct Placed {
  std::vector<cv::Point2d> outline;  // pixels
  cv::Rect box;                      // of the pixels that it covers
  int area = 0;
};

// Paints a shape of `radius` pixels round `centre`.
Placed Paint(CounterRandom* random, size_t shape, cv::Point2d centre, double radius,
             cv::Mat* image) {
  const double turn = Uniform(random, -kPi / 9, kPi / 9);
  Placed placed;
  for (const cv::Point2d& point : Outline(shape)) {
    placed.outline.push_back(
        centre + radius * cv::Point2d(point.x * std::cos(turn) - point.y * std::sin(turn),
                                      point.x * std::sin(turn) + point.y * std::cos(turn)));
  }
  constexpr int kShift = 4;  // fixed-point bits of the corners
  std::vector<cv::Point> corners;
  for (const cv::Point2d& point : placed.outline) {
    corners.emplace_back(cvRound(point.x * (1 << kShift)), cvRound(point.y * (1 << kShift)));
  }
  cv::Mat mask = cv::Mat::zeros(image->size(), CV_8UC1);
  cv::fillPoly(mask, std::vector<std::vector<cv::Point>>{corners}, cv::Scalar(255), cv::LINE_AA,
               kShift);
  // Each class has a hue of its own, give or take: a small network shall learn it in minutes.
  const double hue = 360.0 * static_cast<double>(shape) / kNames.size() + Uniform(random, -20, 20);
  const cv::Vec3d colour = Colour(hue, Uniform(random, 0.7, 0.95), Uniform(random, 0.7, 0.98));
  const Texture texture(random);
  cv::Rect bounds = cv::boundingRect(mask);
  for (int y = bounds.y; y < bounds.br().y; ++y) {
    for (int x = bounds.x; x < bounds.br().x; ++x) {
      const double cover = mask.at<uchar>(y, x) / 255.0;
      if (cover == 0) continue;
      cv::Vec3b& pixel = image->at<cv::Vec3b>(y, x);
      const double light = texture.At(x - centre.x, y - centre.y);
      for (int c = 0; c < 3; ++c) {
        pixel[c] = cv::saturate_cast<uchar>((1 - cover) * pixel[c] + cover * colour[c] * light);
      }
    }
  }
  const cv::Mat inside = mask >= 128;
  placed.box = cv::boundingRect(inside);
  placed.area = cv::countNonZero(inside);
  return placed;
}

// COCO's uncompressed run lengths of a box: column by column, beginning with what is outside.
ordered_json BoxRuns(const cv::Rect& box, Size size) {
  std::vector<int> counts;
  int outside = box.x * size.height + box.y;
  for (int column = 0; column < box.width; ++column) {
    counts.push_back(outside);
    counts.push_back(box.height);
    outside = size.height - box.height;
  }
  const int used = (box.x + box.width - 1) * size.height + box.y + box.height;
  counts.push_back(size.width * size.height - used);
  return {{"counts", counts}, {"size", {size.height, size.width}}};
}

double Rounded(double value) { return std::round(value * 100) / 100; }

ordered_json ToJson(int64_t id, int64_t image_id, size_t shape, const cv::Rect& box, int area,
                    bool crowd, ordered_json segmentation) {
  return {{"id", id},
          {"image_id", image_id},
          {"category_id", shape + 1},
          {"bbox", {box.x, box.y, box.width, box.height}},
          {"area", area},
          {"iscrowd", crowd ? 1 : 0},
          {"segmentation", std::move(segmentation)}};
}

// Whether a square of `radius` round `centre` keeps clear of `taken`.
bool IsFree(const std::vector<cv::Rect2d>& taken, cv::Point2d centre, double radius) {
  const cv::Rect2d wanted(centre.x - radius, centre.y - radius, 2 * radius, 2 * radius);
  return std::none_of(taken.begin(), taken.end(), [&](const cv::Rect2d& other) {
    return (wanted & other).area() > 0.08 * std::min(wanted.area(), other.area());
  });
}

class SplitWriter {
 public:
  SplitWriter(const ShapesOptions& options, uint64_t split) : options_(options), split_(split) {}

  // An image, its annotations and its JPEG.
  absl::Status AddImage(int64_t number) {
    CounterRandom random(options_.seed, split_, static_cast<uint64_t>(number), "shapes");
    Size size = options_.size;
    if (number % 4 == 3) std::swap(size.width, size.height);
    const int64_t image_id = number + 1;
    cv::Mat image = Background(&random, size);
    const double side = std::min(size.width, size.height);
    std::vector<cv::Rect2d> taken;
    if (number % 5 == 2) AddCrowd(&random, image_id, size, &image, &taken);
    const int wanted = UniformInt(&random, 3, 6);
    int placed = 0;
    for (int attempt = 0; attempt < 200 && placed < wanted; ++attempt) {
      const double radius = side * Uniform(&random, 1.0 / 12, 1.0 / 4);
      const double margin = 1.3 * radius + 1;  // corners of turned shapes reach beyond the radius
      const cv::Point2d centre(Uniform(&random, margin, size.width - margin),
                               Uniform(&random, margin, size.height - margin));
      if (!IsFree(taken, centre, 1.15 * radius)) continue;
      taken.emplace_back(centre.x - radius, centre.y - radius, 2 * radius, 2 * radius);
      const size_t shape = random.NextBelow(kNames.size());
      const Placed object = Paint(&random, shape, centre, radius, &image);
      ordered_json polygon = ordered_json::array();
      for (const cv::Point2d& point : object.outline) {
        polygon.push_back(Rounded(point.x));
        polygon.push_back(Rounded(point.y));
      }
      AddAnnotation(image_id, shape, object.box, object.area, false,
                    ordered_json::array({std::move(polygon)}));
      ++placed;
    }
    return AddJpeg(image_id, size, image);
  }

  absl::Status Write(const std::filesystem::path& folder, const std::string& name) const {
    ordered_json categories = ordered_json::array();
    for (size_t i = 0; i < kNames.size(); ++i) {
      categories.push_back({{"id", i + 1}, {"name", kNames[i]}, {"supercategory", "shape"}});
    }
    const ordered_json json = {{"info", {{"description", "Textured shapes, made by Muster"}}},
                               {"images", images_},
                               {"annotations", annotations_},
                               {"categories", std::move(categories)}};
    MUSTER_RETURN_IF_ERROR(base::CreateFolders(folder / "annotations"));
    MUSTER_RETURN_IF_ERROR(base::CreateFolders(folder / "images"));
    MUSTER_RETURN_IF_ERROR(
        WriteZip(folder / "images" / (name + ".zip"), members_, ZipCompression::kStored));
    return base::WriteFileAtomically(folder / "annotations" / ("instances_" + name + ".json"),
                                     json.dump());
  }

 private:
  // Many small shapes of one class in a box that is annotated as a whole.
  void AddCrowd(CounterRandom* random, int64_t image_id, Size size, cv::Mat* image,
                std::vector<cv::Rect2d>* taken) {
    const size_t shape = random->NextBelow(kNames.size());
    const double side = std::min(size.width, size.height);
    const double width = side * Uniform(random, 0.35, 0.5);
    const double height = side * Uniform(random, 0.25, 0.35);
    const double radius = side / 36;
    const double x = Uniform(random, 2, size.width - width - 2);
    const double y = Uniform(random, 2, size.height - height - 2);
    cv::Rect all;
    for (int i = 0; i < kCrowdMembers; ++i) {
      const cv::Point2d centre(x + Uniform(random, 1.3 * radius, width - 1.3 * radius),
                               y + Uniform(random, 1.3 * radius, height - 1.3 * radius));
      all |= Paint(random, shape, centre, radius, image).box;
    }
    taken->push_back(all);
    AddAnnotation(image_id, shape, all, all.area(), true, BoxRuns(all, size));
  }

  void AddAnnotation(int64_t image_id, size_t shape, const cv::Rect& box, int area, bool crowd,
                     ordered_json segmentation) {
    const auto id = static_cast<int64_t>(annotations_.size()) + 1;
    annotations_.push_back(ToJson(id, image_id, shape, box, area, crowd, std::move(segmentation)));
  }

  absl::Status AddJpeg(int64_t image_id, Size size, const cv::Mat& image) {
    std::vector<uchar> jpeg;
    if (!cv::imencode(".jpg", image, jpeg, {cv::IMWRITE_JPEG_QUALITY, kJpegQuality})) {
      return absl::InternalError("OpenCV cannot encode a JPEG");
    }
    const std::string file_name = absl::StrFormat("%012d.jpg", image_id);
    images_.push_back({{"id", image_id},
                       {"file_name", file_name},
                       {"width", size.width},
                       {"height", size.height}});
    members_.push_back({file_name, std::string(jpeg.begin(), jpeg.end())});
    return absl::OkStatus();
  }

  const ShapesOptions options_;
  const uint64_t split_;
  ordered_json images_ = ordered_json::array();
  ordered_json annotations_ = ordered_json::array();
  std::vector<ZipMember> members_;
};

absl::Status WriteSplit(const std::filesystem::path& folder, const std::string& name,
                        const ShapesOptions& options, uint64_t split, int images) {
  SplitWriter writer(options, split);
  for (int i = 0; i < images; ++i) MUSTER_RETURN_IF_ERROR(writer.AddImage(i));
  return writer.Write(folder, name);
}

}  // namespace

std::vector<std::string> ShapeNames() { return {kNames.begin(), kNames.end()}; }

absl::Status WriteShapesDataset(const std::filesystem::path& folder, const ShapesOptions& options) {
  constexpr int kSmallestSide = 64;
  if (options.train_images < 1 || options.val_images < 1) {
    return absl::InvalidArgumentError("a made data set needs at least 1 image for train and val");
  }
  if (std::min(options.size.width, options.size.height) < kSmallestSide) {
    return absl::InvalidArgumentError(
        absl::StrCat("images of a made data set need sides of at least ", kSmallestSide));
  }
  try {
    MUSTER_RETURN_IF_ERROR(WriteSplit(folder, "train", options, 0, options.train_images));
    return WriteSplit(folder, "val", options, 1, options.val_images);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("cannot make the data set: ", error.what()));
  }
}

}  // namespace muster::data
