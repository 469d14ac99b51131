#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

#include "worker/eval/detections.h"

namespace muster::eval {

// An annotated object. The box is COCO's: left upper corner and size, in pixels.
struct GroundTruthBox {
  int64_t id = 0;
  int64_t image_id = 0;
  int64_t category_id = 0;
  std::array<double, 4> bbox = {};  // x, y, width, height
  double area = 0;                  // the annotation's own: it decides small, medium and large
  bool crowd = false;
};

struct GroundTruthCategory {
  int64_t id = 0;
  std::string name;
};

// What is evaluated against. Detections of other images or categories are not counted.
struct GroundTruth {
  std::vector<int64_t> image_ids;
  std::vector<GroundTruthCategory> categories;  // ascending id
  std::vector<GroundTruthBox> boxes;
};

// COCO's 12 figures, as ratios 0..1; -1 where nothing is annotated that could be found.
struct CocoFigures {
  double ap = -1;
  double ap50 = -1;
  double ap75 = -1;
  double ap_small = -1;   // area below 32 x 32 pixels
  double ap_medium = -1;  // below 96 x 96
  double ap_large = -1;
  double ar1 = -1;  // recall with the best detection of each image and class
  double ar10 = -1;
  double ar100 = -1;
  double ar_small = -1;
  double ar_medium = -1;
  double ar_large = -1;
};

// The figures with their short names ("AP", "AP50", "AP75", "APs", ..., "ARl"), in COCO's order.
struct NamedFigure {
  std::string name;
  double value = -1;
};
std::vector<NamedFigure> NamedFigures(const CocoFigures& figures);

struct CategoryFigures {
  int64_t category_id = 0;
  std::string name;
  double ap = -1;
  double ap50 = -1;
  int64_t annotated = 0;  // objects, without crowd regions
};

struct CocoResult {
  CocoFigures figures;
  std::vector<CategoryFigures> categories;  // ascending id
};

// COCO's bbox evaluation, equal to COCOeval of pycocotools 2.0.11 with its default parameters: IoU
// 0.50, 0.55, ..., 0.95; 101 recall points; at most 1, 10 and 100 detections of an image and class;
// crowd regions absorb detections. That includes pycocotools' treatment of an object with id 0,
// whose detection counts as a false positive (ReadGroundTruth warns of such a file). Equal scores
// keep the order of `detections`, which therefore must not depend on the number of ranks:
// SortByImage first when they were gathered.
CocoResult EvaluateCoco(const GroundTruth& ground_truth, absl::Span<const Detection> detections);

// The 12 figures and, with more than one category, a row for each, as people read them (percent).
std::string SummaryTable(const CocoResult& result);

}  // namespace muster::eval
