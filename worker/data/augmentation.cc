#include "worker/data/augmentation.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace muster::data {
namespace {

using base::CounterRandom;

double Uniform(CounterRandom* random, double from, double to) {
  return from + (to - from) * random->NextDouble();
}

bool Coin(CounterRandom* random) { return random->NextBelow(2) == 1; }

// Box edges are half-open or, in mmdetection 0.6's form, inclusive; `edge` is what a width adds.
void MoveFarEdges(float by, Objects* objects) {
  for (std::vector<Box>* boxes : {&objects->boxes, &objects->crowd_boxes}) {
    for (Box& box : *boxes) {
      box.x2 += by;
      box.y2 += by;
    }
  }
}

void Shift(float left, float top, std::vector<Box>* boxes) {
  for (Box& box : *boxes) {
    box = {box.x1 - left, box.y1 - top, box.x2 - left, box.y2 - top};
  }
}

void Multiply(float ratio, std::vector<Box>* boxes) {
  for (Box& box : *boxes) {
    box = {box.x1 * ratio, box.y1 * ratio, box.x2 * ratio, box.y2 * ratio};
  }
}

struct Bounds {
  float left;
  float top;
  float right;
  float bottom;
};

Bounds BoundsOf(const Rect& rect) {
  return {static_cast<float>(rect.left), static_cast<float>(rect.top),
          static_cast<float>(rect.left + rect.size.width),
          static_cast<float>(rect.top + rect.size.height)};
}

bool CentreInside(const Box& box, const Bounds& bounds) {
  const float x = (box.x1 + box.x2) / 2;
  const float y = (box.y1 + box.y2) / 2;
  return x > bounds.left && y > bounds.top && x < bounds.right && y < bounds.bottom;
}

Box Clip(const Box& box, const Bounds& bounds) {
  return {std::max(box.x1, bounds.left), std::max(box.y1, bounds.top),
          std::min(box.x2, bounds.right), std::min(box.y2, bounds.bottom)};
}

// What `keep` turns down goes; labels follow.
template <typename Keep>
void Filter(std::vector<Box>* boxes, std::vector<int64_t>* labels, const Keep& keep) {
  size_t kept = 0;
  for (size_t i = 0; i < boxes->size(); ++i) {
    if (!keep((*boxes)[i])) continue;
    (*boxes)[kept] = (*boxes)[i];
    if (labels != nullptr) (*labels)[kept] = (*labels)[i];
    ++kept;
  }
  boxes->resize(kept);
  if (labels != nullptr) labels->resize(kept);
}

Distortion DrawDistortion(const PhotoMetricOptions& options, bool legacy, CounterRandom random) {
  Distortion drawn;
  if (Coin(&random)) {
    drawn.brightness =
        static_cast<float>(Uniform(&random, -options.brightness_delta, options.brightness_delta));
  }
  drawn.contrast_first = Coin(&random);
  if (Coin(&random)) {
    drawn.contrast =
        static_cast<float>(Uniform(&random, options.contrast_lower, options.contrast_upper));
  }
  if (Coin(&random)) {
    drawn.saturation =
        static_cast<float>(Uniform(&random, options.saturation_lower, options.saturation_upper));
    drawn.limit_saturation = !legacy;
  }
  if (Coin(&random)) {
    drawn.hue = static_cast<float>(Uniform(&random, -options.hue_delta, options.hue_delta));
  }
  if (Coin(&random)) {
    for (size_t i = 3; i > 1; --i) {
      std::swap(drawn.channels[i - 1], drawn.channels[random.NextBelow(i)]);
    }
  }
  return drawn;
}

// The expanded picture's size; *placed moves.
Size DrawExpansion(const ExpandOptions& options, CounterRandom random, Rect* placed,
                   Objects* objects) {
  const Size size = placed->size;
  if (random.NextDouble() >= options.prob) return size;
  const double ratio = Uniform(&random, options.ratio_min, options.ratio_max);
  const Size expanded = {static_cast<int>(size.width * ratio),
                         static_cast<int>(size.height * ratio)};
  placed->left = static_cast<int>(Uniform(&random, 0, size.width * ratio - size.width));
  placed->top = static_cast<int>(Uniform(&random, 0, size.height * ratio - size.height));
  placed->left = std::min(placed->left, expanded.width - size.width);
  placed->top = std::min(placed->top, expanded.height - size.height);
  for (std::vector<Box>* boxes : {&objects->boxes, &objects->crowd_boxes}) {
    Shift(static_cast<float>(-placed->left), static_cast<float>(-placed->top), boxes);
  }
  return expanded;
}

double Iou(const Box& a, const Box& b, float edge) {
  const double width = std::max(0.0F, std::min(a.x2, b.x2) - std::max(a.x1, b.x1) + edge);
  const double height = std::max(0.0F, std::min(a.y2, b.y2) - std::max(a.y1, b.y1) + edge);
  const auto area = [edge](const Box& box) {
    return double{box.x2 - box.x1 + edge} * double{box.y2 - box.y1 + edge};
  };
  const double shared = width * height;
  return shared / std::max(area(a) + area(b) - shared, 1e-6);
}

// The part of a picture of `size` that is kept; all of it when that is what is drawn.
Rect DrawMinIouCrop(const MinIouCropOptions& options, bool legacy, Size size, CounterRandom random,
                    Objects* objects) {
  constexpr int kAttempts = 50;
  const Rect whole = {.size = size};
  const float edge = legacy ? 1 : 0;
  std::vector<Box> judged = objects->boxes;
  if (!legacy) {
    judged.insert(judged.end(), objects->crowd_boxes.begin(), objects->crowd_boxes.end());
  }
  while (true) {
    // The whole picture, one of the IoUs, or any crop; all as likely.
    const uint64_t mode = random.NextBelow(options.min_ious.size() + 2);
    if (mode == 0) return whole;
    const double min_iou = mode <= options.min_ious.size() ? options.min_ious[mode - 1] : 0;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const double width = Uniform(&random, options.min_crop_size * size.width, size.width);
      const double height = Uniform(&random, options.min_crop_size * size.height, size.height);
      if (height / width < 0.5 || height / width > 2) continue;
      // mmdetection's draw: between the last place and pixel 1.
      const double left = Uniform(&random, size.width - width, 1);
      const double top = Uniform(&random, size.height - height, 1);
      Rect patch = {.left = static_cast<int>(left), .top = static_cast<int>(top), .size = {}};
      patch.size = {std::min(static_cast<int>(left + width), size.width) - patch.left,
                    std::min(static_cast<int>(top + height), size.height) - patch.top};
      if (patch.size.width < 1 || patch.size.height < 1) continue;
      if (judged.empty()) return patch;
      const Bounds bounds = BoundsOf(patch);
      const Box patch_box = {bounds.left, bounds.top, bounds.right, bounds.bottom};
      const auto overlaps = [&](const Box& box) { return Iou(patch_box, box, edge) >= min_iou; };
      const auto inside = [&](const Box& box) { return CentreInside(box, bounds); };
      if (!std::all_of(judged.begin(), judged.end(), overlaps) ||
          std::none_of(judged.begin(), judged.end(), inside)) {
        continue;
      }
      Filter(&objects->boxes, &objects->labels, inside);
      Filter(&objects->crowd_boxes, nullptr, inside);
      for (std::vector<Box>* boxes : {&objects->boxes, &objects->crowd_boxes}) {
        for (Box& box : *boxes) box = Clip(box, bounds);
        Shift(bounds.left, bounds.top, boxes);
      }
      return patch;
    }
  }
}

// Where a crop begins that shall have its middle at `centre`, give or take, inside the picture.
int CropStart(double centre, int noise, int crop, int side) {
  // nearbyint: Python rounds halves to even.
  const int start = static_cast<int>(std::nearbyint(centre - crop / 2.0)) + noise;
  return std::clamp(start, 0, side - crop);
}

void DrawResizeCrop(const ResizeCropOptions& options, Size size, bool landscape,
                    CounterRandom random, Augmentation* drawn, Objects* objects) {
  constexpr int kNoiseHeight = 10;
  constexpr int kNoiseWidth = 30;
  const Scale scale = options.scales[random.NextBelow(options.scales.size())];
  const double longer = std::max(size.width, size.height);
  const double shorter = std::min(size.width, size.height);
  int side = scale.short_side;
  if (longer / shorter * side > scale.long_side) {
    side = static_cast<int>(std::nearbyint(scale.long_side / longer * shorter));
  }
  side = std::max(side, 1);
  Size resized;
  if (size.height > size.width) {
    resized = {side, static_cast<int>(static_cast<double>(side) / size.width * size.height)};
  } else {
    resized = {static_cast<int>(static_cast<double>(side) / size.height * size.width), side};
  }
  const auto ratio = static_cast<float>(side / shorter);
  Multiply(ratio, &objects->boxes);
  Multiply(ratio, &objects->crowd_boxes);

  const Size wanted = landscape ? Size{options.crop.long_side, options.crop.short_side}
                                : Size{options.crop.short_side, options.crop.long_side};
  Rect crop;
  crop.size = {std::min(wanted.width, resized.width), std::min(wanted.height, resized.height)};
  if (objects->boxes.empty()) {
    const auto place = [&random](int places) {
      return static_cast<int>(random.NextBelow(static_cast<uint64_t>(places) + 1));
    };
    crop.left = place(resized.width - crop.size.width);
    crop.top = place(resized.height - crop.size.height);
  } else {
    const Box& chosen = objects->boxes[random.NextBelow(objects->boxes.size())];
    const int noise_h = static_cast<int>(random.NextBelow(2 * kNoiseHeight)) - kNoiseHeight;
    const int noise_w = static_cast<int>(random.NextBelow(2 * kNoiseWidth)) - kNoiseWidth;
    crop.left =
        CropStart(double{chosen.x1 + chosen.x2} / 2, noise_w, crop.size.width, resized.width);
    crop.top =
        CropStart(double{chosen.y1 + chosen.y2} / 2, noise_h, crop.size.height, resized.height);
  }
  const Bounds bounds = BoundsOf(crop);
  Filter(&objects->boxes, &objects->labels,
         [&](const Box& box) { return CentreInside(box, bounds); });
  const auto clip = [&](std::vector<Box>* boxes, std::vector<int64_t>* labels) {
    for (Box& box : *boxes) box = Clip(box, bounds);
    Filter(boxes, labels, [](const Box& box) { return box.x2 > box.x1 && box.y2 > box.y1; });
    Shift(bounds.left, bounds.top, boxes);
  };
  clip(&objects->boxes, &objects->labels);
  clip(&objects->crowd_boxes, nullptr);
  drawn->resized = resized;
  drawn->crop = crop;
}

}  // namespace

bool DrawAugmentation(const AugmentationOptions& options, Size original, const DrawKey& key,
                      Augmentation* drawn, Objects* objects) {
  *drawn = {.distortion = std::nullopt,
            .placed = {.size = original},
            .kept = {.size = original},
            .resized = std::nullopt,
            .crop = {}};
  if (!options.any()) return true;
  const float edge = options.legacy ? 1 : 0;
  MoveFarEdges(-edge, objects);
  if (options.photo_metric.has_value()) {
    drawn->distortion =
        DrawDistortion(*options.photo_metric, options.legacy, key.For("photo metric"));
  }
  Size size = original;
  if (options.expand.has_value()) {
    size = DrawExpansion(*options.expand, key.For("expand"), &drawn->placed, objects);
    drawn->kept.size = size;
  }
  if (options.min_iou_crop.has_value()) {
    drawn->kept = DrawMinIouCrop(*options.min_iou_crop, options.legacy, size,
                                 key.For("min iou crop"), objects);
  }
  // The crop above always keeps an object, or a crowd region, which will do for mmdetection 3.
  const bool had_objects = !objects->boxes.empty();
  if (options.resize_crop.has_value()) {
    DrawResizeCrop(*options.resize_crop, drawn->kept.size, original.width > original.height,
                   key.For("resize crop"), drawn, objects);
  }
  MoveFarEdges(edge, objects);
  return !had_objects || !objects->boxes.empty();
}

}  // namespace muster::data
