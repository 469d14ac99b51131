#pragma once

#include <filesystem>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "worker/eval/coco_eval.h"
#include "worker/eval/detections.h"

namespace muster::eval {

// A COCO instances file. Errors as data::ReadAnnotationFile.
absl::StatusOr<GroundTruth> ReadGroundTruth(const std::filesystem::path& path);

// A COCO results file: [{"image_id":, "category_id":, "bbox": [x, y, width, height], "score":},
// ...]; other fields are skipped. Errors name the file, the entry's position and the field.
absl::StatusOr<std::vector<Detection>> ReadDetections(const std::filesystem::path& path);

// InvalidArgument when a detection is of an image that is not annotated (pycocotools refuses that
// too).
absl::Status CheckDetections(const GroundTruth& ground_truth,
                             absl::Span<const Detection> detections);

// Published whole or not at all. Numbers are written so that ReadDetections gives back the same.
absl::Status WriteDetections(const std::filesystem::path& path,
                             absl::Span<const Detection> detections);

}  // namespace muster::eval
