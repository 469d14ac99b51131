#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace muster::data {

struct AnnotatedImage {
  int64_t id = 0;
  std::string file_name;  // empty when the file does not say
  int width = 0;          // pixels; 0 when the file does not say
  int height = 0;
};

struct Category {
  int64_t id = 0;
  std::string name;
};

struct Annotation {
  int64_t id = 0;
  int64_t image_id = 0;
  int64_t category_id = 0;
  // As in the file: the left upper corner, in pixels from the image's corner, and the size.
  double x = 0;
  double y = 0;
  double width = 0;
  double height = 0;
  // Pixels of the object's mask; the box's area where the annotator had no mask.
  double area = 0;
  bool crowd = false;
  bool ignore = false;  // not part of COCO; mmdetection leaves such objects out of training
};

// A COCO "instances" file as it stands, in its own order.
struct AnnotationFile {
  std::vector<AnnotatedImage> images;
  std::vector<Category> categories;  // ascending id: the position is the label 0 .. C-1
  std::vector<Annotation> annotations;
};

// Reads and checks a COCO instances file (segmentations are skipped). Required: images[].id;
// categories[].id and name; annotations[].id, image_id, category_id, bbox, area. An id that occurs
// twice, an annotation whose image or category is not listed, and a number that is missing or not
// finite are errors that name the file, the entry and the field.
absl::StatusOr<AnnotationFile> ReadAnnotationFile(const std::filesystem::path& path);

}  // namespace muster::data
