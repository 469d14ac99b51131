#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "muster/config/v1/train_job.pb.h"
#include "worker/data/geometry.h"

namespace muster::data {

// A bound of the image's longer and shorter side, in pixels.
struct Scale {
  int long_side = 0;
  int short_side = 0;

  friend bool operator==(const Scale&, const Scale&) = default;
};

enum class ScaleMode { kValue, kRange };

// How annotated boxes follow a resize.
enum class BoxScaling {
  kPerAxis,  // mmdetection 3: x by new width / width, y by new height / height
  kScalar,   // mmdetection 0.6: the resize factor, on inclusive coordinates (x2 - 1)
};

// What happens between the decoded image and the batch.
struct PipelineOptions {
  std::vector<Scale> scales;  // one or more
  ScaleMode scale_mode = ScaleMode::kValue;
  double flip_ratio = 0;
  int size_divisor = 32;
  // Fixed size of the batches, long side horizontal for landscape batches; none: the largest image.
  std::optional<Scale> canvas;
  // RGB, of values 0..255: a pixel becomes (value - mean) / std in float32.
  std::array<float, 3> mean = {123.675F, 116.28F, 103.53F};
  std::array<float, 3> std = {58.395F, 57.12F, 57.375F};
  BoxScaling box_scaling = BoxScaling::kPerAxis;
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
  Size resized;
  Size padded;        // `resized`, rounded up to multiples of size_divisor
  double factor = 1;  // min(long / longer side, short / shorter side)
  // resized / original per axis, or `factor` twice with BoxScaling::kScalar.
  double scale_w = 1;
  double scale_h = 1;
  bool flip = false;
};

// Draws scale and flip; a function of the arguments alone (common/base/counter_random.h).
ImagePlan PlanImage(const PipelineOptions& options, Size original, uint64_t seed, uint64_t epoch,
                    int64_t sample_id);

// Height and width of the batch that holds all `images`.
Size BatchSize(const PipelineOptions& options, absl::Span<const ImagePlan> images);

// Scales, clips to the resized image and flips, in float32 as mmdetection does.
Box TransformBox(const PipelineOptions& options, const ImagePlan& plan, const Box& box);

// The resized image (RGB, 3 bytes a pixel, rows without gaps) becomes one image of the batch: 3
// planes of batch.height x batch.width floats at `out`, flipped and normalised, with zeros right
// and below.
class Normalizer {
 public:
  explicit Normalizer(const PipelineOptions& options);
  void Write(absl::Span<const uint8_t> rgb, Size size, bool flip, Size batch, float* out) const;

 private:
  std::array<std::array<float, 256>, 3> table_;
};

}  // namespace muster::data
