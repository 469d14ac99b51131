#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "common/base/counter_random.h"
#include "worker/data/geometry.h"

// What training does to an image before the resize: photometric distortion, expansion, a random
// crop by IoU, then resize and crop, in this order (mmdetection 0.6's extra_aug). All of it but the
// pixels' values is decided here, from the annotations alone, before the image is decoded.
namespace muster::data {

// The ground truth of one image.
struct Objects {
  std::vector<Box> boxes;
  std::vector<int64_t> labels;  // of `boxes`
  std::vector<Box> crowd_boxes;
};

// The keys of an image's random draws.
struct DrawKey {
  uint64_t seed = 0;
  uint64_t epoch = 0;
  uint64_t sample = 0;

  base::CounterRandom For(std::string_view purpose) const { return {seed, epoch, sample, purpose}; }
};

// See the messages of the same names in proto/muster/config/v1/train_job.proto.
struct PhotoMetricOptions {
  double brightness_delta = 32;
  double contrast_lower = 0.5;
  double contrast_upper = 1.5;
  double saturation_lower = 0.5;
  double saturation_upper = 1.5;
  double hue_delta = 18;
};

struct ExpandOptions {
  double ratio_min = 1;
  double ratio_max = 4;
  double prob = 0.5;
};

struct MinIouCropOptions {
  std::vector<double> min_ious = {0.1, 0.3, 0.5, 0.7, 0.9};
  double min_crop_size = 0.3;
};

struct ResizeCropOptions {
  std::vector<Scale> scales;  // one or more
  Scale crop;
};

struct AugmentationOptions {
  std::optional<PhotoMetricOptions> photo_metric;
  std::optional<ExpandOptions> expand;
  std::optional<MinIouCropOptions> min_iou_crop;
  std::optional<ResizeCropOptions> resize_crop;
  // mmdetection 0.6's arithmetic: a box's x2 and y2 are its last pixels (+1 in areas), crowd boxes
  // have no say in where the crop lies, and a raised saturation is not limited to 1.
  bool legacy = false;

  bool any() const {
    return photo_metric.has_value() || expand.has_value() || min_iou_crop.has_value() ||
           resize_crop.has_value();
  }
};

// Of float32 values 0..255; the defaults change nothing.
struct Distortion {
  float brightness = 0;  // is added
  bool contrast_first = false;
  float contrast = 1;    // is multiplied, before the colours or after them
  float saturation = 1;  // is multiplied
  bool limit_saturation = false;
  float hue = 0;  // degrees; is added
  std::array<int, 3> channels = {0, 1, 2};

  friend bool operator==(const Distortion&, const Distortion&) = default;
};

// What was drawn for one image.
struct Augmentation {
  std::optional<Distortion> distortion;
  // Where the image lies in the expanded picture of the mean colour ({0, 0, its size} when it is
  // not expanded), and the part of that picture that is kept.
  Rect placed;
  Rect kept;
  // The kept part is resized to this and cropped again (rand_resize_crop).
  std::optional<Size> resized;
  Rect crop;

  // Whether pixels change before the (first) resize.
  bool changes_pixels() const { return distortion.has_value() || placed != kept; }
  Size result() const { return resized.has_value() ? crop.size : kept.size; }
};

// Draws for an image of `original` pixels and takes *objects along: boxes that are left out go with
// their labels; the rest is in pixels of the result and may still stick out of it.
//
// The random crop follows mmdetection: objects whose centre is not inside are dropped, and a crop
// without any is not taken. rand_resize_crop keeps objects by their centre too; of a crowd region,
// what lies inside. A crop's long side is along that of `original` (a square counts as portrait, as
// in AspectGroup): the image fits the canvas of its group.
//
// False when there were objects and none remains: take another image.
bool DrawAugmentation(const AugmentationOptions& options, Size original, const DrawKey& key,
                      Augmentation* drawn, Objects* objects);

}  // namespace muster::data
