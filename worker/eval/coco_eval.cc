#include "worker/eval/coco_eval.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace muster::eval {
namespace {

constexpr size_t kThresholds = 10;
constexpr size_t kRecallPoints = 101;
constexpr size_t kAreas = 4;  // all, small, medium, large
constexpr size_t kMaxDetections = 100;

struct AreaRange {
  double low;
  double high;
  bool Contains(double area) const { return area >= low && area <= high; }
};
constexpr std::array<AreaRange, kAreas> kAreaRanges = {{
    {0, 1e10},
    {0, 32.0 * 32.0},
    {32.0 * 32.0, 96.0 * 96.0},
    {96.0 * 96.0, 1e10},
}};

// The values of numpy.linspace, whose rounding decides ties at a threshold.
std::array<double, kThresholds> IouThresholds() {
  std::array<double, kThresholds> values;
  const double step = (0.95 - 0.5) / (kThresholds - 1);
  for (size_t i = 0; i < kThresholds; ++i) values[i] = static_cast<double>(i) * step + 0.5;
  values.back() = 0.95;
  return values;
}

std::array<double, kRecallPoints> RecallPoints() {
  std::array<double, kRecallPoints> values;
  const double step = 1.0 / (kRecallPoints - 1);
  for (size_t i = 0; i < kRecallPoints; ++i) values[i] = static_cast<double>(i) * step;
  values.back() = 1;
  return values;
}

// Intersection over union, or over the detection's own area for a crowd region.
double Iou(const std::array<double, 4>& detection, const GroundTruthBox& object) {
  const std::array<double, 4>& box = object.bbox;
  const double width =
      std::min(detection[0] + detection[2], box[0] + box[2]) - std::max(detection[0], box[0]);
  if (width <= 0) return 0;
  const double height =
      std::min(detection[1] + detection[3], box[1] + box[3]) - std::max(detection[1], box[1]);
  if (height <= 0) return 0;
  const double intersection = width * height;
  const double area = detection[2] * detection[3];
  return intersection / (object.crowd ? area : area + box[2] * box[3] - intersection);
}

// A detection of one class with what became of it.
struct Scored {
  double score = 0;
  size_t rank = 0;  // among the detections of its image and class
  std::array<std::array<bool, kThresholds>, kAreas> matched = {};
  std::array<std::array<bool, kThresholds>, kAreas> ignored = {};
};

struct ClassData {
  std::vector<std::pair<size_t, const GroundTruthBox*>> objects;  // with the image's position
  std::vector<std::pair<size_t, const Detection*>> detections;
};

// Matches the detections of one image and class (best score first) in one area range.
class ImageMatcher {
 public:
  // `objects` and `detections` of one image and class.
  void Match(absl::Span<const std::pair<size_t, const GroundTruthBox*>> objects,
             absl::Span<const std::pair<size_t, const Detection*>> detections,
             std::array<int64_t, kAreas>* annotated, std::vector<Scored>* out) {
    const size_t first = out->size();
    for (size_t d = 0; d < detections.size(); ++d) {
      out->push_back({.score = detections[d].second->score, .rank = d});
    }
    iou_.resize(detections.size() * objects.size());
    for (size_t d = 0; d < detections.size(); ++d) {
      for (size_t g = 0; g < objects.size(); ++g) {
        iou_[d * objects.size() + g] = Iou(detections[d].second->bbox, *objects[g].second);
      }
    }
    for (size_t area = 0; area < kAreas; ++area) {
      OrderObjects(objects, kAreaRanges[area]);
      (*annotated)[area] += static_cast<int64_t>(counted_);
      for (size_t t = 0; t < kThresholds; ++t) {
        taken_.assign(objects.size(), false);
        for (size_t d = 0; d < detections.size(); ++d) {
          Scored& scored = (*out)[first + d];
          bool& matched = scored.matched[area][t];
          bool& ignored = scored.ignored[area][t];
          const size_t best = BestObject(objects, d, thresholds_[t]);
          if (best < objects.size()) {
            taken_[best] = true;
            ignored = best >= counted_;
            // pycocotools marks a match by the object's id.
            matched = objects[order_[best]].second->id != 0;
          }
          if (!matched) {
            const std::array<double, 4>& box = detections[d].second->bbox;
            ignored = ignored || !kAreaRanges[area].Contains(box[2] * box[3]);
          }
        }
      }
    }
  }

 private:
  // order_: those that count (the first counted_), then the ignored ones; otherwise as they stand.
  void OrderObjects(absl::Span<const std::pair<size_t, const GroundTruthBox*>> objects,
                    const AreaRange& range) {
    order_.resize(objects.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    const auto middle = std::stable_partition(order_.begin(), order_.end(), [&](size_t g) {
      return !objects[g].second->crowd && range.Contains(objects[g].second->area);
    });
    counted_ = static_cast<size_t>(middle - order_.begin());
  }

  // Position in order_, or objects.size(). Among equal overlaps the last one wins.
  size_t BestObject(absl::Span<const std::pair<size_t, const GroundTruthBox*>> objects,
                    size_t detection, double threshold) const {
    double best_iou = std::min(threshold, 1 - 1e-10);
    size_t best = objects.size();
    for (size_t i = 0; i < objects.size(); ++i) {
      if (taken_[i] && !objects[order_[i]].second->crowd) continue;
      if (best < counted_ && i >= counted_) break;
      const double iou = iou_[detection * objects.size() + order_[i]];
      if (iou < best_iou) continue;
      best_iou = iou;
      best = i;
    }
    return best;
  }

  const std::array<double, kThresholds> thresholds_ = IouThresholds();
  std::vector<double> iou_;  // detection x object
  std::vector<size_t> order_;
  size_t counted_ = 0;
  std::vector<bool> taken_;
};

// Average precision (over the recall points) and final recall of one class at one threshold.
struct Curve {
  double average_precision = 0;
  double recall = 0;
};

class CurveTracer {
 public:
  // `scored` by falling score; only detections with a rank below max_detections count.
  Curve Trace(const std::vector<Scored>& scored, size_t area, size_t threshold,
              size_t max_detections, int64_t annotated) {
    recall_.clear();
    precision_.clear();
    double hits = 0;
    double misses = 0;
    for (const Scored& detection : scored) {
      if (detection.rank >= max_detections) continue;
      if (!detection.ignored[area][threshold]) {
        ++(detection.matched[area][threshold] ? hits : misses);
      }
      recall_.push_back(hits / static_cast<double>(annotated));
      precision_.push_back(hits / (misses + hits + std::numeric_limits<double>::epsilon()));
    }
    Curve curve;
    if (recall_.empty()) return curve;
    curve.recall = recall_.back();
    for (size_t i = precision_.size() - 1; i > 0; --i) {
      precision_[i - 1] = std::max(precision_[i - 1], precision_[i]);
    }
    size_t i = 0;
    for (const double point : points_) {
      while (i < recall_.size() && recall_[i] < point) ++i;
      if (i == recall_.size()) break;
      curve.average_precision += precision_[i];
    }
    curve.average_precision /= kRecallPoints;
    return curve;
  }

 private:
  const std::array<double, kRecallPoints> points_ = RecallPoints();
  std::vector<double> recall_;
  std::vector<double> precision_;
};

// Mean of what was added, -1 of nothing.
class Mean {
 public:
  void Add(double value) {
    sum_ += value;
    ++count_;
  }
  double value() const { return count_ == 0 ? -1 : sum_ / count_; }

 private:
  double sum_ = 0;
  double count_ = 0;
};

struct Totals {
  std::array<Mean, kAreas> precision;
  Mean precision50;
  Mean precision75;
  Mean recall1;
  Mean recall10;
  std::array<Mean, kAreas> recall100;
};

// All detections and objects of one class, image by image.
std::vector<Scored> MatchClass(ClassData* data, ImageMatcher* matcher,
                               std::array<int64_t, kAreas>* annotated) {
  std::stable_sort(data->objects.begin(), data->objects.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::stable_sort(data->detections.begin(), data->detections.end(),
                   [](const auto& a, const auto& b) {
                     if (a.first != b.first) return a.first < b.first;
                     return a.second->score > b.second->score;
                   });
  const absl::Span<const std::pair<size_t, const GroundTruthBox*>> objects = data->objects;
  const absl::Span<const std::pair<size_t, const Detection*>> detections = data->detections;
  std::vector<Scored> scored;
  size_t object = 0;
  size_t detection = 0;
  while (object < objects.size() || detection < detections.size()) {
    size_t image = std::numeric_limits<size_t>::max();
    if (object < objects.size()) image = std::min(image, objects[object].first);
    if (detection < detections.size()) image = std::min(image, detections[detection].first);
    const size_t first_object = object;
    const size_t first_detection = detection;
    while (object < objects.size() && objects[object].first == image) ++object;
    while (detection < detections.size() && detections[detection].first == image) ++detection;
    matcher->Match(
        objects.subspan(first_object, object - first_object),
        detections.subspan(first_detection, std::min(detection - first_detection, kMaxDetections)),
        annotated, &scored);
  }
  std::stable_sort(scored.begin(), scored.end(),
                   [](const Scored& a, const Scored& b) { return a.score > b.score; });
  return scored;
}

}  // namespace

std::vector<NamedFigure> NamedFigures(const CocoFigures& f) {
  return {{"AP", f.ap},         {"AP50", f.ap50},    {"AP75", f.ap75},     {"APs", f.ap_small},
          {"APm", f.ap_medium}, {"APl", f.ap_large}, {"AR1", f.ar1},       {"AR10", f.ar10},
          {"AR100", f.ar100},   {"ARs", f.ar_small}, {"ARm", f.ar_medium}, {"ARl", f.ar_large}};
}

CocoResult EvaluateCoco(const GroundTruth& ground_truth, absl::Span<const Detection> detections) {
  std::vector<int64_t> image_ids = ground_truth.image_ids;
  std::sort(image_ids.begin(), image_ids.end());
  absl::flat_hash_map<int64_t, size_t> image_positions;
  for (const int64_t id : image_ids) image_positions.emplace(id, image_positions.size());
  absl::flat_hash_map<int64_t, size_t> class_positions;
  for (const GroundTruthCategory& category : ground_truth.categories) {
    class_positions.emplace(category.id, class_positions.size());
  }
  std::vector<ClassData> classes(ground_truth.categories.size());
  for (const GroundTruthBox& object : ground_truth.boxes) {
    const auto image = image_positions.find(object.image_id);
    const auto position = class_positions.find(object.category_id);
    if (image == image_positions.end() || position == class_positions.end()) continue;
    classes[position->second].objects.emplace_back(image->second, &object);
  }
  for (const Detection& detection : detections) {
    const auto image = image_positions.find(detection.image_id);
    const auto position = class_positions.find(detection.category_id);
    if (image == image_positions.end() || position == class_positions.end()) continue;
    classes[position->second].detections.emplace_back(image->second, &detection);
  }

  CocoResult result;
  Totals totals;
  ImageMatcher matcher;
  CurveTracer tracer;
  for (size_t k = 0; k < classes.size(); ++k) {
    std::array<int64_t, kAreas> annotated = {};
    const std::vector<Scored> scored = MatchClass(&classes[k], &matcher, &annotated);
    Mean class_precision;
    double class_precision50 = -1;
    for (size_t area = 0; area < kAreas; ++area) {
      if (annotated[area] == 0) continue;
      for (size_t t = 0; t < kThresholds; ++t) {
        const Curve curve = tracer.Trace(scored, area, t, kMaxDetections, annotated[area]);
        totals.precision[area].Add(curve.average_precision);
        totals.recall100[area].Add(curve.recall);
        if (area != 0) continue;
        class_precision.Add(curve.average_precision);
        if (t == 0) {
          totals.precision50.Add(curve.average_precision);
          class_precision50 = curve.average_precision;
        }
        if (t == 5) totals.precision75.Add(curve.average_precision);
        totals.recall1.Add(tracer.Trace(scored, area, t, 1, annotated[area]).recall);
        totals.recall10.Add(tracer.Trace(scored, area, t, 10, annotated[area]).recall);
      }
    }
    result.categories.push_back({.category_id = ground_truth.categories[k].id,
                                 .name = ground_truth.categories[k].name,
                                 .ap = class_precision.value(),
                                 .ap50 = class_precision50,
                                 .annotated = annotated[0]});
  }
  result.figures = {.ap = totals.precision[0].value(),
                    .ap50 = totals.precision50.value(),
                    .ap75 = totals.precision75.value(),
                    .ap_small = totals.precision[1].value(),
                    .ap_medium = totals.precision[2].value(),
                    .ap_large = totals.precision[3].value(),
                    .ar1 = totals.recall1.value(),
                    .ar10 = totals.recall10.value(),
                    .ar100 = totals.recall100[0].value(),
                    .ar_small = totals.recall100[1].value(),
                    .ar_medium = totals.recall100[2].value(),
                    .ar_large = totals.recall100[3].value()};
  return result;
}

std::string SummaryTable(const CocoResult& result) {
  const auto percent = [](double ratio) {
    return ratio < 0 ? std::string("-") : absl::StrFormat("%.1f", 100 * ratio);
  };
  std::string names;
  std::string values;
  for (const NamedFigure& figure : NamedFigures(result.figures)) {
    absl::StrAppendFormat(&names, "%7s", figure.name);
    absl::StrAppendFormat(&values, "%7s", percent(figure.value));
  }
  std::string table = absl::StrCat(names, "\n", values, "\n");
  if (result.categories.size() < 2) return table;
  size_t width = absl::string_view("class").size();
  for (const CategoryFigures& category : result.categories) {
    width = std::max(width, category.name.size());
  }
  absl::StrAppendFormat(&table, "\n  %-*s%7s%7s%9s\n", static_cast<int>(width), "class", "AP",
                        "AP50", "objects");
  for (const CategoryFigures& category : result.categories) {
    absl::StrAppendFormat(&table, "  %-*s%7s%7s%9d\n", static_cast<int>(width), category.name,
                          percent(category.ap), percent(category.ap50), category.annotated);
  }
  return table;
}

}  // namespace muster::eval
