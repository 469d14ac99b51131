#include "worker/model/activation_checkpoint.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <string>

#include "common/config/defaults.h"
#include "tests/support/parity.h"
#include "tests/unit/worker/dist/rank_threads.h"
#include "tests/unit/worker/model/fixtures.h"
#include "worker/dist/gradient_reducer.h"
#include "worker/model/autocast.h"
#include "worker/model/faster_rcnn.h"

namespace muster::model {
namespace {

using testing::RandomBatch;

config::v1::Model HRNetConfig(config::v1::NormType norm) {
  config::v1::Model config = testing::TinyModel();
  config.mutable_norm()->set_type(norm);
  return config;
}

config::v1::Model ResNetConfig() {
  config::v1::TrainJob job;
  config::v1::Model* model = job.mutable_model();
  // With statistics of the batch in the frozen stage.
  model->set_conventions(config::v1::CONVENTIONS_SEED);
  model->set_num_classes(3);
  model->mutable_resnet()->set_depth(50);
  model->mutable_fpn()->set_out_channels(16);
  model->mutable_rpn_head()->set_feat_channels(16);
  model->mutable_roi_head()->set_fc_out_channels(32);
  config::ApplyDefaults(&job);
  return job.model();
}

struct Outcome {
  at::Tensor loss;
  std::map<std::string, at::Tensor> gradients;
  std::map<std::string, at::Tensor> buffers;
  int64_t collectives_forward = 0;
  int64_t collectives = 0;
};

void Collect(FasterRCNN& model, Outcome* outcome) {
  for (const auto& item : model->named_parameters()) {
    if (item.value().grad().defined()) outcome->gradients[item.key()] = item.value().grad();
  }
  for (const auto& item : model->named_buffers()) outcome->buffers[item.key()] = item.value();
}

Outcome Step(config::v1::Model config, bool checkpointing, bool autocast = false) {
  config.set_activation_checkpointing(checkpointing);
  FasterRCNN model(config, 1);
  TrainBatch batch = RandomBatch(2, 3);
  if (!autocast) {
    model->to(torch::kDouble);
    batch.images = batch.images.to(at::kDouble);
  }
  {
    // Blocks that do something: a ResNet's start as the identity.
    torch::NoGradGuard no_grad;
    for (auto& item : model->named_parameters()) {
      if (item.key().find("bn3.weight") != std::string::npos) item.value().fill_(0.5);
    }
  }
  model->train();
  testing::TwinCommunicator communicator;
  model->SetSyncBatchNormCommunicator(&communicator);
  ops::StridedIndexSampler sampler;
  Outcome outcome;
  {
    const AutocastGuard guard(at::kCPU, autocast);
    outcome.loss = model->Loss(batch, sampler).Total();
  }
  outcome.collectives_forward = communicator.collectives();
  outcome.loss.backward();
  outcome.collectives = communicator.collectives();
  Collect(model, &outcome);
  return outcome;
}

double RelativeError(const at::Tensor& got, const at::Tensor& want) {
  const double scale = want.abs().max().item<double>();
  return (got - want).abs().max().item<double>() / (scale > 0 ? scale : 1.0);
}

void ExpectSame(const Outcome& got, const Outcome& want, double tolerance) {
  EXPECT_EQ(got.loss.item<double>(), want.loss.item<double>());
  EXPECT_EQ(got.collectives_forward, want.collectives_forward);
  EXPECT_EQ(got.collectives, want.collectives);
  EXPECT_EQ(got.gradients.size(), want.gradients.size());
  for (const auto& [name, gradient] : want.gradients) {
    ASSERT_TRUE(got.gradients.count(name)) << name;
    EXPECT_LE(RelativeError(got.gradients.at(name), gradient), tolerance) << name;
  }
  for (const auto& [name, buffer] : want.buffers) {
    EXPECT_TRUE(got.buffers.at(name).equal(buffer)) << name;
  }
}

TEST(ActivationCheckpointing, ChangesNoNumberOfHRNet) {
  for (const auto norm : {config::v1::NORM_TYPE_SYNC_BN, config::v1::NORM_TYPE_BN}) {
    const config::v1::Model config = HRNetConfig(norm);
    const Outcome plain = Step(config, false);
    EXPECT_EQ(
        plain.buffers.at("backbone.stage2.0.branches.0.0.bn1.num_batches_tracked").item<int64_t>(),
        1);
    ExpectSame(Step(config, true), plain, 1e-12);
  }
}

TEST(ActivationCheckpointing, ChangesNoNumberOfFrozenNorms) {
  config::v1::Model config = HRNetConfig(config::v1::NORM_TYPE_BN);
  config.mutable_norm()->set_norm_eval(true);
  ExpectSame(Step(config, true), Step(config, false), 1e-12);
}

TEST(ActivationCheckpointing, ChangesNoNumberOfResNet) {
  const Outcome plain = Step(ResNetConfig(), false);
  EXPECT_EQ(plain.collectives, 49 + 39);
  ExpectSame(Step(ResNetConfig(), true), plain, 1e-12);
}

TEST(ActivationCheckpointing, RecomputesInTheSamePrecision) {
  const config::v1::Model config = HRNetConfig(config::v1::NORM_TYPE_SYNC_BN);
  const Outcome plain = Step(config, false, /*autocast=*/true);
  ExpectSame(Step(config, true, /*autocast=*/true), plain, 1e-2);
}

TEST(ActivationCheckpointing, RunsAPartTwiceAndKeepsItsInputAlone) {
  const at::Tensor x = at::randn({3}).requires_grad_();
  const at::Tensor weight = at::randn({3}).requires_grad_();
  int runs = 0;
  std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>> inside;
  const NetworkPart part = [&](const std::vector<at::Tensor>& in, const NormContext&) {
    ++runs;
    const at::Tensor middle = in[0] * weight;
    inside.emplace_back(middle.storage().getWeakStorageImpl());
    return std::vector<at::Tensor>{middle.exp(), middle.square()};
  };
  const auto y = RunCheckpointed(part, {x}, {weight}, nullptr);
  EXPECT_EQ(runs, 1);
  EXPECT_TRUE(inside[0].expired());
  (y[0] + y[1]).sum().backward();
  EXPECT_EQ(runs, 2);
  const at::Tensor slope = ((x * weight).exp() + 2 * x * weight).detach();
  EXPECT_TRUE(x.grad().allclose(slope * weight));
  EXPECT_TRUE(weight.grad().allclose(slope * x));
}

// Parameters' gradients pass through the reducer's hooks.
TEST(ActivationCheckpointing, GradientsAreAveragedOverTheRanks) {
  const auto train = [](bool checkpointing) {
    std::vector<Outcome> outcomes(2);
    testing::RunRanks(2, [&](dist::ProcessGroups& groups) {
      config::v1::Model config = HRNetConfig(config::v1::NORM_TYPE_SYNC_BN);
      config.set_activation_checkpointing(checkpointing);
      FasterRCNN model(config, 1);
      model->to(torch::kDouble);
      model->train();
      model->SetSyncBatchNormCommunicator(groups.sync_batch_norm());
      dist::GradientReducer reducer(model->TrainableParameters(), groups, 1 << 16);
      TrainBatch batch = RandomBatch(1 + groups.rank(), 2);
      batch.images = batch.images.to(at::kDouble);
      ops::StridedIndexSampler sampler;
      Outcome& outcome = outcomes[static_cast<size_t>(groups.rank())];
      reducer.BeginStep();
      outcome.loss = model->Loss(batch, sampler).Total();
      reducer.Backward(outcome.loss);
      outcome.collectives = groups.sync_batch_norm()->collectives();
      Collect(model, &outcome);
    });
    return outcomes;
  };
  const std::vector<Outcome> plain = train(false);
  const std::vector<Outcome> checkpointed = train(true);
  for (size_t rank = 0; rank < 2; ++rank) ExpectSame(checkpointed[rank], plain[rank], 1e-12);
  for (const auto& [name, gradient] : checkpointed[0].gradients) {
    EXPECT_TRUE(gradient.equal(checkpointed[1].gradients.at(name))) << name;
  }
}

}  // namespace
}  // namespace muster::model
