#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "worker/data/geometry.h"
#include "worker/data/image_source.h"

namespace muster::data {

// A decoded image: RGB, rows of 3 * width bytes.
struct Picture {
  Size size;
  std::vector<uint8_t> rgb;
};

// Reads one image file. Errors name the source and the member.
absl::StatusOr<Picture> ReadPicture(const ImageSource& source, const std::string& file_name);

// A box in pixels of the picture.
struct LabelledBox {
  Box box;
  int64_t label = 0;  // into the class names
  double score = 1;   // of a detection
};

struct DrawnImage {
  std::string title;  // the file name, say
  Picture picture;
  std::vector<LabelledBox> ground_truth;
  std::vector<Box> crowd_boxes;
  std::vector<LabelledBox> detections;
};

struct GridOptions {
  int columns = 2;        // images side by side
  int panel_width = 360;  // pixels; each image is shown twice
  // Detections below are not drawn.
  double score_threshold = 0.3;
};

// Publishes a PNG that shows each image twice, with its ground truth on the left (crowd regions
// dashed) and its detections, labelled with class and score, on the right, and a legend of the
// classes above.
absl::Status WriteDetectionGrid(const std::filesystem::path& path,
                                absl::Span<const DrawnImage> images,
                                absl::Span<const std::string> class_names,
                                const GridOptions& options);

}  // namespace muster::data
