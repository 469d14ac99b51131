#include "worker/data/draw.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"
#include "opencv2/imgproc.hpp"

#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "worker/data/decode.h"

namespace muster::data {
namespace {

constexpr int kGap = 12;
constexpr int kTitleHeight = 26;
constexpr int kLegendRow = 26;
constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;
const cv::Scalar kPaper(250, 250, 250);
const cv::Scalar kInk(40, 40, 40);
const cv::Scalar kGrey(140, 140, 140);
const cv::Scalar kTruth(60, 180, 30);  // green; BGR as everything here

// Hues a golden angle apart, so that neighbours in the list differ.
cv::Scalar ClassColour(int64_t label) {
  const double hue = std::fmod(8 + static_cast<double>(label) * 137.508, 360) / 2;
  const cv::Mat hsv(1, 1, CV_8UC3, cv::Scalar(hue, 215, 225));
  cv::Mat bgr;
  cv::cvtColor(hsv, bgr, cv::COLOR_HSV2BGR);
  const cv::Vec3b colour = bgr.at<cv::Vec3b>(0, 0);
  return {static_cast<double>(colour[0]), static_cast<double>(colour[1]),
          static_cast<double>(colour[2])};
}

std::string ClassName(absl::Span<const std::string> names, int64_t label) {
  if (label < 0 || static_cast<size_t>(label) >= names.size()) return absl::StrCat("class ", label);
  return names[static_cast<size_t>(label)];
}

void Text(cv::Mat* canvas, const std::string& text, cv::Point origin, double scale,
          const cv::Scalar& colour) {
  cv::putText(*canvas, text, origin, kFont, scale, colour, 1, cv::LINE_AA);
}

cv::Rect ToRect(const Box& box, double scale) {
  const cv::Point from(cvRound(box.x1 * scale), cvRound(box.y1 * scale));
  const cv::Point to(cvRound(box.x2 * scale), cvRound(box.y2 * scale));
  return {from, to};
}

void Frame(cv::Mat* canvas, const cv::Rect& rect, const cv::Scalar& colour) {
  // A dark line below keeps the frame visible on ground of its own colour.
  cv::rectangle(*canvas, rect, cv::Scalar(20, 20, 20), 4, cv::LINE_AA);
  cv::rectangle(*canvas, rect, colour, 2, cv::LINE_AA);
}

void DashedFrame(cv::Mat* canvas, const cv::Rect& rect, const cv::Scalar& colour) {
  constexpr int kDash = 7;
  for (int x = rect.x; x < rect.br().x; x += 2 * kDash) {
    const int end = std::min(x + kDash, rect.br().x);
    cv::line(*canvas, {x, rect.y}, {end, rect.y}, colour, 2, cv::LINE_AA);
    cv::line(*canvas, {x, rect.br().y}, {end, rect.br().y}, colour, 2, cv::LINE_AA);
  }
  for (int y = rect.y; y < rect.br().y; y += 2 * kDash) {
    const int end = std::min(y + kDash, rect.br().y);
    cv::line(*canvas, {rect.x, y}, {rect.x, end}, colour, 2, cv::LINE_AA);
    cv::line(*canvas, {rect.br().x, y}, {rect.br().x, end}, colour, 2, cv::LINE_AA);
  }
}

// A tag above the box, or inside where there is no room.
void Tag(cv::Mat* canvas, const std::string& text, const cv::Rect& rect, const cv::Scalar& colour) {
  constexpr double kScale = 0.4;
  int baseline = 0;
  const cv::Size size = cv::getTextSize(text, kFont, kScale, 1, &baseline);
  cv::Rect tag(rect.x - 1, rect.y - size.height - 7, size.width + 6, size.height + 7);
  tag.x = std::clamp(tag.x, 0, std::max(canvas->cols - tag.width, 0));
  if (tag.y < 0) tag.y = std::max(rect.y, 0);
  cv::rectangle(*canvas, tag, colour, cv::FILLED);
  const double light = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2];
  Text(canvas, text, {tag.x + 3, tag.y + size.height + 3}, kScale,
       light > 140 ? cv::Scalar(0, 0, 0) : cv::Scalar(255, 255, 255));
}

cv::Mat Panel(const Picture& picture, int width, double* scale) {
  const cv::Mat rgb(picture.size.height, picture.size.width, CV_8UC3,
                    const_cast<uint8_t*>(picture.rgb.data()));
  *scale = static_cast<double>(width) / std::max(picture.size.width, picture.size.height);
  cv::Mat bgr;
  cv::cvtColor(rgb, bgr, cv::COLOR_RGB2BGR);
  cv::Mat panel;
  cv::resize(bgr, panel, {}, *scale, *scale, *scale < 1 ? cv::INTER_AREA : cv::INTER_CUBIC);
  return panel;
}

cv::Mat GroundTruthPanel(const DrawnImage& image, absl::Span<const std::string> names, int width) {
  double scale = 1;
  cv::Mat panel = Panel(image.picture, width, &scale);
  for (const Box& crowd : image.crowd_boxes) {
    DashedFrame(&panel, ToRect(crowd, scale), kTruth);
  }
  for (const LabelledBox& object : image.ground_truth) {
    Frame(&panel, ToRect(object.box, scale), kTruth);
  }
  for (const Box& crowd : image.crowd_boxes) Tag(&panel, "crowd", ToRect(crowd, scale), kTruth);
  for (const LabelledBox& object : image.ground_truth) {
    Tag(&panel, ClassName(names, object.label), ToRect(object.box, scale), kTruth);
  }
  return panel;
}

cv::Mat DetectionPanel(const DrawnImage& image, absl::Span<const std::string> names,
                       const GridOptions& options) {
  double scale = 1;
  cv::Mat panel = Panel(image.picture, options.panel_width, &scale);
  std::vector<LabelledBox> shown;
  for (const LabelledBox& detection : image.detections) {
    if (detection.score >= options.score_threshold) shown.push_back(detection);
  }
  // The best last, on top.
  std::stable_sort(shown.begin(), shown.end(),
                   [](const LabelledBox& a, const LabelledBox& b) { return a.score < b.score; });
  for (const LabelledBox& detection : shown) {
    Frame(&panel, ToRect(detection.box, scale), ClassColour(detection.label));
  }
  for (const LabelledBox& detection : shown) {
    Tag(&panel, absl::StrFormat("%s %.2f", ClassName(names, detection.label), detection.score),
        ToRect(detection.box, scale), ClassColour(detection.label));
  }
  return panel;
}

// The legend's rows: green for ground truth, then the classes that occur. Draws when `canvas` is
// given.
int Legend(absl::Span<const DrawnImage> images, absl::Span<const std::string> names, int width,
           cv::Mat* canvas) {
  constexpr double kScale = 0.45;
  struct Item {
    std::string text;
    cv::Scalar colour;
  };
  std::vector<Item> items = {{"left: ground truth (dashed: crowd)", kTruth}};
  std::set<int64_t> labels;
  for (const DrawnImage& image : images) {
    for (const LabelledBox& object : image.ground_truth) labels.insert(object.label);
    for (const LabelledBox& detection : image.detections) labels.insert(detection.label);
  }
  bool first = true;
  for (const int64_t label : labels) {
    items.push_back({absl::StrCat(first ? "right: detections: " : "", ClassName(names, label)),
                     ClassColour(label)});
    first = false;
  }
  cv::Point at(kGap, kGap);
  for (const Item& item : items) {
    int baseline = 0;
    const int text_width = cv::getTextSize(item.text, kFont, kScale, 1, &baseline).width;
    if (at.x > kGap && at.x + 20 + text_width > width - kGap) at = {kGap, at.y + kLegendRow};
    if (canvas != nullptr) {
      cv::rectangle(*canvas, {at.x, at.y + 2, 14, 14}, item.colour, cv::FILLED);
      Text(canvas, item.text, {at.x + 20, at.y + 14}, kScale, kInk);
    }
    at.x += 20 + text_width + 18;
  }
  return at.y + kLegendRow;
}

cv::Mat Grid(absl::Span<const DrawnImage> images, absl::Span<const std::string> names,
             const GridOptions& options) {
  const int columns = std::clamp(options.columns, 1, std::max(1, static_cast<int>(images.size())));
  const int cell_width = 2 * options.panel_width + 4;
  const int width = kGap + columns * (cell_width + kGap);
  std::vector<int> row_heights;
  for (size_t i = 0; i < images.size(); ++i) {
    if (i % static_cast<size_t>(columns) == 0) row_heights.push_back(0);
    const Size size = images[i].picture.size;
    const double scale =
        static_cast<double>(options.panel_width) / std::max(size.width, size.height);
    row_heights.back() = std::max(row_heights.back(), cvRound(size.height * scale));
  }
  const int legend = Legend(images, names, width, nullptr);
  int height = legend + kGap;
  for (const int row : row_heights) height += kTitleHeight + row + kGap;
  cv::Mat canvas(height, width, CV_8UC3, kPaper);
  Legend(images, names, width, &canvas);
  int y = legend;
  for (size_t i = 0; i < images.size(); ++i) {
    const auto column = static_cast<int>(i % static_cast<size_t>(columns));
    const size_t row = i / static_cast<size_t>(columns);
    const int x = kGap + column * (cell_width + kGap);
    Text(&canvas, images[i].title, {x, y + kTitleHeight - 9}, 0.45, kGrey);
    const cv::Mat left = GroundTruthPanel(images[i], names, options.panel_width);
    const cv::Mat right = DetectionPanel(images[i], names, options);
    left.copyTo(canvas(cv::Rect({x, y + kTitleHeight}, left.size())));
    right.copyTo(canvas(cv::Rect({x + left.cols + 4, y + kTitleHeight}, right.size())));
    const bool last_of_row = column == columns - 1;
    if (last_of_row) y += kTitleHeight + row_heights[row] + kGap;
  }
  return canvas;
}

}  // namespace

absl::StatusOr<Picture> ReadPicture(const ImageSource& source, const std::string& file_name) {
  std::vector<uint8_t> scratch;
  MUSTER_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> file, source.Read(file_name, &scratch));
  ImageDecoder decoder;
  Picture picture;
  const absl::StatusOr<Size> size = decoder.Decode(file, &picture.rgb);
  if (!size.ok()) {
    return absl::Status(size.status().code(), absl::StrCat(source.name(), ": image ", file_name,
                                                           ": ", size.status().message()));
  }
  picture.size = *size;
  return picture;
}

absl::Status WriteDetectionGrid(const std::filesystem::path& path,
                                absl::Span<const DrawnImage> images,
                                absl::Span<const std::string> class_names,
                                const GridOptions& options) {
  if (images.empty()) return absl::InvalidArgumentError("no images to draw");
  std::vector<uchar> png;
  try {
    if (!cv::imencode(".png", Grid(images, class_names, options), png)) {
      return absl::InternalError("OpenCV cannot encode a PNG");
    }
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("cannot draw ", path.string(), ": ", error.what()));
  }
  return base::WriteFileAtomically(
      path, absl::string_view(reinterpret_cast<const char*>(png.data()), png.size()));
}

}  // namespace muster::data
