#include <gtest/gtest.h>
#include <torch/torch.h>

#include "worker/train/lr_schedule.h"
#include "worker/train/sgd.h"

namespace muster::train {
namespace {

TEST(SgdTest, TakesTheStepsOfTorchsSgd) {
  torch::manual_seed(3);
  const at::Tensor start = torch::randn({17, 5});
  at::Tensor own = start.clone().requires_grad_();
  at::Tensor reference = start.clone().requires_grad_();
  Sgd sgd({own}, {.momentum = 0.9, .weight_decay = 1e-2});
  torch::optim::SGD torch_sgd({reference},
                              torch::optim::SGDOptions(0.1).momentum(0.9).weight_decay(1e-2));
  for (int step = 0; step < 5; ++step) {
    for (at::Tensor parameter : {own, reference}) {
      parameter.mutable_grad() = at::Tensor();
      (parameter.pow(3).sum() * (step + 1)).backward();
    }
    sgd.Step(0.1);
    torch_sgd.step();
    ASSERT_TRUE(torch::equal(own, reference)) << step;
  }
}

TEST(SgdTest, GoesOnFromRestoredMomentum) {
  at::Tensor a = torch::ones({3}).requires_grad_();
  Sgd first({a}, {.momentum = 0.9, .weight_decay = 0});
  a.mutable_grad() = torch::full({3}, 2.0F);
  first.Step(0.5);
  at::Tensor b = a.detach().clone().requires_grad_();
  Sgd second({b}, {.momentum = 0.9, .weight_decay = 0});
  second.Restore(first.momentum_buffers());
  b.mutable_grad() = torch::full({3}, 2.0F);
  first.Step(0.5);
  second.Step(0.5);
  EXPECT_TRUE(torch::equal(a, b));
  EXPECT_FLOAT_EQ(a[0].item<float>(), 1 - 0.5F * 2 - 0.5F * 3.8F);
}

TEST(SgdTest, ClipsToTheNormOfAllGradients) {
  at::Tensor a = torch::zeros({1}).requires_grad_();
  at::Tensor b = torch::zeros({1}).requires_grad_();
  a.mutable_grad() = torch::full({1}, 3.0F);
  b.mutable_grad() = torch::full({1}, 4.0F);
  EXPECT_DOUBLE_EQ(ClipGradients({a, b}, 0), 5);
  EXPECT_DOUBLE_EQ(ClipGradients({a, b}, 10), 5);
  EXPECT_FLOAT_EQ(a.grad().item<float>(), 3);
  EXPECT_DOUBLE_EQ(ClipGradients({a, b}, 1), 5);
  EXPECT_NEAR(a.grad().item<float>(), 0.6, 1e-6);
  EXPECT_NEAR(b.grad().item<float>(), 0.8, 1e-6);
}

config::v1::Schedule ExampleSchedule() {
  config::v1::Schedule schedule;
  schedule.mutable_optimizer()->set_lr(0.02);
  schedule.set_warmup_steps(500);
  schedule.set_warmup_ratio(1.0 / 3);
  schedule.add_step_epochs(8);
  schedule.add_step_epochs(11);
  schedule.set_gamma(0.1);
  return schedule;
}

TEST(LrScheduleTest, WarmsUpThenFallsByEpoch) {
  const LrSchedule schedule(ExampleSchedule(), 16);
  EXPECT_NEAR(schedule.At(0, 0), 0.02 / 3, 1e-12);
  EXPECT_NEAR(schedule.At(250, 0), 0.02 * 2 / 3, 1e-12);
  EXPECT_DOUBLE_EQ(schedule.At(500, 0), 0.02);
  EXPECT_DOUBLE_EQ(schedule.At(100000, 7), 0.02);
  EXPECT_NEAR(schedule.At(100000, 8), 0.002, 1e-12);
  EXPECT_NEAR(schedule.At(100000, 11), 0.0002, 1e-12);
}

TEST(LrScheduleTest, ScalesToTheBatchWhereAReferenceIsGiven) {
  config::v1::Schedule config = ExampleSchedule();
  config.mutable_optimizer()->set_reference_batch(16);
  EXPECT_DOUBLE_EQ(LrSchedule(config, 4).At(1000, 0), 0.005);
  EXPECT_DOUBLE_EQ(LrSchedule(config, 32).At(1000, 0), 0.04);
}

TEST(LrScheduleTest, WarmsUpByFractionsOfAStep) {
  const LrSchedule schedule(ExampleSchedule(), 16);
  EXPECT_NEAR(schedule.At(62.5, 0), 0.02 * (1 - (1 - 0.125) * 2 / 3), 1e-12);
  EXPECT_LT(schedule.At(499.5, 0), 0.02);
}

}  // namespace
}  // namespace muster::train
