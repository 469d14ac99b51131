#include "worker/model/autocast.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <map>
#include <string>

#include "absl/strings/match.h"

#include "tests/support/parity.h"
#include "tests/unit/worker/model/fixtures.h"
#include "worker/model/faster_rcnn.h"

namespace muster::model {
namespace {

using testing::RandomBatch;

at::ScalarType TypeOfProduct() {
  return at::matmul(at::ones({2, 2}), at::ones({2, 2})).scalar_type();
}

TEST(AutocastGuard, HoldsToTheEndOfItsScope) {
  EXPECT_EQ(TypeOfProduct(), at::kFloat);
  {
    const AutocastGuard on(at::kCPU, true);
    EXPECT_EQ(TypeOfProduct(), at::kBFloat16);
    {
      const AutocastGuard off(at::kCPU, false);
      EXPECT_EQ(TypeOfProduct(), at::kFloat);
    }
    EXPECT_EQ(TypeOfProduct(), at::kBFloat16);
  }
  EXPECT_EQ(TypeOfProduct(), at::kFloat);
}

TEST(AutocastGuard, TheNextScopeSeesAnUpdatedParameter) {
  const at::Tensor weight = at::ones({2, 2}).requires_grad_();
  const auto product = [&] {
    const AutocastGuard on(at::kCPU, true);
    return at::matmul(weight, at::ones({2, 2}))[0][0].item<float>();
  };
  EXPECT_EQ(product(), 2);
  weight.detach().fill_(3);
  EXPECT_EQ(product(), 6);
}

struct Outcome {
  LossResult losses;
  std::map<std::string, at::Tensor> gradients;
  std::map<std::string, at::Tensor> buffers;
};

Outcome Train(const config::v1::Model& config, bool autocast, const TrainBatch& batch) {
  FasterRCNN model(config, 1);
  model->train();
  ops::StridedIndexSampler sampler;
  Outcome outcome;
  {
    const AutocastGuard guard(at::kCPU, autocast);
    outcome.losses = model->Loss(batch, sampler);
  }
  outcome.losses.Total().backward();
  for (const auto& item : model->named_parameters()) {
    outcome.gradients[item.key()] = item.value().grad();
  }
  for (const auto& item : model->named_buffers()) outcome.buffers[item.key()] = item.value();
  return outcome;
}

double RelativeError(const at::Tensor& got, const at::Tensor& want) {
  return (got - want).to(at::kDouble).norm().item<double>() /
         want.to(at::kDouble).norm().item<double>();
}

// The product of all tensors, seen as one vector.
double InnerProduct(const std::map<std::string, at::Tensor>& a,
                    const std::map<std::string, at::Tensor>& b) {
  double sum = 0;
  for (const auto& [name, tensor] : a) {
    sum += (tensor.to(at::kDouble) * b.at(name).to(at::kDouble)).sum().item<double>();
  }
  return sum;
}

class AutocastModel : public ::testing::TestWithParam<config::v1::NormType> {
 protected:
  static config::v1::Model Config() {
    config::v1::Model config = testing::TinyModel();
    config.mutable_norm()->set_type(GetParam());
    return config;
  }
};

// Large enough for maps of 4 x 6 at the lowest resolution: statistics of fewer elements are noise.
TrainBatch LargeBatch() {
  TrainBatch batch = RandomBatch(4, 5);
  batch.images = at::upsample_bilinear2d(batch.images, {128, 192}, false);
  for (ImageTargets& targets : batch.targets) {
    targets.gt_bboxes *= 2;
    targets.img_h = targets.pad_h = 128;
    targets.img_w = targets.pad_w = 192;
  }
  return batch;
}

TEST_P(AutocastModel, IsCloseToFloat32) {
  const TrainBatch batch = LargeBatch();
  const Outcome want = Train(Config(), false, batch);
  const Outcome got = Train(Config(), true, batch);
  const auto close = [&](at::Tensor LossResult::*part, double tolerance) {
    const double expected = (want.losses.*part).item<double>();
    EXPECT_EQ((got.losses.*part).scalar_type(), at::kFloat);
    EXPECT_NEAR((got.losses.*part).item<double>(), expected, tolerance * expected);
  };
  close(&LossResult::loss_rpn_cls, 0.03);
  close(&LossResult::loss_rpn_bbox, 0.03);
  close(&LossResult::loss_cls, 0.03);
  // Of a few dozen regions, and other proposals are among them.
  close(&LossResult::loss_bbox, 0.1);

  for (const auto& [name, gradient] : got.gradients) {
    ASSERT_TRUE(gradient.defined()) << name;
    EXPECT_EQ(gradient.scalar_type(), at::kFloat) << name;
    EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << name;
  }
  const double cosine = InnerProduct(got.gradients, want.gradients) /
                        std::sqrt(InnerProduct(got.gradients, got.gradients) *
                                  InnerProduct(want.gradients, want.gradients));
  std::printf("cosine of the gradients: %.4f\n", cosine);
  EXPECT_GT(cosine, 0.95);

  for (const auto& [name, buffer] : want.buffers) {
    EXPECT_EQ(got.buffers.at(name).scalar_type(), buffer.scalar_type()) << name;
    EXPECT_LT(RelativeError(got.buffers.at(name), buffer), 0.03) << name;
  }
  // HRNet's first layers are computed in float32, to the bit.
  int first_layers = 0;
  for (const auto& [name, buffer] : want.buffers) {
    if (!absl::StartsWith(name, "backbone.bn") && !absl::StartsWith(name, "backbone.layer1.")) {
      continue;
    }
    EXPECT_TRUE(at::equal(got.buffers.at(name), buffer)) << name;
    ++first_layers;
  }
  EXPECT_GT(first_layers, 6);
}

TEST_P(AutocastModel, TakesEmptyBatches) {
  for (const auto& [images, boxes] : {std::pair{2, 0}, {0, 0}}) {
    const Outcome outcome = Train(Config(), true, RandomBatch(images, boxes));
    EXPECT_TRUE(outcome.losses.Total().isfinite().item<bool>());
    for (const auto& [name, gradient] : outcome.gradients) {
      ASSERT_TRUE(gradient.defined()) << name;
      EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << name;
    }
  }
}

TEST_P(AutocastModel, Predicts) {
  FasterRCNN model(Config(), 1);
  model->eval();
  const AutocastGuard guard(at::kCPU, true);
  const auto found = model->Predict({RandomBatch(1, 1).images, {{64, 96, 1, 1}}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].boxes.scalar_type(), at::kFloat);
  EXPECT_EQ(found[0].scores.scalar_type(), at::kFloat);
}

INSTANTIATE_TEST_SUITE_P(Norms, AutocastModel,
                         ::testing::Values(config::v1::NORM_TYPE_SYNC_BN,
                                           config::v1::NORM_TYPE_BN));

}  // namespace
}  // namespace muster::model
