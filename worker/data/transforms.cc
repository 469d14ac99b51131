#include "worker/data/transforms.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "common/base/counter_random.h"
#include "common/base/status_macros.h"

namespace muster::data {
namespace {

using base::CounterRandom;

int RoundUp(int value, int divisor) { return (value + divisor - 1) / divisor * divisor; }

template <typename SideBounds>
Scale ToScale(const SideBounds& bounds) {
  const int a = static_cast<int>(bounds.long_side());
  const int b = static_cast<int>(bounds.short_side());
  return {.long_side = std::max(a, b), .short_side = std::min(a, b)};
}

PipelineOptions CommonOptions(const config::v1::TrainJob& job) {
  PipelineOptions options;
  options.size_divisor = static_cast<int>(job.data().size_divisor());
  for (int c = 0; c < 3; ++c) {
    if (c < job.data().mean_size()) {
      options.mean[static_cast<size_t>(c)] = static_cast<float>(job.data().mean(c));
    }
    if (c < job.data().std_size()) {
      options.std[static_cast<size_t>(c)] = static_cast<float>(job.data().std(c));
    }
  }
  options.box_scaling = job.model().conventions() == config::v1::CONVENTIONS_SEED
                            ? BoxScaling::kScalar
                            : BoxScaling::kPerAxis;
  options.with_crowd = job.data().with_crowd();
  return options;
}

AugmentationOptions Augmentations(const config::v1::TrainJob& job) {
  const config::v1::Data& data = job.data();
  AugmentationOptions options;
  options.legacy = job.model().conventions() == config::v1::CONVENTIONS_SEED;
  if (data.has_photo_metric_distortion()) {
    const config::v1::PhotoMetricDistortion& from = data.photo_metric_distortion();
    options.photo_metric = {.brightness_delta = from.brightness_delta(),
                            .contrast_lower = from.contrast_lower(),
                            .contrast_upper = from.contrast_upper(),
                            .saturation_lower = from.saturation_lower(),
                            .saturation_upper = from.saturation_upper(),
                            .hue_delta = from.hue_delta()};
  }
  if (data.has_expand()) {
    options.expand = {.ratio_min = data.expand().ratio_min(),
                      .ratio_max = data.expand().ratio_max(),
                      .prob = data.expand().prob()};
  }
  if (data.has_min_iou_random_crop()) {
    const config::v1::MinIoURandomCrop& from = data.min_iou_random_crop();
    options.min_iou_crop = {.min_ious = {from.min_ious().begin(), from.min_ious().end()},
                            .min_crop_size = from.min_crop_size()};
  }
  if (data.has_rand_resize_crop()) {
    ResizeCropOptions& crop = options.resize_crop.emplace();
    crop.crop = ToScale(data.rand_resize_crop().crop_size());
    for (const config::v1::Scale& scale : data.rand_resize_crop().scales()) {
      crop.scales.push_back(ToScale(scale));
    }
  }
  return options;
}

absl::Status InField(absl::string_view field, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(field, ": ", status.message()));
}

}  // namespace

absl::StatusOr<PipelineOptions> TrainingPipeline(const config::v1::TrainJob& job) {
  PipelineOptions options = CommonOptions(job);
  options.augmentation = Augmentations(job);
  if (!options.augmentation.resize_crop.has_value()) {
    for (const config::v1::Scale& scale : job.data().multi_scale().scales()) {
      options.scales.push_back(ToScale(scale));
    }
  }
  options.keep_empty = job.data().keep_empty();
  options.replace_empty =
      job.model().conventions() == config::v1::CONVENTIONS_SEED && !options.keep_empty;
  options.min_image_side = static_cast<int>(job.data().min_image_side());
  options.scale_mode = job.data().multi_scale().mode() == config::v1::MULTI_SCALE_MODE_RANGE
                           ? ScaleMode::kRange
                           : ScaleMode::kValue;
  options.flip_ratio = job.data().flip_ratio();
  if (job.data().has_pad_size()) options.canvas = ToScale(job.data().pad_size());
  MUSTER_RETURN_IF_ERROR(InField("data.pad_size", CheckPipeline(options)));
  return options;
}

absl::StatusOr<PipelineOptions> EvaluationPipeline(const config::v1::TrainJob& job) {
  PipelineOptions options = CommonOptions(job);
  options.scales = {ToScale(job.data().test_scale())};
  if (job.data().has_test_pad_size()) options.canvas = ToScale(job.data().test_pad_size());
  MUSTER_RETURN_IF_ERROR(InField("data.test_pad_size", CheckPipeline(options)));
  return options;
}

absl::Status CheckPipeline(const PipelineOptions& options) {
  if (options.size_divisor < 1) return absl::InvalidArgumentError("size_divisor is not positive");
  const std::optional<ResizeCropOptions>& crop = options.augmentation.resize_crop;
  const std::vector<Scale>& scales = crop.has_value() ? crop->scales : options.scales;
  if (scales.empty()) return absl::InvalidArgumentError("no scale");
  if (options.scale_mode == ScaleMode::kRange && scales.size() != 2 && !crop.has_value()) {
    return absl::InvalidArgumentError("mode RANGE needs exactly two scales");
  }
  Scale largest;
  const auto check = [&largest](const Scale& scale) {
    if (scale.short_side < 1 || scale.long_side < scale.short_side) {
      return absl::InvalidArgumentError("a scale has a side of 0");
    }
    largest.long_side = std::max(largest.long_side, scale.long_side);
    largest.short_side = std::max(largest.short_side, scale.short_side);
    return absl::OkStatus();
  };
  for (const Scale& scale : scales) MUSTER_RETURN_IF_ERROR(check(scale));
  if (crop.has_value()) {
    largest = {};  // no image is larger than the crop
    MUSTER_RETURN_IF_ERROR(check(crop->crop));
  }
  if (!options.canvas.has_value()) return absl::OkStatus();
  const Scale& canvas = *options.canvas;
  const std::string size = absl::StrCat(canvas.long_side, "x", canvas.short_side);
  if (canvas.long_side % options.size_divisor != 0 ||
      canvas.short_side % options.size_divisor != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(size, " is no multiple of size_divisor ", options.size_divisor, "; use ",
                     RoundUp(canvas.long_side, options.size_divisor), "x",
                     RoundUp(canvas.short_side, options.size_divisor)));
  }
  if (canvas.long_side < largest.long_side || canvas.short_side < largest.short_side) {
    return absl::InvalidArgumentError(absl::StrCat(
        size, " cannot hold images of scale ", largest.long_side, "x", largest.short_side,
        "; use at least ", RoundUp(largest.long_side, options.size_divisor), "x",
        RoundUp(largest.short_side, options.size_divisor)));
  }
  return absl::OkStatus();
}

namespace {

Scale DrawScale(const PipelineOptions& options, CounterRandom random) {
  if (options.scales.size() == 1) return options.scales.front();
  if (options.scale_mode == ScaleMode::kValue) {
    return options.scales[random.NextBelow(options.scales.size())];
  }
  const auto between = [&random](int a, int b) {
    const int low = std::min(a, b);
    const auto values = static_cast<uint64_t>(std::max(a, b) - low) + 1;
    return low + static_cast<int>(random.NextBelow(values));
  };
  const Scale& first = options.scales.front();
  const Scale& other = options.scales.back();
  Scale scale;
  scale.long_side = between(first.long_side, other.long_side);
  scale.short_side = between(first.short_side, other.short_side);
  return scale;
}

Size Along(const Scale& canvas, bool landscape) {
  return landscape ? Size{canvas.long_side, canvas.short_side}
                   : Size{canvas.short_side, canvas.long_side};
}

// How much the augmented image of `size` is enlarged.
double Factor(const PipelineOptions& options, Scale scale, Size size, bool landscape) {
  const double longer = std::max(size.width, size.height);
  const double shorter = std::min(size.width, size.height);
  // mmcv's rescale_size, which takes a scale's sides in any order.
  double factor = std::min(std::max(scale.long_side, scale.short_side) / longer,
                           std::min(scale.long_side, scale.short_side) / shorter);
  // A random crop may lie across its image, and so across the canvas of its batch.
  const bool across = landscape ? size.height > size.width : size.width > size.height;
  if (options.canvas.has_value() && across) {
    factor = std::min(
        factor, std::min(options.canvas->short_side / longer, options.canvas->long_side / shorter));
  }
  return factor;
}

}  // namespace

std::optional<ImagePlan> PlanImage(const PipelineOptions& options, const DatasetImage& image,
                                   const DrawKey& key) {
  ImagePlan plan;
  plan.original = image.size;
  plan.landscape = image.size.width > image.size.height;
  plan.objects = {.boxes = image.boxes, .labels = image.labels, .crowd_boxes = {}};
  if (options.with_crowd) plan.objects.crowd_boxes = image.crowd_boxes;
  if (options.replace_empty && plan.objects.boxes.empty()) return std::nullopt;
  if (!DrawAugmentation(options.augmentation, image.size, key, &plan.augmentation, &plan.objects)) {
    return std::nullopt;
  }
  if (options.flip_ratio > 0) plan.flip = key.For("flip").NextDouble() < options.flip_ratio;
  const Size size = plan.augmentation.result();
  plan.resized = size;
  if (!options.augmentation.resize_crop.has_value()) {
    plan.factor = Factor(options, DrawScale(options, key.For("scale")), size, plan.landscape);
    plan.resized.width = std::max(1, static_cast<int>(size.width * plan.factor + 0.5));
    plan.resized.height = std::max(1, static_cast<int>(size.height * plan.factor + 0.5));
  }
  plan.padded = {RoundUp(plan.resized.width, options.size_divisor),
                 RoundUp(plan.resized.height, options.size_divisor)};
  const bool scalar = options.box_scaling == BoxScaling::kScalar;
  // mmdetection 3 notes the canvas as the padded size (BatchFixedSizePad), 0.6's collate does not.
  if (options.canvas.has_value() && !scalar) plan.padded = Along(*options.canvas, plan.landscape);
  plan.scale_w = scalar ? plan.factor : static_cast<double>(plan.resized.width) / size.width;
  plan.scale_h = scalar ? plan.factor : static_cast<double>(plan.resized.height) / size.height;
  for (Box& box : plan.objects.boxes) box = TransformBox(options, plan, box);
  for (Box& box : plan.objects.crowd_boxes) box = TransformBox(options, plan, box);
  return plan;
}

Size BatchSize(const PipelineOptions& options, absl::Span<const ImagePlan> images) {
  Size largest;
  for (const ImagePlan& image : images) {
    largest.width = std::max(largest.width, image.padded.width);
    largest.height = std::max(largest.height, image.padded.height);
  }
  if (!options.canvas.has_value()) return largest;
  Size canvas = Along(*options.canvas, !images.empty() && images.front().landscape);
  for (const ImagePlan& image : images) {
    const Size own = Along(*options.canvas, image.landscape);
    canvas.width = std::max(canvas.width, own.width);
    canvas.height = std::max(canvas.height, own.height);
  }
  return canvas;
}

Box TransformBox(const PipelineOptions& options, const ImagePlan& plan, const Box& box) {
  const auto scale_w = static_cast<float>(plan.scale_w);
  const auto scale_h = static_cast<float>(plan.scale_h);
  const auto width = static_cast<float>(plan.resized.width);
  const auto height = static_cast<float>(plan.resized.height);
  if (options.box_scaling == BoxScaling::kPerAxis) {
    const Box in = {
        std::clamp(box.x1 * scale_w, 0.0F, width), std::clamp(box.y1 * scale_h, 0.0F, height),
        std::clamp(box.x2 * scale_w, 0.0F, width), std::clamp(box.y2 * scale_h, 0.0F, height)};
    return plan.flip ? Box{width - in.x2, in.y1, width - in.x1, in.y2} : in;
  }
  // There x2 is the last pixel inside; it is scaled, flipped and clipped to [0, width - 1] as such.
  Box out = {box.x1 * scale_w, box.y1 * scale_h, (box.x2 - 1) * scale_w, (box.y2 - 1) * scale_h};
  if (plan.flip) {
    const float x1 = width - out.x2 - 1;
    out.x2 = width - out.x1 - 1;
    out.x1 = x1;
  }
  return {std::clamp(out.x1, 0.0F, width - 1), std::clamp(out.y1, 0.0F, height - 1),
          std::clamp(out.x2, 0.0F, width - 1) + 1, std::clamp(out.y2, 0.0F, height - 1) + 1};
}

namespace {

// value(c, v): channel c's normalised v.
template <typename T, typename Value>
void WritePlanes(absl::Span<const T> rgb, Size size, bool flip, Size batch, const Value& value,
                 float* out) {
  const auto width = static_cast<size_t>(size.width);
  const auto height = static_cast<size_t>(size.height);
  const auto batch_width = static_cast<size_t>(batch.width);
  const auto batch_height = static_cast<size_t>(batch.height);
  const size_t plane = batch_width * batch_height;
  for (size_t y = 0; y < height; ++y) {
    const T* in = rgb.data() + 3 * width * y;
    float* red = out + batch_width * y;
    float* green = red + plane;
    float* blue = green + plane;
    if (flip) {
      for (size_t x = width; x-- > 0; in += 3) {
        red[x] = value(0, in[0]);
        green[x] = value(1, in[1]);
        blue[x] = value(2, in[2]);
      }
    } else {
      for (size_t x = 0; x < width; ++x, in += 3) {
        red[x] = value(0, in[0]);
        green[x] = value(1, in[1]);
        blue[x] = value(2, in[2]);
      }
    }
    for (float* row : {red, green, blue}) std::fill(row + width, row + batch_width, 0.0F);
  }
  for (size_t c = 0; c < 3; ++c) {
    std::fill(out + plane * c + batch_width * height, out + plane * (c + 1), 0.0F);
  }
}

}  // namespace

Normalizer::Normalizer(const PipelineOptions& options) : mean_(options.mean), std_(options.std) {
  for (size_t c = 0; c < table_.size(); ++c) {
    for (size_t value = 0; value < table_[c].size(); ++value) {
      table_[c][value] = (static_cast<float>(value) - mean_[c]) / std_[c];
    }
  }
}

void Normalizer::Write(absl::Span<const uint8_t> rgb, Size size, bool flip, Size batch,
                       float* out) const {
  WritePlanes(
      rgb, size, flip, batch, [this](size_t c, uint8_t value) { return table_[c][value]; }, out);
}

void Normalizer::Write(absl::Span<const float> rgb, Size size, bool flip, Size batch,
                       float* out) const {
  WritePlanes(
      rgb, size, flip, batch,
      [this](size_t c, float value) { return (value - mean_[c]) / std_[c]; }, out);
}

}  // namespace muster::data
