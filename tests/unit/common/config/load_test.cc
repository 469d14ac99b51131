#include "common/config/load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "google/protobuf/util/message_differencer.h"

#include "common/config/render.h"
#include "tests/support/shared_data.h"

namespace muster::config {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LoadTest : public ::testing::Test {
 protected:
  std::filesystem::path Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = folder_.path() / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return path;
  }

  muster::testing::TemporaryFolder folder_;
};

TEST_F(LoadTest, BasesMergeInOrderAndRepeatedFieldsReplace) {
  Write("configs/_base/a.textproto",
        "model { num_classes: 80 hrnet { width: 18 } } schedule { epochs: 12 step_epochs: [8, 11] }"
        " resources { grace_period { seconds: 30 nanos: 5 } }");
  Write("configs/_base/b.textproto", "schedule { optimizer { lr: 0.02 } }");
  const auto path = Write("configs/quick/job.textproto",
                          "bases: \"_base/a.textproto\" bases: \"_base/b.textproto\"\n"
                          "model { num_classes: 3 } schedule { step_epochs: 9 }\n"
                          "resources { grace_period { seconds: 2 } }");
  const auto job = LoadTrainJob(path);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->bases_size(), 0);
  EXPECT_EQ(job->model().num_classes(), 3u);
  EXPECT_EQ(job->model().hrnet().width(), 18u);
  EXPECT_EQ(job->schedule().epochs(), 12u);
  EXPECT_THAT(job->schedule().step_epochs(), ElementsAre(9));
  EXPECT_DOUBLE_EQ(job->schedule().optimizer().lr(), 0.02);
  EXPECT_EQ(job->resources().grace_period().seconds(), 2);
  EXPECT_EQ(job->resources().grace_period().nanos(), 0);
}

TEST_F(LoadTest, BaseBesideTheFile) {
  Write("base.textproto", "seed: 7");
  const auto job = LoadTrainJob(Write("job.textproto", "bases: \"base.textproto\""));
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->seed(), 7u);
}

TEST_F(LoadTest, BasesHaveDepthOne) {
  Write("base.textproto", "bases: \"other.textproto\"");
  const auto job = LoadTrainJob(Write("job.textproto", "bases: \"base.textproto\""));
  EXPECT_THAT(std::string(job.status().message()), HasSubstr("may have no bases of its own"));
}

TEST_F(LoadTest, MissingBaseNamesFileAndPlaces) {
  const auto job = LoadTrainJob(Write("job.textproto", "bases: \"none.textproto\""));
  EXPECT_EQ(job.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(job.status().message()),
              HasSubstr((folder_.path() / "none.textproto").string()));
}

TEST_F(LoadTest, UnknownFieldNamesLineAndColumn) {
  const auto path = Write("job.textproto", "seed: 1\nmodel {\n  num_clases: 3\n}\n");
  const auto job = LoadTrainJob(path);
  EXPECT_THAT(std::string(job.status().message()), HasSubstr(path.string() + ":3:"));
  EXPECT_THAT(std::string(job.status().message()), HasSubstr("num_clases"));
}

TEST_F(LoadTest, FieldSetTwiceIsAnError) {
  EXPECT_FALSE(LoadTrainJob(Write("job.textproto", "seed: 1 seed: 2")).ok());
}

TEST_F(LoadTest, ExtensionDecidesTheParser) {
  const auto json = LoadTrainJob(Write("job.json", R"({"model": {"numClasses": 3}})"));
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->model().num_classes(), 3u);
  EXPECT_FALSE(LoadTrainJob(Write("text.json", "model { num_classes: 3 }")).ok());
  EXPECT_FALSE(LoadTrainJob(Write("unknown.json", R"({"model": {"classes": 3}})")).ok());
  EXPECT_FALSE(LoadTrainJob(Write("json.textproto", R"({"model": {"num_classes": 3}})")).ok());
  EXPECT_THAT(std::string(LoadTrainJob(Write("job.yaml", "seed: 1")).status().message()),
              HasSubstr("unknown extension '.yaml'"));
}

TEST_F(LoadTest, MissingFileNamesIt) {
  EXPECT_THAT(std::string(LoadTrainJob(folder_.path() / "no.textproto").status().message()),
              HasSubstr("no.textproto"));
}

TEST_F(LoadTest, OverridesComeLast) {
  const auto path = Write("job.textproto", "data { images_per_rank: 2 }");
  const auto job = LoadTrainJob(path, {.overrides = {"data.images_per_rank=4", "seed=9"}});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->data().images_per_rank(), 4u);
  EXPECT_EQ(job->seed(), 9u);
}

TEST_F(LoadTest, RenderedConfigReadsBack) {
  const auto job =
      LoadTrainJob(Write("a.textproto",
                         "model { conventions: CONVENTIONS_SEED } data { root: \"d\u00e4ta\" }"
                         " schedule { step_epochs: [1, 2] warmup_ratio: 0.3333333333333333 }"));
  ASSERT_TRUE(job.ok()) << job.status();
  const auto again = LoadTrainJob(Write("b.textproto", RenderTrainJob(*job)));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*job, *again));
}

TEST(ApplyOverrideTest, EveryKindOfField) {
  v1::TrainJob job;
  job.mutable_schedule()->add_step_epochs(5);
  job.mutable_data()->mutable_pad_size()->set_long_side(64);
  for (const char* assignment :
       {"schedule.step_epochs=[8, 11]", "model.norm.type=BN", "model.conventions=CONVENTIONS_SEED",
        "data.root=my data", "model.load_from=\"a.pth\"", "schedule.optimizer.lr=1e-3",
        "resources.grace_period=90s", "distributed.timeout={seconds: 5}",
        "data.multi_scale={scales: [{long_side: 320 short_side: 240}]}",
        "data.pad_size=", "model.norm.norm_eval=true", "model.rpn_head.allowed_border=-1"}) {
    EXPECT_TRUE(ApplyOverride(assignment, &job).ok()) << ApplyOverride(assignment, &job);
  }
  EXPECT_THAT(job.schedule().step_epochs(), ElementsAre(8, 11));
  EXPECT_EQ(job.model().norm().type(), v1::NORM_TYPE_BN);
  EXPECT_EQ(job.model().conventions(), v1::CONVENTIONS_SEED);
  EXPECT_EQ(job.data().root(), "my data");
  EXPECT_EQ(job.model().load_from(), "a.pth");
  EXPECT_DOUBLE_EQ(job.schedule().optimizer().lr(), 1e-3);
  EXPECT_EQ(job.resources().grace_period().seconds(), 90);
  EXPECT_EQ(job.distributed().timeout().seconds(), 5);
  EXPECT_EQ(job.data().multi_scale().scales(0).long_side(), 320u);
  EXPECT_FALSE(job.data().has_pad_size());
  EXPECT_TRUE(job.model().norm().norm_eval());
  EXPECT_EQ(job.model().rpn_head().allowed_border(), -1);
  EXPECT_TRUE(ApplyOverride("schedule.step_epochs=[]", &job).ok());
  EXPECT_EQ(job.schedule().step_epochs_size(), 0);
}

TEST(ApplyOverrideTest, ErrorsNameTheAssignment) {
  v1::TrainJob job;
  for (const auto& [assignment, expected] : std::vector<std::pair<std::string, std::string>>{
           {"data.imgs_per_gpu=2", "no field 'imgs_per_gpu' in Data, which has root, "},
           {"data.images_per_rank", "write field.path=value"},
           {"data.images_per_rank=two", "override 'data.images_per_rank=two'"},
           {"data.images_per_rank=-1", "override 'data.images_per_rank=-1'"},
           {"seed.x=2", "'seed' has no fields of its own"},
           {"data.multi_scale.scales.long_side=2", "a list is set as a whole"},
           {"model.norm.type=GN", "'GN' is none of BN, SYNC_BN"},
           {"bases=x", "read from files only"}}) {
    const absl::Status status = ApplyOverride(assignment, &job);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << assignment;
    EXPECT_THAT(std::string(status.message()), HasSubstr(expected));
  }
}

}  // namespace
}  // namespace muster::config
