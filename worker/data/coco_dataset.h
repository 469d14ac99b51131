#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "worker/data/coco_annotations.h"
#include "worker/data/geometry.h"
#include "worker/data/image_source.h"

namespace muster::data {

struct DatasetImage {
  int64_t id = 0;
  std::string file_name;
  Size size;
  // False when no annotation at all, crowd or ignored ones included, names the image.
  bool annotated = false;
  // As annotated; they may stick out of the image, and are clipped where the image is resized.
  std::vector<Box> boxes;
  std::vector<int64_t> labels;  // of `boxes`, 0 .. classes - 1
  std::vector<Box> crowd_boxes;
};

// Images and boxes of one COCO file, by the parsing rules of mmdetection 3.3 (CocoDataset): objects
// marked `ignore`, with an area <= 0, a side < 1 pixel or no overlap with the image are left out;
// crowd regions are kept apart. (mmdetection 0.6 keeps objects without overlap, as boxes of one
// pixel at the image's border.) Immutable and thread-safe.
class CocoDataset {
 public:
  // Besides the errors of ReadAnnotationFile: an image without name or size, and a box that reaches
  // 2^24 pixels from the corner or more. Logs one warning when boxes stick out or lie wholly
  // outside, and one when some have no area, with their number and the first one.
  static absl::StatusOr<CocoDataset> Load(const std::filesystem::path& annotations);

  // In the file's order.
  const std::vector<DatasetImage>& images() const { return images_; }
  // Ascending id; the position is the label.
  const std::vector<Category>& categories() const { return categories_; }
  const std::filesystem::path& path() const { return path_; }
  // Boxes that stick out of their image by more than 0.01 pixels; boxes that lie wholly outside,
  // and objects with an area <= 0 or a side < 1 pixel, both of which are left out.
  size_t clipped_boxes() const { return clipped_boxes_; }
  size_t outside_boxes() const { return outside_boxes_; }
  size_t flat_boxes() const { return flat_boxes_; }

  // Indices into images(), ascending, of what is trained on: a shorter side of at least min_side
  // and, unless keep_unannotated, at least one annotation (crowd-only images stay).
  std::vector<int> TrainingImages(int min_side, bool keep_unannotated) const;
  // All of them.
  std::vector<int> AllImages() const;

 private:
  CocoDataset() = default;

  std::filesystem::path path_;
  std::vector<DatasetImage> images_;
  std::vector<Category> categories_;
  size_t clipped_boxes_ = 0;
  size_t outside_boxes_ = 0;
  size_t flat_boxes_ = 0;
};

// NotFound, with their number and the first five, when image files of `images` (indices) are
// missing in the source. Looks only at the source's index, so that it can run before a job starts.
absl::Status CheckMembers(const CocoDataset& dataset, absl::Span<const int> images,
                          const ImageSource& source);

}  // namespace muster::data
