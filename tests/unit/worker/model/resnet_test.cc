#include "worker/model/resnet.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <string>

#include "common/config/defaults.h"
#include "tests/unit/worker/model/fixtures.h"
#include "worker/model/faster_rcnn.h"
#include "worker/model/fpn.h"

namespace muster::model {
namespace {

using testing::RandomBatch;

struct Variant {
  config::v1::Conventions conventions = config::v1::CONVENTIONS_MMDET3;
  int frozen_stages = 1;
  bool norm_eval = false;
};

FasterRCNN MakeDetector(const Variant& variant) {
  config::v1::TrainJob job;
  config::v1::Model* model = job.mutable_model();
  model->set_conventions(variant.conventions);
  model->set_num_classes(3);
  model->mutable_resnet()->set_depth(50);
  model->mutable_resnet()->set_frozen_stages(variant.frozen_stages);
  model->mutable_fpn()->set_out_channels(16);
  model->mutable_rpn_head()->set_feat_channels(16);
  model->mutable_roi_head()->set_fc_out_channels(32);
  model->mutable_norm()->set_type(config::v1::NORM_TYPE_SYNC_BN);
  model->mutable_norm()->set_norm_eval(variant.norm_eval);
  config::ApplyDefaults(&job);
  return FasterRCNN(job.model(), 1);
}

bool StartsWith(const std::string& text, const std::string& prefix) {
  return text.rfind(prefix, 0) == 0;
}

bool IsInStem(const std::string& name) {
  return StartsWith(name, "backbone.conv1.") || StartsWith(name, "backbone.bn1.");
}

bool IsInStage1(const std::string& name) { return StartsWith(name, "backbone.layer1."); }

// One training step without an update; returns the collectives of {forward, backward}.
std::pair<int64_t, int64_t> Train(FasterRCNN& model) {
  testing::TwinCommunicator communicator;
  model->SetSyncBatchNormCommunicator(&communicator);
  model->train();
  ops::StridedIndexSampler sampler;
  const at::Tensor loss = model->Loss(RandomBatch(2, 3), sampler).Total();
  const int64_t forward = communicator.collectives();
  loss.backward();
  EXPECT_TRUE(loss.isfinite().item<bool>());
  const int64_t backward = communicator.collectives() - forward;
  const Backbone::Collectives told = model->backbone->SyncBatchNormCollectives();
  EXPECT_EQ(forward, told.forward);
  EXPECT_EQ(backward, told.backward);
  return {forward, backward};
}

void ExpectGradients(FasterRCNN& model, const std::function<bool(const std::string&)>& frozen) {
  size_t trainable = 0;
  for (const auto& item : model->named_parameters()) {
    EXPECT_EQ(item.value().requires_grad(), !frozen(item.key())) << item.key();
    EXPECT_EQ(item.value().grad().defined(), !frozen(item.key())) << item.key();
    if (!frozen(item.key())) ++trainable;
  }
  EXPECT_EQ(model->TrainableParameters().size(), trainable);
}

// Whether the norms below a prefix saw a batch.
bool NormsMoved(FasterRCNN& model, const std::string& prefix) {
  const auto buffers = model->named_buffers();
  const bool counted = buffers[prefix + "num_batches_tracked"].item<int64_t>() > 0;
  const bool moved = buffers[prefix + "running_mean"].abs().max().item<float>() > 0;
  EXPECT_EQ(counted, moved) << prefix;
  return moved;
}

TEST(ResNet, MakesMapsOfStrides4To32) {
  FasterRCNN model = MakeDetector({});
  model->eval();
  torch::NoGradGuard no_grad;
  const auto maps = model->backbone->forward(at::randn({1, 3, 64, 96}));
  ASSERT_EQ(maps.size(), 4u);
  for (int64_t i = 0; i < 4; ++i) {
    const std::vector<int64_t> shape = {1, 256 << i, 16 >> i, 24 >> i};
    EXPECT_EQ(maps[static_cast<size_t>(i)].sizes().vec(), shape);
  }
  // Sides that are no multiples of 32 are rounded up by each layer, as in mmdetection.
  const auto odd = model->ExtractFeatures(at::randn({1, 3, 50, 70}));
  EXPECT_EQ(odd[0].sizes().slice(2).vec(), (std::vector<int64_t>{13, 18}));
  EXPECT_EQ(odd[4].sizes().slice(2).vec(), (std::vector<int64_t>{1, 2}));
}

TEST(ResNet, ABlockStartsAsTheIdentity) {
  FasterRCNN model = MakeDetector({});
  const auto parameters = model->named_parameters();
  EXPECT_EQ(parameters["backbone.layer3.2.bn3.weight"].abs().max().item<float>(), 0);
  EXPECT_EQ(parameters["backbone.layer3.2.bn2.weight"].min().item<float>(), 1);
  // He et al.: variance 2 / fan_out, here 256 x 9.
  EXPECT_NEAR(parameters["backbone.layer3.2.conv2.weight"].std().item<double>(),
              std::sqrt(2.0 / 2304), 1e-4);
  // Glorot and Bengio: uniform, bound sqrt(6 / (fan_in + fan_out)).
  const double bound = std::sqrt(6.0 / (256 + 16));
  const double largest = parameters["neck.lateral_convs.0.conv.weight"].abs().max().item<double>();
  EXPECT_LE(largest, bound);
  EXPECT_GT(largest, 0.99 * bound);
}

TEST(ResNetFrozen, Mmdet3UsesRunningStatisticsThere) {
  FasterRCNN model = MakeDetector({});
  // 13 blocks of 3 groups.
  EXPECT_EQ(Train(model), std::pair(int64_t{39}, int64_t{39}));
  ExpectGradients(model, [](const auto& name) { return IsInStem(name) || IsInStage1(name); });
  EXPECT_FALSE(NormsMoved(model, "backbone.bn1."));
  EXPECT_FALSE(NormsMoved(model, "backbone.layer1.2.bn3."));
  EXPECT_TRUE(NormsMoved(model, "backbone.layer2.0.bn1."));
}

TEST(ResNetFrozen, SeedGoesOnWithItsStatistics) {
  FasterRCNN model = MakeDetector({.conventions = config::v1::CONVENTIONS_SEED});
  // The stem and 16 blocks forward; nothing to learn in 4 of them.
  EXPECT_EQ(Train(model), std::pair(int64_t{49}, int64_t{39}));
  ExpectGradients(model, [](const auto& name) { return IsInStem(name) || IsInStage1(name); });
  EXPECT_TRUE(NormsMoved(model, "backbone.bn1."));
  EXPECT_TRUE(NormsMoved(model, "backbone.layer1.2.bn3."));
}

TEST(ResNetFrozen, ZeroFreezesTheStemAlone) {
  FasterRCNN model = MakeDetector({.frozen_stages = 0});
  EXPECT_EQ(Train(model), std::pair(int64_t{48}, int64_t{48}));
  ExpectGradients(model, IsInStem);
}

TEST(ResNetFrozen, MinusOneFreezesNothing) {
  FasterRCNN model = MakeDetector({.frozen_stages = -1});
  EXPECT_EQ(Train(model), std::pair(int64_t{49}, int64_t{49}));
  ExpectGradients(model, [](const auto&) { return false; });
}

TEST(ResNetFrozen, NormEvalStopsAllStatistics) {
  FasterRCNN model = MakeDetector({.conventions = config::v1::CONVENTIONS_SEED, .norm_eval = true});
  EXPECT_EQ(Train(model), std::pair(int64_t{0}, int64_t{0}));
  EXPECT_FALSE(NormsMoved(model, "backbone.layer4.2.bn3."));
}

TEST(FPN, AddsTheCoarserLevelsFromTheTop) {
  torch::manual_seed(1);
  config::v1::FPN config;
  config.set_out_channels(2);
  config.set_num_outs(6);
  FPNImpl fpn(config, {3, 4, 5, 6});
  auto parameters = fpn.named_parameters();
  std::vector<at::Tensor> maps;
  for (int64_t i = 0; i < 4; ++i) maps.push_back(at::randn({1, 3 + i, 16 >> i, 8 >> i}));
  const auto levels = fpn.forward(maps);
  ASSERT_EQ(levels.size(), 6u);

  at::Tensor sum;
  for (int i = 3; i >= 0; --i) {
    const std::string lateral = "lateral_convs." + std::to_string(i) + ".conv.";
    const std::string output = "fpn_convs." + std::to_string(i) + ".conv.";
    const at::Tensor own = at::conv2d(maps[static_cast<size_t>(i)], parameters[lateral + "weight"],
                                      parameters[lateral + "bias"]);
    sum = sum.defined() ? own + sum.repeat_interleave(2, 2).repeat_interleave(2, 3) : own;
    const at::Tensor expected =
        at::conv2d(sum, parameters[output + "weight"], parameters[output + "bias"], 1, 1);
    EXPECT_TRUE(levels[static_cast<size_t>(i)].allclose(expected, 1e-5, 1e-6)) << i;
  }
  EXPECT_TRUE(levels[4].equal(levels[3].slice(2, 0, 2, 2).slice(3, 0, 1, 2)));
  EXPECT_EQ(levels[5].sizes().vec(), (std::vector<int64_t>{1, 2, 1, 1}));
}

}  // namespace
}  // namespace muster::model
