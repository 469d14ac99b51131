#include "worker/model/rpn_head.h"

#include <torch/torch.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "worker/model/autocast.h"
#include "worker/model/config_options.h"
#include "worker/ops/nms.h"

namespace muster::model {
namespace {

constexpr std::array<double, 4> kDeltaStds = {1.0, 1.0, 1.0, 1.0};

ops::AnchorOptions AnchorOptionsOf(const config::v1::RPNHead& config,
                                   ops::BoxConvention convention) {
  return {{config.anchor_strides().begin(), config.anchor_strides().end()},
          {config.anchor_scales().begin(), config.anchor_scales().end()},
          {config.anchor_ratios().begin(), config.anchor_ratios().end()},
          convention};
}

at::Tensor IndexTensor(const std::vector<int64_t>& indices) {
  return at::tensor(indices, at::kLong);
}

// An image's anchors of one level that are trained, as positions in the level's flat (N, A, h, w)
// map.
struct LevelSamples {
  std::vector<int64_t> positions;
  std::vector<float> objectness;            // of each position
  std::vector<int64_t> positive_positions;  // the objects among them
  std::vector<at::Tensor> positive_targets;
};

// The shape of one level's map.
struct LevelShape {
  int64_t anchors, height, width;
  int64_t size() const { return anchors * height * width; }
  // From the anchors' order (y, x, anchor) to the map's (anchor, y, x).
  int64_t MapIndex(int64_t anchor_index) const {
    return (anchor_index % anchors) * height * width + anchor_index / anchors;
  }
  // Position of the first of a regression map's four channels, from the classification map's.
  int64_t RegressionIndex(int64_t map_position) const {
    const int64_t plane = height * width;
    return (map_position / plane) * 4 * plane + map_position % plane;
  }
};

LevelShape ShapeOf(const at::Tensor& cls) { return {cls.size(1), cls.size(2), cls.size(3)}; }

void AddImage(const std::vector<LevelShape>& shapes, int64_t image, const RpnImageSamples& samples,
              std::vector<LevelSamples>* levels) {
  const auto place = [&](int64_t inside_index, size_t* level, int64_t* position) {
    int64_t anchor = samples.inside[static_cast<size_t>(inside_index)];
    *level = 0;
    while (anchor >= shapes[*level].size()) anchor -= shapes[(*level)++].size();
    *position = image * shapes[*level].size() + shapes[*level].MapIndex(anchor);
  };
  size_t level = 0;
  int64_t position = 0;
  for (size_t i = 0; i < samples.sampled.positive.size(); ++i) {
    place(samples.sampled.positive[i], &level, &position);
    LevelSamples& out = (*levels)[level];
    out.positions.push_back(position);
    out.objectness.push_back(1.0f);
    out.positive_positions.push_back(position);
    out.positive_targets.push_back(samples.positive_targets[static_cast<int64_t>(i)]);
  }
  for (const int64_t index : samples.sampled.negative) {
    place(index, &level, &position);
    (*levels)[level].positions.push_back(position);
    (*levels)[level].objectness.push_back(0.0f);
  }
}

std::vector<int64_t> RegressionPositions(const LevelSamples& samples, const LevelShape& shape) {
  std::vector<int64_t> positions;
  const int64_t plane = shape.height * shape.width;
  for (const int64_t position : samples.positive_positions) {
    const int64_t first = shape.RegressionIndex(position);
    for (int64_t channel = 0; channel < 4; ++channel) positions.push_back(first + channel * plane);
  }
  return positions;
}

}  // namespace

RPNHeadImpl::RPNHeadImpl(const config::v1::RPNHead& config, ops::BoxConvention convention,
                         int64_t in_channels)
    : config_(config), convention_(convention), anchors_(AnchorOptionsOf(config, convention)) {
  const int64_t channels = config.feat_channels();
  const int64_t per_cell = anchors_.boxes_per_cell();
  conv_ = register_module(
      "rpn_conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(in_channels, channels, 3).padding(1)));
  cls_ = register_module("rpn_cls",
                         torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, per_cell, 1)));
  reg_ = register_module("rpn_reg",
                         torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, per_cell * 4, 1)));
}

RpnOutput RPNHeadImpl::forward(const std::vector<at::Tensor>& features) {
  TORCH_CHECK(static_cast<int>(features.size()) == anchors_.num_levels(), "the neck gives ",
              features.size(), " levels, but model.rpn_head.anchor_strides has ",
              anchors_.num_levels());
  RpnOutput output;
  for (const at::Tensor& feature : features) {
    const at::Tensor hidden = at::relu(conv_->forward(feature));
    output.cls.push_back(AtLeastFloat32(cls_->forward(hidden)));
    output.reg.push_back(AtLeastFloat32(reg_->forward(hidden)));
  }
  return output;
}

std::vector<int64_t> RPNHeadImpl::InsideAnchors(const std::vector<at::Tensor>& features,
                                                const at::Tensor& anchors,
                                                const ImageTargets& targets) const {
  const auto* box = reinterpret_cast<const ops::Corners<float>*>(anchors.const_data_ptr<float>());
  const auto border = static_cast<float>(config_.allowed_border());
  const auto right = static_cast<float>(targets.img_w) + border;
  const auto bottom = static_cast<float>(targets.img_h) + border;
  const bool seed = convention_ == ops::BoxConvention::kSeed;
  const auto sticks_out = [&](const ops::Corners<float>& b) {
    // An inclusive x2 < W is a half-open x2 <= W.
    return b.x1 < -border || b.y1 < -border || (seed ? b.x2 > right : b.x2 >= right) ||
           (seed ? b.y2 > bottom : b.y2 >= bottom);
  };
  std::vector<int64_t> inside;
  int64_t index = 0;
  for (size_t level = 0; level < features.size(); ++level) {
    const int64_t stride = anchors_.stride(static_cast<int>(level));
    const int64_t height = features[level].size(2);
    const int64_t width = features[level].size(3);
    const int64_t valid_height = std::min<int64_t>((targets.pad_h + stride - 1) / stride, height);
    const int64_t valid_width = std::min<int64_t>((targets.pad_w + stride - 1) / stride, width);
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        for (int64_t k = 0; k < anchors_.boxes_per_cell(); ++k, ++index) {
          if (y >= valid_height || x >= valid_width) continue;
          if (config_.allowed_border() >= 0 && sticks_out(box[index])) continue;
          inside.push_back(index);
        }
      }
    }
  }
  return inside;
}

RpnImageSamples RPNHeadImpl::SampleAnchors(const std::vector<at::Tensor>& features,
                                           const ImageTargets& targets,
                                           ops::IndexSampler& sampler) {
  torch::NoGradGuard no_grad;
  std::vector<at::Tensor> levels;
  for (size_t i = 0; i < features.size(); ++i) {
    levels.push_back(
        anchors_.GridAnchors(static_cast<int>(i), features[i].size(2), features[i].size(3)));
  }
  at::Tensor anchors = at::cat(levels);
  RpnImageSamples result;
  result.inside = InsideAnchors(features, anchors, targets);
  if (static_cast<int64_t>(result.inside.size()) != anchors.size(0)) {
    anchors = anchors.index_select(0, IndexTensor(result.inside));
  }
  result.assignment = ops::AssignMaxIoU(anchors, targets.gt_bboxes, targets.gt_bboxes_ignore,
                                        OptionsOf(config_.assigner()));
  result.sampled = ops::SampleCandidates(result.assignment.gt_index, OptionsOf(config_.sampler()),
                                         sampler, targets.sample_id, "rpn");
  std::vector<int64_t> truth;
  for (const int64_t i : result.sampled.positive) {
    truth.push_back(result.assignment.gt_index[static_cast<size_t>(i)] - 1);
  }
  result.positive_targets =
      ops::EncodeBoxes(anchors.index_select(0, IndexTensor(result.sampled.positive)),
                       targets.gt_bboxes.index_select(0, IndexTensor(truth)), kDeltaStds);
  return result;
}

RPNHeadImpl::Losses RPNHeadImpl::Loss(const RpnOutput& output,
                                      const std::vector<RpnImageSamples>& samples) const {
  std::vector<LevelShape> shapes;
  for (const at::Tensor& cls : output.cls) shapes.push_back(ShapeOf(cls));
  std::vector<LevelSamples> levels(shapes.size());
  double count = 0;
  for (size_t image = 0; image < samples.size(); ++image) {
    const ops::Sampled& sampled = samples[image].sampled;
    count += static_cast<double>(std::max<size_t>(sampled.positive.size(), 1) +
                                 std::max<size_t>(sampled.negative.size(), 1));
    AddImage(shapes, static_cast<int64_t>(image), samples[image], &levels);
  }
  const double divisor = ops::AverageFactor(count);
  Losses losses;
  for (size_t level = 0; level < levels.size(); ++level) {
    const LevelSamples& chosen = levels[level];
    const at::Device device = output.cls[level].device();
    const at::Tensor logits =
        output.cls[level].reshape({-1}).index_select(0, IndexTensor(chosen.positions).to(device));
    const at::Tensor objectness = at::tensor(chosen.objectness, at::kFloat).to(device);
    losses.cls.push_back(ops::BinaryCrossEntropySum(logits, objectness) / divisor);
    const at::Tensor deltas = output.reg[level].reshape({-1}).index_select(
        0, IndexTensor(RegressionPositions(chosen, shapes[level])).to(device));
    const at::Tensor targets = chosen.positive_targets.empty() ? at::empty({0}, at::kFloat)
                                                               : at::cat(chosen.positive_targets);
    losses.reg.push_back(ops::RegressionSum(deltas, targets.to(device), LossOf(config_.loss_bbox()),
                                            config_.smooth_l1_beta()) /
                         divisor);
  }
  return losses;
}

Proposals RPNHeadImpl::Propose(const RpnOutput& output, int64_t image, int image_h, int image_w,
                               const config::v1::Proposals& config) {
  torch::NoGradGuard no_grad;
  std::vector<at::Tensor> boxes;
  std::vector<at::Tensor> scores;
  std::vector<at::Tensor> groups;
  for (size_t level = 0; level < output.cls.size(); ++level) {
    const at::Tensor cls = output.cls[level].detach()[image];
    const at::Tensor score = cls.permute({1, 2, 0}).reshape({-1}).sigmoid();
    const at::Tensor deltas = output.reg[level].detach()[image].permute({1, 2, 0}).reshape({-1, 4});
    const at::Tensor anchors =
        anchors_.GridAnchors(static_cast<int>(level), cls.size(1), cls.size(2), cls.scalar_type())
            .to(cls.device());
    // Anchors over dead features have bit-equal scores, so the kind of sort decides which ones NMS
    // keeps: this is mmdetection's call (not a stable sort), and levels with few candidates stay in
    // their order.
    const bool choose = static_cast<int64_t>(config.nms_pre()) < score.size(0);
    const at::Tensor best = choose ? std::get<1>(at::sort(score, 0, /*descending=*/true))
                                         .slice(0, 0, static_cast<int64_t>(config.nms_pre()))
                                   : at::arange(score.size(0), score.options().dtype(at::kLong));
    scores.push_back(score.index_select(0, best));
    boxes.push_back(ops::DecodeBoxes(anchors.index_select(0, best), deltas.index_select(0, best),
                                     kDeltaStds, image_h, image_w, convention_));
    groups.push_back(at::full({best.size(0)}, static_cast<int64_t>(level), best.options()));
  }
  Proposals all{at::cat(boxes), at::cat(scores)};
  at::Tensor group = at::cat(groups);
  if (config.min_bbox_size() >= 0) {
    const at::Tensor sides = all.boxes.slice(1, 2, 4) - all.boxes.slice(1, 0, 2);
    const at::Tensor large = (sides > config.min_bbox_size()).all(1).nonzero().select(1, 0);
    all.boxes = all.boxes.index_select(0, large);
    all.scores = all.scores.index_select(0, large);
    group = group.index_select(0, large);
  }
  const at::Tensor kept = ops::BatchedNms(all.boxes, all.scores, group, config.nms_iou_threshold())
                              .slice(0, 0, static_cast<int64_t>(config.max_per_img()));
  return {all.boxes.index_select(0, kept), all.scores.index_select(0, kept)};
}

}  // namespace muster::model
