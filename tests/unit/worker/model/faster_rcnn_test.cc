#include "worker/model/faster_rcnn.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

#include "common/config/defaults.h"
#include "tests/support/parity.h"
#include "tests/support/shared_data.h"
#include "tests/unit/worker/model/fixtures.h"
#include "worker/model/inspection.h"

namespace muster::model {
namespace {

using testing::NamedModel;
using testing::RandomBatch;
using testing::TinyModel;

struct Entry {
  std::string name;
  std::vector<int64_t> shape;
  bool operator==(const Entry& other) const { return name == other.name && shape == other.shape; }
};

// Lines "name<TAB>[a, b]<TAB>param|buffer".
std::vector<Entry> ReadKeys(const std::filesystem::path& path, const std::string& kind) {
  std::vector<Entry> entries;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find('\t');
    const size_t second = line.find('\t', first + 1);
    if (line.substr(second + 1) != kind) continue;
    Entry entry{line.substr(0, first), {}};
    std::string numbers = line.substr(first + 1, second - first - 1);
    std::replace_if(
        numbers.begin(), numbers.end(), [](char c) { return c < '0' || c > '9'; }, ' ');
    std::istringstream sides(numbers);
    for (int64_t side; sides >> side;) entry.shape.push_back(side);
    entries.push_back(entry);
  }
  return entries;
}

std::vector<Entry> Entries(const torch::OrderedDict<std::string, at::Tensor>& tensors) {
  std::vector<Entry> entries;
  for (const auto& item : tensors) entries.push_back({item.key(), item.value().sizes().vec()});
  return entries;
}

TEST(FasterRCNNNames, AreMmdetections) {
  const auto shared = testing::SharedData();
  if (!shared) GTEST_SKIP() << "no shared data";
  for (const uint32_t width : {18u, 32u, 40u, 48u}) {
    FasterRCNN model(NamedModel(width), 0);
    const auto file = *shared / "reference/keys" /
                      ("faster_rcnn_hrnetv2p_w" + std::to_string(width) + "_mmdet3.txt");
    // In the same order too: optimizer states are stored by position.
    EXPECT_EQ(Entries(model->named_parameters()), ReadKeys(file, "param")) << width;
    EXPECT_EQ(Entries(model->named_buffers()), ReadKeys(file, "buffer")) << width;
  }
}

TEST(FasterRCNNNames, AreMmdetectionsForResNet) {
  const auto shared = testing::SharedData();
  if (!shared) GTEST_SKIP() << "no shared data";
  config::v1::TrainJob job;
  job.mutable_model()->mutable_resnet()->set_depth(50);
  config::ApplyDefaults(&job);
  FasterRCNN model(job.model(), 0);
  const auto file = *shared / "reference/keys/faster_rcnn_r50_fpn_mmdet3.txt";
  EXPECT_EQ(Entries(model->named_parameters()), ReadKeys(file, "param"));
  EXPECT_EQ(Entries(model->named_buffers()), ReadKeys(file, "buffer"));
  const Inspection counts = Inspect(model);
  EXPECT_EQ(counts.parameters, 41753056);
  EXPECT_EQ(counts.parameters_by_part.at("backbone"), 23508032);
  EXPECT_EQ(counts.layers.at("BatchNorm"), 53);
  EXPECT_EQ(counts.batch_norm_channels, 26560);
  // The stem and the first stage are frozen.
  EXPECT_EQ(counts.gradient_bytes, 4 * (counts.parameters - 225344));
}

TEST(Inspection, CountsW18) {
  config::v1::Model config = NamedModel(18);
  config.mutable_norm()->set_type(config::v1::NORM_TYPE_SYNC_BN);
  FasterRCNN model(config, 0);
  const Inspection counts = Inspect(model);
  EXPECT_EQ(counts.parameters, 27482676);
  EXPECT_EQ(counts.parameters_by_part.at("backbone"), 9562260);
  EXPECT_EQ(counts.state_entries, 1856);
  EXPECT_EQ(counts.layers.at("BatchNorm"), 305);
  EXPECT_EQ(counts.batch_norm_channels, 16968);
  EXPECT_EQ(counts.sync_bn_collectives_per_step, 2 * 99);
  EXPECT_EQ(counts.parameter_bytes, 4 * counts.parameters);

  config.mutable_norm()->set_norm_eval(true);
  FasterRCNN frozen(config, 0);
  EXPECT_EQ(Inspect(frozen).sync_bn_collectives_per_step, 0);
}

void ExpectAllGradients(FasterRCNN& model) {
  for (const auto& item : model->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
  }
}

// The reducer waits for a gradient of every parameter on every rank.
TEST(FasterRCNNLoss, GivesEveryParameterAGradient) {
  for (const auto norm : {config::v1::NORM_TYPE_BN, config::v1::NORM_TYPE_SYNC_BN}) {
    config::v1::Model config = TinyModel();
    config.mutable_norm()->set_type(norm);
    // {images, boxes in each}
    for (const auto& [images, boxes] : {std::pair{2, 3}, {2, 0}, {0, 0}}) {
      FasterRCNN model(config, 1);
      model->train();
      ops::RandomIndexSampler sampler(5, 0);
      const LossResult losses = model->Loss(RandomBatch(images, boxes), sampler);
      EXPECT_TRUE(losses.Total().isfinite().item<bool>());
      losses.Total().backward();
      ExpectAllGradients(model);
      if (boxes == 0) {
        EXPECT_EQ(losses.loss_bbox.item<float>(), 0);
        EXPECT_EQ(losses.loss_rpn_bbox.item<float>(), 0);
      }
    }
  }
}

TEST(FasterRCNNLoss, IsAFunctionOfSeedAndEpoch) {
  FasterRCNN model(TinyModel(), 1);
  model->train();
  const TrainBatch batch = RandomBatch(2, 3);
  const auto loss = [&](uint64_t seed, uint64_t epoch) {
    ops::RandomIndexSampler sampler(seed, epoch);
    return model->Loss(batch, sampler).Total().item<float>();
  };
  const float first = loss(5, 0);
  EXPECT_EQ(first, loss(5, 0));
  EXPECT_NE(first, loss(5, 1));
  EXPECT_NE(first, loss(6, 0));
}

// The caller finds the non-finite loss; the ops must survive it.
TEST(FasterRCNNLoss, SurvivesNotANumber) {
  FasterRCNN model(TinyModel(), 1);
  model->train();
  {
    torch::NoGradGuard no_grad;
    model->named_parameters()["rpn_head.rpn_cls.weight"].fill_(
        std::numeric_limits<float>::quiet_NaN());
    model->named_parameters()["rpn_head.rpn_reg.weight"].fill_(
        std::numeric_limits<float>::quiet_NaN());
  }
  ops::RandomIndexSampler sampler(5, 0);
  EXPECT_TRUE(model->Loss(RandomBatch(2, 3), sampler).Total().isnan().item<bool>());
}

TEST(FasterRCNNConventions, SeedTrainsAndPredicts) {
  config::v1::TrainJob job;
  job.mutable_model()->set_conventions(config::v1::CONVENTIONS_SEED);
  job.mutable_model()->set_num_classes(3);
  job.mutable_model()->mutable_hrfpn();
  *job.mutable_model()->mutable_hrnet() = TinyModel().hrnet();
  config::ApplyDefaults(&job);
  EXPECT_FALSE(job.model().roi_head().aligned());
  FasterRCNN model(job.model(), 1);
  model->train();
  ops::RandomIndexSampler sampler(5, 0);
  const TrainBatch batch = RandomBatch(2, 3);
  const LossResult losses = model->Loss(batch, sampler);
  EXPECT_TRUE(losses.Total().isfinite().item<bool>());
  losses.Total().backward();
  ExpectAllGradients(model);
  model->eval();
  const auto found = model->Predict({batch.images, {{64, 96, 2, 2}, {64, 96, 1, 1}}});
  ASSERT_EQ(found.size(), 2u);
  for (const Detections& d : found) {
    EXPECT_LE(d.boxes.size(0), 100);
    EXPECT_EQ(d.scores.size(0), d.labels.size(0));
  }
}

TEST(FasterRCNNWeights, DependOnTheSeedAlone) {
  torch::manual_seed(1);
  FasterRCNN a(TinyModel(), 7);
  torch::manual_seed(2);
  FasterRCNN b(TinyModel(), 7);
  FasterRCNN c(TinyModel(), 8);
  const auto weights = [](FasterRCNN& m) { return m->named_parameters()["backbone.conv2.weight"]; };
  EXPECT_TRUE(weights(a).equal(weights(b)));
  EXPECT_FALSE(weights(a).equal(weights(c)));
  // He et al.: variance 2 / fan_out, here 64 x 9.
  EXPECT_NEAR(weights(a).std().item<double>(), std::sqrt(2.0 / 576), 2e-3);
  EXPECT_EQ(a->named_parameters()["backbone.bn1.weight"].min().item<float>(), 1);
  EXPECT_EQ(a->named_parameters()["rpn_head.rpn_cls.bias"].abs().max().item<float>(), 0);
}

TEST(FasterRCNNSyncBatchNorm, IssuesAsManyCollectivesAsInspectionSays) {
  config::v1::Model config = TinyModel();
  config.mutable_norm()->set_type(config::v1::NORM_TYPE_SYNC_BN);
  FasterRCNN model(config, 1);
  testing::TwinCommunicator communicator;
  model->SetSyncBatchNormCommunicator(&communicator);
  model->train();
  ops::RandomIndexSampler sampler(5, 0);
  const LossResult losses = model->Loss(RandomBatch(2, 3), sampler);
  // Stem 2, layer1 3, transitions 3, then (2 + depth of the fuse layers) a module.
  EXPECT_EQ(communicator.collectives(), 2 + 3 + 3 + (2 + 1) + 2 * (2 + 2) + 2 * (2 + 3));
  losses.Total().backward();
  EXPECT_EQ(communicator.collectives(), Inspect(model).sync_bn_collectives_per_step);
  EXPECT_EQ(model->named_buffers()["backbone.bn1.num_batches_tracked"].item<int64_t>(), 1);
}

TEST(FasterRCNNErrors, NameTheFix) {
  FasterRCNN model(TinyModel(), 1);
  ops::RandomIndexSampler sampler(5, 0);
  TrainBatch batch = RandomBatch(1, 1);
  batch.images = at::randn({1, 3, 60, 96});
  try {
    model->Loss(batch, sampler);
    FAIL();
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("size_divisor"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace muster::model
