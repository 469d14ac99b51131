#include "worker/data/transforms.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "common/base/counter_random.h"
#include "common/base/status_macros.h"

namespace muster::data {
namespace {

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
  return options;
}

absl::Status InField(absl::string_view field, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(field, ": ", status.message()));
}

}  // namespace

absl::StatusOr<PipelineOptions> TrainingPipeline(const config::v1::TrainJob& job) {
  PipelineOptions options = CommonOptions(job);
  for (const config::v1::Scale& scale : job.data().multi_scale().scales()) {
    options.scales.push_back(ToScale(scale));
  }
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
  if (options.scales.empty()) return absl::InvalidArgumentError("no scale");
  if (options.scale_mode == ScaleMode::kRange && options.scales.size() != 2) {
    return absl::InvalidArgumentError("mode RANGE needs exactly two scales");
  }
  Scale largest;
  for (const Scale& scale : options.scales) {
    if (scale.short_side < 1 || scale.long_side < scale.short_side) {
      return absl::InvalidArgumentError("a scale has a side of 0");
    }
    largest.long_side = std::max(largest.long_side, scale.long_side);
    largest.short_side = std::max(largest.short_side, scale.short_side);
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

ImagePlan PlanImage(const PipelineOptions& options, Size original, uint64_t seed, uint64_t epoch,
                    int64_t sample_id) {
  const auto sample = static_cast<uint64_t>(sample_id);
  Scale scale = options.scales.front();
  if (options.scales.size() > 1) {
    base::CounterRandom random(seed, epoch, sample, "scale");
    if (options.scale_mode == ScaleMode::kValue) {
      scale = options.scales[random.NextBelow(options.scales.size())];
    } else {
      const auto between = [&random](int a, int b) {
        const int low = std::min(a, b);
        const auto values = static_cast<uint64_t>(std::max(a, b) - low) + 1;
        return low + static_cast<int>(random.NextBelow(values));
      };
      const Scale& other = options.scales.back();
      scale.long_side = between(options.scales.front().long_side, other.long_side);
      scale.short_side = between(options.scales.front().short_side, other.short_side);
    }
  }
  ImagePlan plan;
  plan.original = original;
  if (options.flip_ratio > 0) {
    plan.flip = base::CounterRandom(seed, epoch, sample, "flip").NextDouble() < options.flip_ratio;
  }
  // mmcv's rescale_size, which takes a scale's sides in any order.
  const double longer = std::max(original.width, original.height);
  const double shorter = std::min(original.width, original.height);
  plan.factor = std::min(std::max(scale.long_side, scale.short_side) / longer,
                         std::min(scale.long_side, scale.short_side) / shorter);
  plan.resized.width = std::max(1, static_cast<int>(original.width * plan.factor + 0.5));
  plan.resized.height = std::max(1, static_cast<int>(original.height * plan.factor + 0.5));
  plan.padded = {RoundUp(plan.resized.width, options.size_divisor),
                 RoundUp(plan.resized.height, options.size_divisor)};
  const bool scalar = options.box_scaling == BoxScaling::kScalar;
  plan.scale_w = scalar ? plan.factor : static_cast<double>(plan.resized.width) / original.width;
  plan.scale_h = scalar ? plan.factor : static_cast<double>(plan.resized.height) / original.height;
  return plan;
}

Size BatchSize(const PipelineOptions& options, absl::Span<const ImagePlan> images) {
  Size largest;
  for (const ImagePlan& image : images) {
    largest.width = std::max(largest.width, image.padded.width);
    largest.height = std::max(largest.height, image.padded.height);
  }
  if (!options.canvas.has_value()) return largest;
  int width = 0;
  int height = 0;
  for (const ImagePlan& image : images) {
    width = std::max(width, image.resized.width);
    height = std::max(height, image.resized.height);
  }
  // A square batch is portrait, as in mmdetection 0.6's collate.
  const Scale& canvas = *options.canvas;
  return height >= width ? Size{canvas.short_side, canvas.long_side}
                         : Size{canvas.long_side, canvas.short_side};
}

Box TransformBox(const PipelineOptions& options, const ImagePlan& plan, const Box& box) {
  const auto scale_w = static_cast<float>(plan.scale_w);
  const auto scale_h = static_cast<float>(plan.scale_h);
  const auto width = static_cast<float>(plan.resized.width);
  const auto height = static_cast<float>(plan.resized.height);
  Box out;
  if (options.box_scaling == BoxScaling::kPerAxis) {
    out = {std::clamp(box.x1 * scale_w, 0.0F, width), std::clamp(box.y1 * scale_h, 0.0F, height),
           std::clamp(box.x2 * scale_w, 0.0F, width), std::clamp(box.y2 * scale_h, 0.0F, height)};
  } else {
    // There x2 is the last pixel inside; it is scaled and clipped to [0, width - 1] as such.
    out = {std::clamp(box.x1 * scale_w, 0.0F, width - 1),
           std::clamp(box.y1 * scale_h, 0.0F, height - 1),
           std::clamp((box.x2 - 1) * scale_w, 0.0F, width - 1) + 1,
           std::clamp((box.y2 - 1) * scale_h, 0.0F, height - 1) + 1};
  }
  if (plan.flip) {
    const float x1 = width - out.x2;
    out.x2 = width - out.x1;
    out.x1 = x1;
  }
  return out;
}

Normalizer::Normalizer(const PipelineOptions& options) {
  for (size_t c = 0; c < table_.size(); ++c) {
    for (size_t value = 0; value < table_[c].size(); ++value) {
      table_[c][value] = (static_cast<float>(value) - options.mean[c]) / options.std[c];
    }
  }
}

void Normalizer::Write(absl::Span<const uint8_t> rgb, Size size, bool flip, Size batch,
                       float* out) const {
  const auto width = static_cast<size_t>(size.width);
  const auto height = static_cast<size_t>(size.height);
  const auto batch_width = static_cast<size_t>(batch.width);
  const auto batch_height = static_cast<size_t>(batch.height);
  const size_t plane = batch_width * batch_height;
  for (size_t y = 0; y < height; ++y) {
    const uint8_t* in = rgb.data() + 3 * width * y;
    float* red = out + batch_width * y;
    float* green = red + plane;
    float* blue = green + plane;
    if (flip) {
      for (size_t x = width; x-- > 0; in += 3) {
        red[x] = table_[0][in[0]];
        green[x] = table_[1][in[1]];
        blue[x] = table_[2][in[2]];
      }
    } else {
      for (size_t x = 0; x < width; ++x, in += 3) {
        red[x] = table_[0][in[0]];
        green[x] = table_[1][in[1]];
        blue[x] = table_[2][in[2]];
      }
    }
    for (float* row : {red, green, blue}) std::fill(row + width, row + batch_width, 0.0F);
  }
  for (size_t c = 0; c < 3; ++c) {
    std::fill(out + plane * c + batch_width * height, out + plane * (c + 1), 0.0F);
  }
}

}  // namespace muster::data
