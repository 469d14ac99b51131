#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "muster/config/v1/train_job.pb.h"
#include "worker/data/augmentation.h"
#include "worker/data/coco_dataset.h"
#include "worker/data/geometry.h"

namespace muster::data {

enum class ScaleMode { kValue, kRange };

// How annotated boxes follow a resize.
enum class BoxScaling {
  kPerAxis,  // mmdetection 3: x by new width / width, y by new height / height
  kScalar,   // mmdetection 0.6: the resize factor, on inclusive coordinates (x2 - 1)
};

// What happens between the decoded image and the batch.
struct PipelineOptions {
  // Before the resize. With its resize_crop there is no other resize.
  AugmentationOptions augmentation;
  std::vector<Scale> scales;  // one or more; none beside augmentation.resize_crop
  ScaleMode scale_mode = ScaleMode::kValue;
  double flip_ratio = 0;
  int size_divisor = 32;
  // Fixed size of the batches, long side horizontal for landscape batches; none: the largest image.
  std::optional<Scale> canvas;
  // RGB, of values 0..255: a pixel becomes (value - mean) / std in float32.
  std::array<float, 3> mean = {123.675F, 116.28F, 103.53F};
  std::array<float, 3> std = {58.395F, 57.12F, 57.375F};
  BoxScaling box_scaling = BoxScaling::kPerAxis;
  // Crowd boxes are handed on.
  bool with_crowd = true;
  // An image without objects is replaced by another of its aspect group, as mmdetection 0.6 does.
  bool replace_empty = false;
  // What may be taken instead of an image: CocoDataset::TrainingImages(min_image_side, keep_empty).
  int min_image_side = 0;
  bool keep_empty = false;
};

// From a job's config, defaults applied. InvalidArgument, with the field, where the parts do not
// fit: a canvas that is smaller than a scale or no multiple of size_divisor.
absl::StatusOr<PipelineOptions> TrainingPipeline(const config::v1::TrainJob& job);
// The test scale, no flip, test_pad_size.
absl::StatusOr<PipelineOptions> EvaluationPipeline(const config::v1::TrainJob& job);
// What both call at the end; `field` is named for the canvas.
absl::Status CheckPipeline(const PipelineOptions& options);

// Everything about one image that is known before it is decoded.
struct ImagePlan {
  Size original;
  Augmentation augmentation;
  // Augmented and resized.
  Size resized;
  // Where anchors are valid: `resized`, rounded up to multiples of size_divisor; the canvas, where
  // there is one, with BoxScaling::kPerAxis.
  Size padded;
  double factor = 1;  // min(long / longer side, short / shorter side) of the augmented image
  // resized / augmented size per axis, or `factor` twice with BoxScaling::kScalar.
  double scale_w = 1;
  double scale_h = 1;
  bool flip = false;
  // The orientation of the canvas: that of the original's aspect group (AspectGroup).
  bool landscape = false;
  Objects objects;  // in pixels of the resized and flipped image, inside it
};

// Draws all that is random about the image; a function of the arguments alone. None: another image
// must be taken (no object is left, or there was none and options.replace_empty).
std::optional<ImagePlan> PlanImage(const PipelineOptions& options, const DatasetImage& image,
                                   const DrawKey& key);

// Height and width of the batch that holds all `images`: the canvas, where there is one, and a
// square one where both orientations meet.
Size BatchSize(const PipelineOptions& options, absl::Span<const ImagePlan> images);

// Scales a box of the augmented image, flips it and clips it to the resized image, in float32 and
// in the order of the mmdetection that box_scaling names.
Box TransformBox(const PipelineOptions& options, const ImagePlan& plan, const Box& box);

// The resized image (RGB, rows without gaps) becomes one image of the batch: 3 planes of
// batch.height x batch.width floats at `out`, flipped and normalised, with zeros right and below.
class Normalizer {
 public:
  explicit Normalizer(const PipelineOptions& options);
  void Write(absl::Span<const uint8_t> rgb, Size size, bool flip, Size batch, float* out) const;
  void Write(absl::Span<const float> rgb, Size size, bool flip, Size batch, float* out) const;

 private:
  const std::array<float, 3> mean_;
  const std::array<float, 3> std_;
  // The normalised value of each byte.
  std::array<std::array<float, 256>, 3> table_;
};

}  // namespace muster::data
