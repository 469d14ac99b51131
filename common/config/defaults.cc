#include "common/config/defaults.h"

#include <cstdint>
#include <initializer_list>

namespace muster::config {
namespace {

using v1::Model;
using v1::TrainJob;

// Sets a field when it is not set. A macro, since protobuf's accessors share no type.
#define MUSTER_DEFAULT(message, field, value)                     \
  do {                                                            \
    if (!(message)->has_##field()) (message)->set_##field(value); \
  } while (false)
#define MUSTER_DEFAULT_ENUM(message, field, value)              \
  do {                                                          \
    if ((message)->field() == 0) (message)->set_##field(value); \
  } while (false)

template <typename List, typename Value>
void DefaultList(List* list, std::initializer_list<Value> values) {
  if (!list->empty()) return;
  for (const Value value : values) list->Add(value);
}

void DefaultStage(v1::HRNetStage* stage, uint32_t modules,
                  std::initializer_list<uint32_t> channels) {
  MUSTER_DEFAULT(stage, num_modules, modules);
  MUSTER_DEFAULT(stage, num_blocks, 4);
  DefaultList(stage->mutable_num_channels(), channels);
}

void DefaultHRNet(v1::HRNet* hrnet) {
  const uint32_t w = hrnet->width();
  DefaultStage(hrnet->mutable_stage1(), 1, {64u});
  DefaultStage(hrnet->mutable_stage2(), 1, {w, 2 * w});
  DefaultStage(hrnet->mutable_stage3(), 4, {w, 2 * w, 4 * w});
  DefaultStage(hrnet->mutable_stage4(), 3, {w, 2 * w, 4 * w, 8 * w});
  MUSTER_DEFAULT(hrnet, stem_channels, 64);
}

void DefaultAssigner(v1::Assigner* assigner, double positive, double negative, double minimum,
                     bool low_quality) {
  MUSTER_DEFAULT(assigner, pos_iou_thr, positive);
  MUSTER_DEFAULT(assigner, neg_iou_thr, negative);
  MUSTER_DEFAULT(assigner, min_pos_iou, minimum);
  MUSTER_DEFAULT(assigner, match_low_quality, low_quality);
  MUSTER_DEFAULT(assigner, ignore_iof_thr, -1);
}

void DefaultSampler(v1::Sampler* sampler, uint32_t num, double positive, bool add_gt) {
  MUSTER_DEFAULT(sampler, num, num);
  MUSTER_DEFAULT(sampler, pos_fraction, positive);
  MUSTER_DEFAULT(sampler, add_gt_as_proposals, add_gt);
}

void DefaultProposals(v1::Proposals* proposals, uint32_t nms_pre, uint32_t max_per_img, bool seed) {
  MUSTER_DEFAULT(proposals, nms_pre, nms_pre);
  MUSTER_DEFAULT(proposals, max_per_img, max_per_img);
  MUSTER_DEFAULT(proposals, nms_iou_threshold, 0.7);
  MUSTER_DEFAULT(proposals, min_bbox_size, seed ? -1 : 0);
}

void DefaultRpnHead(v1::RPNHead* head, bool seed) {
  MUSTER_DEFAULT(head, feat_channels, 256);
  DefaultList(head->mutable_anchor_scales(), {8.0});
  DefaultList(head->mutable_anchor_ratios(), {0.5, 1.0, 2.0});
  DefaultList(head->mutable_anchor_strides(), {4u, 8u, 16u, 32u, 64u});
  MUSTER_DEFAULT_ENUM(head, loss_bbox,
                      seed ? v1::REGRESSION_LOSS_SMOOTH_L1 : v1::REGRESSION_LOSS_L1);
  MUSTER_DEFAULT(head, smooth_l1_beta, 1.0 / 9);
  DefaultAssigner(head->mutable_assigner(), 0.7, 0.3, 0.3, true);
  DefaultSampler(head->mutable_sampler(), 256, 0.5, false);
  MUSTER_DEFAULT(head, allowed_border, seed ? 0 : -1);
  DefaultProposals(head->mutable_train_proposals(), 2000, seed ? 2000 : 1000, seed);
  DefaultProposals(head->mutable_test_proposals(), seed ? 2000 : 1000, seed ? 2000 : 1000, seed);
}

void DefaultRoiHead(v1::RoIHead* head, bool seed) {
  MUSTER_DEFAULT(head, fc_out_channels, 1024);
  MUSTER_DEFAULT(head, roi_feat_size, 7);
  MUSTER_DEFAULT(head, sampling_ratio, seed ? 2 : 0);
  MUSTER_DEFAULT(head, aligned, !seed);
  MUSTER_DEFAULT_ENUM(head, loss_bbox,
                      seed ? v1::REGRESSION_LOSS_SMOOTH_L1 : v1::REGRESSION_LOSS_L1);
  MUSTER_DEFAULT(head, smooth_l1_beta, 1.0);
  DefaultAssigner(head->mutable_assigner(), 0.5, 0.5, 0.5, seed);
  DefaultSampler(head->mutable_sampler(), 512, 0.25, true);
  MUSTER_DEFAULT(head, score_thr, 0.05);
  MUSTER_DEFAULT(head, nms_iou_threshold, 0.5);
  MUSTER_DEFAULT(head, max_per_img, 100);
  MUSTER_DEFAULT(head, class_agnostic_nms, false);
}

void DefaultModel(Model* model) {
  MUSTER_DEFAULT_ENUM(model, conventions, v1::CONVENTIONS_MMDET3);
  const bool seed = model->conventions() == v1::CONVENTIONS_SEED;
  MUSTER_DEFAULT(model, num_classes, 80);
  if (model->has_hrnet()) DefaultHRNet(model->mutable_hrnet());
  if (model->has_resnet()) {
    MUSTER_DEFAULT(model->mutable_resnet(), frozen_stages, 1);
    MUSTER_DEFAULT(model->mutable_resnet(), frozen_norm_eval, !seed);
  }
  if (model->has_fpn() || (model->has_resnet() && !model->has_hrfpn())) {
    MUSTER_DEFAULT(model->mutable_fpn(), out_channels, 256);
    MUSTER_DEFAULT(model->mutable_fpn(), num_outs, 5);
  } else {
    MUSTER_DEFAULT(model->mutable_hrfpn(), out_channels, 256);
    MUSTER_DEFAULT(model->mutable_hrfpn(), num_outs, 5);
  }
  MUSTER_DEFAULT(model, activation_checkpointing, false);
  DefaultRpnHead(model->mutable_rpn_head(), seed);
  DefaultRoiHead(model->mutable_roi_head(), seed);
  v1::Norm* norm = model->mutable_norm();
  MUSTER_DEFAULT_ENUM(norm, type, v1::NORM_TYPE_SYNC_BN);
  MUSTER_DEFAULT(norm, norm_eval, norm->type() == v1::NORM_TYPE_BN);
  MUSTER_DEFAULT(norm, momentum, 0.1);
  MUSTER_DEFAULT(norm, eps, 1e-5);
}

void DefaultAugmentation(v1::Data* data) {
  if (data->has_photo_metric_distortion()) {
    v1::PhotoMetricDistortion* distortion = data->mutable_photo_metric_distortion();
    MUSTER_DEFAULT(distortion, brightness_delta, 32);
    MUSTER_DEFAULT(distortion, contrast_lower, 0.5);
    MUSTER_DEFAULT(distortion, contrast_upper, 1.5);
    MUSTER_DEFAULT(distortion, saturation_lower, 0.5);
    MUSTER_DEFAULT(distortion, saturation_upper, 1.5);
    MUSTER_DEFAULT(distortion, hue_delta, 18);
  }
  if (data->has_expand()) {
    MUSTER_DEFAULT(data->mutable_expand(), ratio_min, 1);
    MUSTER_DEFAULT(data->mutable_expand(), ratio_max, 4);
    MUSTER_DEFAULT(data->mutable_expand(), prob, 0.5);
  }
  if (data->has_min_iou_random_crop()) {
    DefaultList(data->mutable_min_iou_random_crop()->mutable_min_ious(), {0.1, 0.3, 0.5, 0.7, 0.9});
    MUSTER_DEFAULT(data->mutable_min_iou_random_crop(), min_crop_size, 0.3);
  }
}

void DefaultData(v1::Data* data) {
  MUSTER_DEFAULT(data, loader_threads, 1);
  MUSTER_DEFAULT(data, prefetch_batches, 2);
  MUSTER_DEFAULT_ENUM(data->mutable_multi_scale(), mode, v1::MULTI_SCALE_MODE_VALUE);
  MUSTER_DEFAULT(data, size_divisor, 32);
  MUSTER_DEFAULT(data, flip_ratio, 0.5);
  DefaultList(data->mutable_mean(), {123.675, 116.28, 103.53});
  DefaultList(data->mutable_std(), {58.395, 57.12, 57.375});
  if (!data->has_test_scale()) {
    const v1::Scale* largest = nullptr;
    for (const v1::Scale& scale : data->multi_scale().scales()) {
      if (largest == nullptr || uint64_t{scale.long_side()} * scale.short_side() >
                                    uint64_t{largest->long_side()} * largest->short_side()) {
        largest = &scale;
      }
    }
    if (largest != nullptr) *data->mutable_test_scale() = *largest;
  }
  MUSTER_DEFAULT(data, min_image_side, 32);
  MUSTER_DEFAULT(data, keep_empty, false);
  MUSTER_DEFAULT(data, test_images_per_rank, 1);
  MUSTER_DEFAULT(data, with_crowd, true);
  DefaultAugmentation(data);
}

void DefaultSchedule(v1::Schedule* schedule, bool seed) {
  v1::SGD* optimizer = schedule->mutable_optimizer();
  MUSTER_DEFAULT(optimizer, momentum, 0.9);
  MUSTER_DEFAULT(optimizer, weight_decay, 1e-4);
  MUSTER_DEFAULT(schedule, grad_clip_norm, seed ? 35 : 0);
  MUSTER_DEFAULT(schedule, warmup_steps, 500);
  MUSTER_DEFAULT(schedule, warmup_ratio, seed ? 1.0 / 3 : 0.001);
  MUSTER_DEFAULT(schedule, gamma, 0.1);
  MUSTER_DEFAULT(schedule, accumulative_counts, 1);
  MUSTER_DEFAULT_ENUM(schedule, precision, v1::PRECISION_FLOAT32);
}

void DefaultRun(TrainJob* job) {
  v1::Resources* resources = job->mutable_resources();
  MUSTER_DEFAULT(resources, nodes, 1);
  MUSTER_DEFAULT(resources, ranks_per_node, 1);
  MUSTER_DEFAULT_ENUM(resources, device, v1::DEVICE_CPU);
  MUSTER_DEFAULT(resources, max_restarts, 3);
  if (!resources->has_grace_period()) resources->mutable_grace_period()->set_seconds(10);
  if (!resources->has_start_timeout()) resources->mutable_start_timeout()->set_seconds(15 * 60);
  if (!resources->has_restart_backoff()) resources->mutable_restart_backoff()->set_seconds(2);
  MUSTER_DEFAULT(resources, min_nodes, resources->nodes());
  MUSTER_DEFAULT(resources, max_nodes, resources->nodes());
  MUSTER_DEFAULT_ENUM(resources, elastic_batch, v1::ELASTIC_BATCH_KEEP);
  MUSTER_DEFAULT(resources, priority, 0);
  MUSTER_DEFAULT(resources, preemptible, true);
  v1::Distributed* distributed = job->mutable_distributed();
  MUSTER_DEFAULT(distributed, bucket_cap_bytes, uint64_t{25} << 20);
  if (!distributed->has_timeout()) distributed->mutable_timeout()->set_seconds(600);
  MUSTER_DEFAULT(distributed, interface, "");
  v1::Checkpointing* checkpointing = job->mutable_checkpointing();
  MUSTER_DEFAULT(checkpointing, every_steps, 0);
  MUSTER_DEFAULT(checkpointing, keep_last, 3);
  MUSTER_DEFAULT(job->mutable_evaluation(), every_epochs, 1);
  MUSTER_DEFAULT(job->mutable_evaluation(), tta_flip, false);
  MUSTER_DEFAULT(job, seed, 0);
}

#undef MUSTER_DEFAULT
#undef MUSTER_DEFAULT_ENUM

}  // namespace

void ApplyDefaults(TrainJob* job) {
  DefaultModel(job->mutable_model());
  DefaultData(job->mutable_data());
  DefaultSchedule(job->mutable_schedule(), job->model().conventions() == v1::CONVENTIONS_SEED);
  DefaultRun(job);
}

}  // namespace muster::config
