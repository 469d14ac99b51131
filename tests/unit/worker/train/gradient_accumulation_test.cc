// Accumulated gradients against averages that the test takes itself, in float64.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <vector>

#include "tests/support/parity.h"
#include "tests/unit/worker/dist/rank_threads.h"
#include "tests/unit/worker/model/fixtures.h"
#include "worker/dist/gradient_reducer.h"
#include "worker/model/faster_rcnn.h"
#include "worker/ops/index_sampler.h"

namespace muster::train {
namespace {

constexpr int kPasses = 2;

// Image `index` of a few, and others in every rank and pass.
model::TrainBatch Batch(const model::TrainBatch& all, int index) {
  model::TrainBatch batch;
  batch.images = all.images.narrow(0, index, 1).to(at::kDouble);
  batch.targets = {all.targets[static_cast<size_t>(index)]};
  return batch;
}

std::vector<at::Tensor> TakeGradients(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : parameters) {
    gradients.push_back(parameter.grad().clone());
    parameter.mutable_grad() = at::Tensor();
  }
  return gradients;
}

void ExpectClose(const std::vector<at::Tensor>& actual, const std::vector<at::Tensor>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double scale = expected[i].abs().max().item<double>();
    EXPECT_LE((actual[i] - expected[i]).abs().max().item<double>(), 1e-12 * scale + 1e-15)
        << "parameter " << i;
  }
}

class GradientAccumulationTest : public ::testing::TestWithParam<int> {};

TEST_P(GradientAccumulationTest, AveragesOverPassesAndRanks) {
  const int ranks = GetParam();
  const model::TrainBatch images = testing::RandomBatch(ranks * kPasses, 3);
  config::v1::Model config = testing::TinyModel();
  config.mutable_norm()->set_type(config::v1::NORM_TYPE_SYNC_BN);
  config.mutable_norm()->set_norm_eval(false);
  testing::RunRanks(ranks, [&](dist::ProcessGroups& groups) {
    model::FasterRCNN model(config, 1);
    model->to(at::kDouble);
    model->train();
    if (ranks > 1) model->SetSyncBatchNormCommunicator(groups.sync_batch_norm());
    const std::vector<at::Tensor> parameters = model->TrainableParameters();
    dist::GradientReducer reducer(parameters, groups, 1 << 16);
    ops::StridedIndexSampler sampler;
    const auto loss = [&](int pass) {
      return model->Loss(Batch(images, pass * ranks + groups.rank()), sampler).Total();
    };

    // By hand: this rank's gradient of each pass, averaged over passes and ranks.
    std::vector<at::Tensor> own;
    for (int pass = 0; pass < kPasses; ++pass) {
      loss(pass).backward();
      const std::vector<at::Tensor> gradients = TakeGradients(parameters);
      if (pass == 0) own = gradients;
      for (size_t i = 0; pass > 0 && i < own.size(); ++i) own[i] += gradients[i];
    }
    std::vector<at::Tensor> expected;
    for (const at::Tensor& gradient : own) {
      expected.push_back(groups.sync_batch_norm()->AllGather(gradient / kPasses).mean(0));
    }

    // Twice: what is left over from the first step must not matter to the second.
    for (int step = 0; step < 2; ++step) {
      const int64_t before = groups.sync_batch_norm()->collectives();
      dist::GradientReducer::Accumulate(loss(0) / kPasses);
      const int64_t first = groups.sync_batch_norm()->collectives() - before;
      reducer.BeginStep();
      reducer.Backward(loss(1) / kPasses);
      // SyncBN talks in each pass.
      EXPECT_EQ(groups.sync_batch_norm()->collectives() - before, 2 * first);
      EXPECT_EQ(first > 0, ranks > 1);
      ExpectClose(TakeGradients(parameters), expected);
    }

    // Up to the last pass, the gradients are the rank's own.
    dist::GradientReducer::Accumulate(loss(0));
    dist::GradientReducer::Accumulate(loss(1));
    ExpectClose(TakeGradients(parameters), own);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, GradientAccumulationTest, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace muster::train
