#include "common/config/validate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/config/checker.h"
#include "common/config/defaults.h"
#include "common/config/validate_run.h"

namespace muster::config {
namespace {

// HRNet halves the image five times, and its branches must meet again without a remainder.
constexpr uint32_t kStride = 32;

uint32_t RoundUp(uint32_t value, uint32_t step) { return (value + step - 1) / step * step; }

void CheckStage(Checker* check, const std::string& path, const v1::HRNetStage& stage,
                int branches) {
  check->InRange<uint32_t>(path + ".num_modules", stage.num_modules(), 1, 64);
  check->InRange<uint32_t>(path + ".num_blocks", stage.num_blocks(), 1, 64);
  const std::string channels = path + ".num_channels";
  if (stage.num_channels_size() != branches) {
    check->Add(channels, absl::StrCat("has ", stage.num_channels_size(),
                                      " numbers; needs one for each of the ", branches,
                                      branches == 1 ? " branch" : " branches"));
  }
  for (int i = 0; i < stage.num_channels_size(); ++i) {
    check->InRange<uint32_t>(absl::StrCat(channels, "[", i, "]"), stage.num_channels(i), 1, 8192);
  }
}

void CheckAssigner(Checker* check, const std::string& path, const v1::Assigner& assigner) {
  check->InRange(path + ".pos_iou_thr", assigner.pos_iou_thr(), 0.0, 1.0);
  check->InRange(path + ".neg_iou_thr", assigner.neg_iou_thr(), 0.0, 1.0);
  check->InRange(path + ".min_pos_iou", assigner.min_pos_iou(), 0.0, 1.0);
  if (assigner.neg_iou_thr() > assigner.pos_iou_thr()) {
    check->Add(path + ".neg_iou_thr",
               absl::StrCat("is above pos_iou_thr (", assigner.pos_iou_thr(), ")"));
  }
}

void CheckSampler(Checker* check, const std::string& path, const v1::Sampler& sampler) {
  check->InRange<uint32_t>(path + ".num", sampler.num(), 1, 1 << 16);
  check->InRange(path + ".pos_fraction", sampler.pos_fraction(), 0.0, 1.0);
}

void CheckProposals(Checker* check, const std::string& path, const v1::Proposals& proposals) {
  check->InRange<uint32_t>(path + ".nms_pre", proposals.nms_pre(), 1, 1 << 20);
  check->InRange<uint32_t>(path + ".max_per_img", proposals.max_per_img(), 1, 1 << 20);
  check->InRange(path + ".nms_iou_threshold", proposals.nms_iou_threshold(), 0.0, 1.0);
}

void CheckRpnHead(Checker* check, const v1::RPNHead& head, absl::string_view neck,
                  uint32_t num_outs) {
  const std::string path = "model.rpn_head";
  check->InRange<uint32_t>(path + ".feat_channels", head.feat_channels(), 1, 8192);
  for (int i = 0; i < head.anchor_scales_size(); ++i) {
    check->Positive(absl::StrCat(path, ".anchor_scales[", i, "]"), head.anchor_scales(i));
  }
  for (int i = 0; i < head.anchor_ratios_size(); ++i) {
    check->Positive(absl::StrCat(path, ".anchor_ratios[", i, "]"), head.anchor_ratios(i));
  }
  if (static_cast<uint32_t>(head.anchor_strides_size()) != num_outs) {
    check->Add(path + ".anchor_strides",
               absl::StrCat("has ", head.anchor_strides_size(), " strides; model.", neck,
                            ".num_outs says ", num_outs, " levels"));
  }
  for (int i = 0; i < std::min(head.anchor_strides_size(), 16); ++i) {
    if (head.anchor_strides(i) != (4u << i)) {
      check->Add(
          absl::StrCat(path, ".anchor_strides[", i, "]"),
          absl::StrCat("is ", head.anchor_strides(i), "; level ", i, " has the stride ", 4u << i));
    }
  }
  check->KnownEnum(path + ".loss_bbox", head.loss_bbox(), v1::RegressionLoss_IsValid);
  check->Positive(path + ".smooth_l1_beta", head.smooth_l1_beta());
  CheckAssigner(check, path + ".assigner", head.assigner());
  CheckSampler(check, path + ".sampler", head.sampler());
  check->AtLeast(path + ".allowed_border", head.allowed_border(), -1);
  CheckProposals(check, path + ".train_proposals", head.train_proposals());
  CheckProposals(check, path + ".test_proposals", head.test_proposals());
}

void CheckRoiHead(Checker* check, const v1::RoIHead& head) {
  const std::string path = "model.roi_head";
  check->InRange<uint32_t>(path + ".fc_out_channels", head.fc_out_channels(), 1, 1 << 16);
  check->InRange<uint32_t>(path + ".roi_feat_size", head.roi_feat_size(), 1, 64);
  check->InRange<uint32_t>(path + ".sampling_ratio", head.sampling_ratio(), 0, 64);
  check->KnownEnum(path + ".loss_bbox", head.loss_bbox(), v1::RegressionLoss_IsValid);
  check->Positive(path + ".smooth_l1_beta", head.smooth_l1_beta());
  CheckAssigner(check, path + ".assigner", head.assigner());
  CheckSampler(check, path + ".sampler", head.sampler());
  check->InRange(path + ".score_thr", head.score_thr(), 0.0, 1.0);
  check->InRange(path + ".nms_iou_threshold", head.nms_iou_threshold(), 0.0, 1.0);
  check->InRange<uint32_t>(path + ".max_per_img", head.max_per_img(), 1, 10000);
}

void CheckBackbone(Checker* check, const v1::Model& model) {
  if (model.has_resnet()) {
    const v1::ResNet& resnet = model.resnet();
    if (resnet.depth() != 50 && resnet.depth() != 101 && resnet.depth() != 152) {
      check->Add("model.resnet.depth", absl::StrCat(resnet.has_depth() ? "is " : "required, not ",
                                                    resnet.depth(), "; must be 50, 101 or 152"));
    }
    check->InRange("model.resnet.frozen_stages", resnet.frozen_stages(), -1, 4);
    if (model.has_hrfpn()) check->Add("model.hrfpn", "belongs to model.hrnet; use model.fpn");
    return;
  }
  if (!model.has_hrnet()) {
    check->Add(
        "model.hrnet",
        "no backbone: use a base such as _base/hrnetv2p_w18.textproto, or set model.hrnet.width");
    return;
  }
  const v1::HRNet& hrnet = model.hrnet();
  if (model.has_fpn()) check->Add("model.fpn", "belongs to model.resnet; use model.hrfpn");
  if (!hrnet.has_width()) {
    check->Add("model.hrnet.width", "required: 18, 32, 40, 48 or another number of channels");
    return;
  }
  check->InRange<uint32_t>("model.hrnet.width", hrnet.width(), 1, 512);
  check->InRange<uint32_t>("model.hrnet.stem_channels", hrnet.stem_channels(), 1, 8192);
  CheckStage(check, "model.hrnet.stage1", hrnet.stage1(), 1);
  CheckStage(check, "model.hrnet.stage2", hrnet.stage2(), 2);
  CheckStage(check, "model.hrnet.stage3", hrnet.stage3(), 3);
  CheckStage(check, "model.hrnet.stage4", hrnet.stage4(), 4);
}

// HRFPN or FPN.
template <typename Neck>
void CheckNeck(Checker* check, absl::string_view name, const Neck& neck) {
  check->InRange<uint32_t>(absl::StrCat("model.", name, ".out_channels"), neck.out_channels(), 1,
                           8192);
  // RoIs are pooled from the first four levels.
  check->InRange<uint32_t>(absl::StrCat("model.", name, ".num_outs"), neck.num_outs(), 4, 6);
}

void CheckModel(Checker* check, const v1::Model& model) {
  check->KnownEnum("model.conventions", model.conventions(), v1::Conventions_IsValid);
  check->InRange<uint32_t>("model.num_classes", model.num_classes(), 1, 10000);
  CheckBackbone(check, model);
  if (model.has_fpn()) {
    CheckNeck(check, "fpn", model.fpn());
    CheckRpnHead(check, model.rpn_head(), "fpn", model.fpn().num_outs());
  } else {
    CheckNeck(check, "hrfpn", model.hrfpn());
    CheckRpnHead(check, model.rpn_head(), "hrfpn", model.hrfpn().num_outs());
  }
  CheckRoiHead(check, model.roi_head());
  check->KnownEnum("model.norm.type", model.norm().type(), v1::NormType_IsValid);
  check->InRange("model.norm.momentum", model.norm().momentum(), 0.0, 1.0);
  check->Positive("model.norm.eps", model.norm().eps());
  if (!model.load_from().empty() && !absl::EndsWith(model.load_from(), ".pth") &&
      !absl::EndsWith(model.load_from(), ".safetensors")) {
    check->Add("model.load_from", "must end in .pth or .safetensors");
  }
}

void CheckRelativePath(Checker* check, const std::string& path, const std::string& value,
                       absl::string_view example) {
  if (value.empty()) {
    check->Add(path, absl::StrCat("required, for example \"", example, "\""));
    return;
  }
  if (absl::StartsWith(value, "/")) check->Add(path, "is absolute; must be relative to data.root");
  for (absl::string_view part : absl::StrSplit(value, '/')) {
    if (part == "..") check->Add(path, "has a '..'; must stay below data.root");
  }
}

void CheckDataset(Checker* check, const std::string& path, const v1::Dataset& dataset,
                  absl::string_view split) {
  CheckRelativePath(check, path + ".annotations", dataset.annotations(),
                    absl::StrCat("annotations/instances_", split, ".json"));
  CheckRelativePath(check, path + ".images", dataset.images(),
                    absl::StrCat("images/", split, ".zip"));
}

// Also for Canvas, which has the same sides.
template <typename Sides>
void CheckSides(Checker* check, const std::string& path, const Sides& sides) {
  check->InRange<uint32_t>(path + ".long_side", sides.long_side(), 1, 16384);
  check->InRange<uint32_t>(path + ".short_side", sides.short_side(), 1, 16384);
  if (sides.short_side() > sides.long_side()) {
    check->Add(path + ".short_side",
               absl::StrCat("is above long_side (", sides.long_side(), "); swap them"));
  }
}

// An image of `scale`, padded to the divisor, must fit into the canvas.
void CheckCanvas(Checker* check, const std::string& path, const v1::Canvas& canvas,
                 const v1::Scale& scale, uint32_t divisor) {
  CheckSides(check, path, canvas);
  const auto side = [&](const char* name, uint32_t has, uint32_t image) {
    const uint32_t needs = RoundUp(image, divisor);
    if (has < needs) {
      check->Add(path + name, absl::StrCat("is ", has, "; an image may be ", image, " there, ",
                                           needs, " with size_divisor ", divisor, ": set at least ",
                                           RoundUp(needs, kStride)));
    }
    if (has % kStride != 0) {
      check->Add(path + name, absl::StrCat("is ", has, "; must be a multiple of ", kStride,
                                           " (HRNet): ", RoundUp(std::max(has, needs), kStride)));
    }
  };
  side(".long_side", canvas.long_side(), scale.long_side());
  side(".short_side", canvas.short_side(), scale.short_side());
}

void CheckScales(Checker* check, const v1::Data& data) {
  const v1::MultiScale& multi_scale = data.multi_scale();
  const std::string scales = "data.multi_scale.scales";
  v1::Scale largest;
  if (multi_scale.scales().empty() && !data.has_rand_resize_crop()) {
    check->Add(scales, "required: at least one {long_side: 1333 short_side: 800}");
  }
  for (int i = 0; i < multi_scale.scales_size(); ++i) {
    CheckSides(check, absl::StrCat(scales, "[", i, "]"), multi_scale.scales(i));
    largest.set_long_side(std::max(largest.long_side(), multi_scale.scales(i).long_side()));
    largest.set_short_side(std::max(largest.short_side(), multi_scale.scales(i).short_side()));
  }
  check->KnownEnum("data.multi_scale.mode", multi_scale.mode(), v1::MultiScaleMode_IsValid);
  if (multi_scale.mode() == v1::MULTI_SCALE_MODE_RANGE && multi_scale.scales_size() != 2) {
    check->Add(scales,
               absl::StrCat("has ", multi_scale.scales_size(),
                            " scales; mode RANGE needs exactly two, the smallest and the largest"));
  }
  if (data.has_rand_resize_crop()) {
    if (!multi_scale.scales().empty()) {
      check->Add(scales, "are not used beside data.rand_resize_crop: leave one of them out");
    }
    if (!data.has_test_scale()) {
      check->Add("data.test_scale", "required beside data.rand_resize_crop");
    }
    // No crop is larger than this.
    largest.set_long_side(data.rand_resize_crop().crop_size().long_side());
    largest.set_short_side(data.rand_resize_crop().crop_size().short_side());
  }
  const uint32_t divisor = std::max(1u, data.size_divisor());
  if (data.size_divisor() == 0) check->Add("data.size_divisor", "is 0; must be at least 1");
  if (divisor % kStride != 0 && (!data.has_pad_size() || !data.has_test_pad_size())) {
    check->Add("data.size_divisor",
               absl::StrCat("is ", divisor, "; must be a multiple of ", kStride,
                            " unless pad_size and test_pad_size are both set"));
  }
  if (data.has_pad_size()) CheckCanvas(check, "data.pad_size", data.pad_size(), largest, divisor);
  if (data.has_test_scale()) CheckSides(check, "data.test_scale", data.test_scale());
  if (data.has_test_pad_size()) {
    CheckCanvas(check, "data.test_pad_size", data.test_pad_size(), data.test_scale(), divisor);
  }
}

// Two fields that bound a draw.
void CheckBounds(Checker* check, const std::string& path, const char* lower_name, double lower,
                 const char* upper_name, double upper) {
  check->AtLeast(path + lower_name, lower, 0);
  check->AtLeast(path + upper_name, upper, 0);
  if (lower > upper) {
    check->Add(path + lower_name, absl::StrCat("is above ", upper_name + 1, " (", upper, ")"));
  }
}

void CheckAugmentation(Checker* check, const v1::Data& data) {
  if (data.has_photo_metric_distortion()) {
    const v1::PhotoMetricDistortion& distortion = data.photo_metric_distortion();
    const std::string path = "data.photo_metric_distortion";
    check->InRange(path + ".brightness_delta", distortion.brightness_delta(), 0.0, 255.0);
    CheckBounds(check, path, ".contrast_lower", distortion.contrast_lower(), ".contrast_upper",
                distortion.contrast_upper());
    CheckBounds(check, path, ".saturation_lower", distortion.saturation_lower(),
                ".saturation_upper", distortion.saturation_upper());
    check->InRange(path + ".hue_delta", distortion.hue_delta(), 0.0, 360.0);
  }
  if (data.has_expand()) {
    const v1::Expand& expand = data.expand();
    check->InRange("data.expand.ratio_min", expand.ratio_min(), 1.0, 16.0);
    check->InRange("data.expand.ratio_max", expand.ratio_max(), 1.0, 16.0);
    CheckBounds(check, "data.expand", ".ratio_min", expand.ratio_min(), ".ratio_max",
                expand.ratio_max());
    check->InRange("data.expand.prob", expand.prob(), 0.0, 1.0);
  }
  if (data.has_min_iou_random_crop()) {
    const v1::MinIoURandomCrop& crop = data.min_iou_random_crop();
    for (int i = 0; i < crop.min_ious_size(); ++i) {
      check->InRange(absl::StrCat("data.min_iou_random_crop.min_ious[", i, "]"), crop.min_ious(i),
                     0.0, 1.0);
    }
    check->InRange("data.min_iou_random_crop.min_crop_size", crop.min_crop_size(), 0.01, 1.0);
  }
  if (data.has_rand_resize_crop()) {
    const v1::RandomResizeCrop& crop = data.rand_resize_crop();
    const std::string scales = "data.rand_resize_crop.scales";
    if (crop.scales().empty()) {
      check->Add(scales, "required: at least one {long_side: 1400 short_side: 800}");
    }
    for (int i = 0; i < crop.scales_size(); ++i) {
      CheckSides(check, absl::StrCat(scales, "[", i, "]"), crop.scales(i));
    }
    CheckSides(check, "data.rand_resize_crop.crop_size", crop.crop_size());
  }
}

void CheckEvaluation(Checker* check, const v1::TrainJob& job) {
  for (int i = 0; i < job.evaluation().tta_scales_size(); ++i) {
    const std::string path = absl::StrCat("evaluation.tta_scales[", i, "]");
    CheckSides(check, path, job.evaluation().tta_scales(i));
    if (job.data().has_test_pad_size()) {
      check->Add(path, "cannot be used with data.test_pad_size: scales differ in size");
    }
  }
}

void CheckData(Checker* check, const v1::TrainJob& job) {
  const v1::Data& data = job.data();
  if (data.root().empty()) {
    check->Add("data.root", "required: the data set's folder, below a worker's --data-root");
  }
  CheckDataset(check, "data.train", data.train(), "train");
  if (job.evaluation().every_epochs() > 0) CheckDataset(check, "data.val", data.val(), "val");
  if (!data.has_images_per_rank()) {
    check->Add("data.images_per_rank", "required, for example 2");
  } else {
    check->InRange<uint32_t>("data.images_per_rank", data.images_per_rank(), 1, 1024);
  }
  check->InRange<uint32_t>("data.loader_threads", data.loader_threads(), 1, 64);
  check->InRange<uint32_t>("data.prefetch_batches", data.prefetch_batches(), 1, 64);
  CheckScales(check, data);
  CheckAugmentation(check, data);
  check->InRange("data.flip_ratio", data.flip_ratio(), 0.0, 1.0);
  for (const auto& [name, values] :
       {std::pair("data.mean", &data.mean()), std::pair("data.std", &data.std())}) {
    if (values->size() != 3)
      check->Add(name, absl::StrCat("has ", values->size(), " numbers; needs 3: red, green, blue"));
  }
  for (int i = 0; i < data.std_size(); ++i)
    check->Positive(absl::StrCat("data.std[", i, "]"), data.std(i));
  check->InRange<uint32_t>("data.test_images_per_rank", data.test_images_per_rank(), 1, 1024);
}

void CheckSchedule(Checker* check, const v1::Schedule& schedule) {
  if (!schedule.has_epochs()) {
    check->Add("schedule.epochs", "required, for example 12");
  } else {
    check->InRange<uint32_t>("schedule.epochs", schedule.epochs(), 1, 100000);
  }
  const v1::SGD& optimizer = schedule.optimizer();
  if (!optimizer.has_lr()) {
    check->Add("schedule.optimizer.lr", "required, for example 0.02 with reference_batch 16");
  } else {
    check->Positive("schedule.optimizer.lr", optimizer.lr());
  }
  if (optimizer.has_reference_batch()) {
    check->Positive("schedule.optimizer.reference_batch", optimizer.reference_batch());
  }
  check->InRange("schedule.optimizer.momentum", optimizer.momentum(), 0.0, 1.0);
  check->AtLeast("schedule.optimizer.weight_decay", optimizer.weight_decay(), 0);
  check->AtLeast("schedule.grad_clip_norm", schedule.grad_clip_norm(), 0);
  check->InRange("schedule.warmup_ratio", schedule.warmup_ratio(), 0.0, 1.0);
  check->Positive("schedule.gamma", schedule.gamma());
  check->InRange<uint32_t>("schedule.accumulative_counts", schedule.accumulative_counts(), 1, 1024);
  check->KnownEnum("schedule.precision", schedule.precision(), v1::Precision_IsValid);
  for (int i = 0; i < schedule.step_epochs_size(); ++i) {
    const std::string field = absl::StrCat("schedule.step_epochs[", i, "]");
    const uint32_t epoch = schedule.step_epochs(i);
    if (i > 0 && epoch <= schedule.step_epochs(i - 1)) {
      check->Add(field, absl::StrCat("is ", epoch, "; must be above the one before"));
    }
    if (schedule.has_epochs() && (epoch == 0 || epoch >= schedule.epochs())) {
      check->Add(field, absl::StrCat("is ", epoch, "; must be 1 to ", schedule.epochs() - 1,
                                     " (schedule.epochs is ", schedule.epochs(), ")"));
    }
  }
}

}  // namespace

std::vector<Violation> Validate(const v1::TrainJob& job) {
  v1::TrainJob full = job;
  ApplyDefaults(&full);
  Checker check;
  if (job.bases_size() > 0) {
    check.Add("bases", "must be merged before the job is sent (muster submit does it)");
  }
  CheckModel(&check, full.model());
  CheckData(&check, full);
  CheckEvaluation(&check, full);
  CheckSchedule(&check, full.schedule());
  CheckRun(&check, full);
  return check.Take();
}

std::string FormatViolations(const std::vector<Violation>& violations) {
  std::string text;
  for (const Violation& violation : violations) {
    absl::StrAppend(&text, violation.field, ": ", violation.description, "\n");
  }
  return text;
}

}  // namespace muster::config
