#include "worker/data/coco_dataset.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"

namespace muster::data {
namespace {

// Annotation tools write sums such as 639.9999999 + 0.0000002; nobody needs to hear of those.
constexpr double kClipTolerance = 0.01;
// From here on a float32 does not hold each pixel.
constexpr double kMaxCoordinate = 0x1p24;

absl::Status CheckImage(const AnnotatedImage& image, const std::string& file) {
  const std::string entry = absl::StrCat(file, ": image id ", image.id, ", field ");
  if (image.file_name.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(entry, "file_name: missing"));
  }
  if (image.width <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(entry, "width: missing or 0"));
  }
  if (image.height <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(entry, "height: missing or 0"));
  }
  return absl::OkStatus();
}

std::string Describe(const Annotation& annotation, const DatasetImage& image) {
  return absl::StrFormat("annotation id %d: bbox [%g, %g, %g, %g] in image %s of %dx%d",
                         annotation.id, annotation.x, annotation.y, annotation.width,
                         annotation.height, image.file_name, image.size.width, image.size.height);
}

}  // namespace

absl::StatusOr<CocoDataset> CocoDataset::Load(const std::filesystem::path& annotations) {
  MUSTER_ASSIGN_OR_RETURN(AnnotationFile parsed, ReadAnnotationFile(annotations));
  const std::string file = annotations.string();
  CocoDataset dataset;
  dataset.path_ = annotations;
  dataset.categories_ = std::move(parsed.categories);
  absl::flat_hash_map<int64_t, int64_t> labels;
  for (const Category& category : dataset.categories_) {
    labels.emplace(category.id, static_cast<int64_t>(labels.size()));
  }
  absl::flat_hash_map<int64_t, size_t> positions;
  dataset.images_.reserve(parsed.images.size());
  for (AnnotatedImage& image : parsed.images) {
    MUSTER_RETURN_IF_ERROR(CheckImage(image, file));
    positions.emplace(image.id, dataset.images_.size());
    DatasetImage& added = dataset.images_.emplace_back();
    added.id = image.id;
    added.file_name = std::move(image.file_name);
    added.size = {image.width, image.height};
  }

  std::string first_outside;
  std::string first_flat;
  for (const Annotation& annotation : parsed.annotations) {
    DatasetImage& image = dataset.images_[positions.at(annotation.image_id)];
    image.annotated = true;
    const double right = annotation.x + annotation.width;
    const double bottom = annotation.y + annotation.height;
    for (const double edge : {annotation.x, annotation.y, right, bottom}) {
      if (std::abs(edge) < kMaxCoordinate) continue;
      return absl::InvalidArgumentError(absl::StrCat(file, ": ", Describe(annotation, image),
                                                     ": beyond ", int64_t{1} << 24,
                                                     " pixels; correct or remove it"));
    }
    if (annotation.ignore) continue;
    if (annotation.area <= 0 || annotation.width < 1 || annotation.height < 1) {
      if (++dataset.flat_boxes_ == 1) first_flat = Describe(annotation, image);
      continue;
    }
    const double x1 = std::max(annotation.x, 0.0);
    const double y1 = std::max(annotation.y, 0.0);
    const double x2 = std::min<double>(right, image.size.width);
    const double y2 = std::min<double>(bottom, image.size.height);
    const bool outside = x2 <= x1 || y2 <= y1;
    const double cut =
        std::max(std::max(x1 - annotation.x, y1 - annotation.y), std::max(right - x2, bottom - y2));
    if (outside || cut > kClipTolerance) {
      ++(outside ? dataset.outside_boxes_ : dataset.clipped_boxes_);
      if (first_outside.empty()) first_outside = Describe(annotation, image);
    }
    if (outside) continue;
    const Box box = {static_cast<float>(annotation.x), static_cast<float>(annotation.y),
                     static_cast<float>(right), static_cast<float>(bottom)};
    if (annotation.crowd) {
      image.crowd_boxes.push_back(box);
    } else {
      image.boxes.push_back(box);
      image.labels.push_back(labels.at(annotation.category_id));
    }
  }
  if (!first_outside.empty()) {
    base::Log(base::LogSeverity::kWarning, "data",
              "boxes outside their image: those that stick out are clipped, the rest left out",
              {{"file", file},
               {"clipped", dataset.clipped_boxes_},
               {"left_out", dataset.outside_boxes_},
               {"first", first_outside}});
  }
  if (!first_flat.empty()) {
    base::Log(base::LogSeverity::kWarning, "data",
              "objects left out: no area, or a side of less than 1 pixel",
              {{"file", file}, {"left_out", dataset.flat_boxes_}, {"first", first_flat}});
  }
  return dataset;
}

std::vector<int> CocoDataset::TrainingImages(int min_side, bool keep_unannotated) const {
  std::vector<int> kept;
  for (size_t i = 0; i < images_.size(); ++i) {
    const DatasetImage& image = images_[i];
    if (std::min(image.size.width, image.size.height) < min_side) continue;
    if (!image.annotated && !keep_unannotated) continue;
    kept.push_back(static_cast<int>(i));
  }
  return kept;
}

std::vector<int> CocoDataset::AllImages() const {
  std::vector<int> all(images_.size());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

absl::Status CheckMembers(const CocoDataset& dataset, absl::Span<const int> images,
                          const ImageSource& source) {
  constexpr size_t kNamed = 5;
  size_t missing = 0;
  std::string names;
  for (const int index : images) {
    const std::string& file_name = dataset.images()[static_cast<size_t>(index)].file_name;
    if (source.Contains(file_name)) continue;
    if (++missing <= kNamed) absl::StrAppend(&names, missing == 1 ? "" : ", ", file_name);
  }
  if (missing == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      source.name(), ": ", missing, " of ", images.size(), " image files of ",
      dataset.path().string(), " are missing: ", names, missing > kNamed ? ", ..." : ""));
}

}  // namespace muster::data
