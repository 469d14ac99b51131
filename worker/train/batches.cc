#include "worker/train/batches.h"

#include <torch/torch.h>

#include <cstring>
#include <vector>

namespace muster::train {
namespace {

static_assert(sizeof(data::Box) == 4 * sizeof(float));

at::Tensor ImagesOf(const std::shared_ptr<data::Batch>& batch, at::Device device) {
  return torch::from_blob(
             batch->data(),
             {batch->images(), data::Batch::channels(), batch->height(), batch->width()},
             [batch](void*) {}, at::kFloat)
      .to(device);
}

at::Tensor BoxesOf(const std::vector<data::Box>& boxes) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(boxes.size()), 4}, at::kFloat);
  if (!boxes.empty()) std::memcpy(tensor.data_ptr(), boxes.data(), tensor.nbytes());
  return tensor;
}

}  // namespace

model::TrainBatch ToTrainBatch(const std::shared_ptr<data::Batch>& batch, at::Device device) {
  model::TrainBatch result;
  result.images = ImagesOf(batch, device);
  for (const data::SampleMeta& sample : batch->samples) {
    model::ImageTargets& targets = result.targets.emplace_back();
    targets.gt_bboxes = BoxesOf(sample.gt_bboxes);
    targets.gt_labels = torch::tensor(sample.labels, at::kLong);
    targets.gt_bboxes_ignore = BoxesOf(sample.gt_bboxes_ignore);
    targets.img_h = sample.img_h;
    targets.img_w = sample.img_w;
    targets.pad_h = sample.pad_h;
    targets.pad_w = sample.pad_w;
    targets.sample_id = sample.sample_id;
  }
  return result;
}

model::PredictBatch ToPredictBatch(const std::shared_ptr<data::Batch>& batch, at::Device device) {
  model::PredictBatch result;
  result.images = ImagesOf(batch, device);
  for (const data::SampleMeta& sample : batch->samples) {
    result.meta.push_back({.img_h = sample.img_h,
                           .img_w = sample.img_w,
                           .scale_w = sample.scale_w,
                           .scale_h = sample.scale_h});
  }
  return result;
}

}  // namespace muster::train
