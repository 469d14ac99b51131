#include "common/config/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config/defaults.h"
#include "common/config/load.h"
#include "tests/support/shared_data.h"

namespace muster::config {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

v1::TrainJob GoodJob() {
  const auto job = LoadTrainJob(muster::testing::SourceFolder() / "configs/quick/bccd.textproto");
  EXPECT_TRUE(job.ok()) << job.status();
  return job.ok() ? *job : v1::TrainJob();
}

// The violations of a good job with one assignment.
std::string After(const std::vector<std::string>& assignments) {
  v1::TrainJob job = GoodJob();
  for (const std::string& assignment : assignments) {
    EXPECT_TRUE(ApplyOverride(assignment, &job).ok()) << assignment;
  }
  return FormatViolations(Validate(job));
}

TEST(ValidateTest, GoodJobBeforeAndAfterDefaults) {
  v1::TrainJob job = GoodJob();
  EXPECT_THAT(FormatViolations(Validate(job)), IsEmpty());
  ApplyDefaults(&job);
  EXPECT_THAT(FormatViolations(Validate(job)), IsEmpty());
}

TEST(ValidateTest, EmptyJobNamesAllThatIsRequired) {
  const std::string text = FormatViolations(Validate(v1::TrainJob()));
  for (const char* field :
       {"model.hrnet: ", "data.root: ", "data.train.annotations: ", "data.train.images: ",
        "data.val.annotations: ", "data.images_per_rank: ", "data.multi_scale.scales: ",
        "schedule.epochs: ", "schedule.optimizer.lr: "}) {
    EXPECT_THAT(text, HasSubstr(field));
  }
}

TEST(ValidateTest, ValIsNotNeededWithoutEvaluation) {
  EXPECT_THAT(After({"evaluation.every_epochs=0", "data.val="}), IsEmpty());
}

TEST(ValidateTest, EachFaultNamesItsField) {
  for (const auto& [assignment, field] : std::vector<std::pair<std::string, std::string>>{
           {"data.images_per_rank=0", "data.images_per_rank: is 0"},
           {"model.num_classes=0", "model.num_classes: is 0"},
           {"model.hrnet.stage3.num_channels=[8, 16]", "model.hrnet.stage3.num_channels: has 2"},
           {"model.hrfpn.num_outs=4", "model.rpn_head.anchor_strides: has 5 strides"},
           {"model.rpn_head.anchor_strides=[4, 8, 16, 32, 60]", "anchor_strides[4]: is 60"},
           {"model.roi_head.assigner.neg_iou_thr=0.6", "model.roi_head.assigner.neg_iou_thr: "},
           {"model.load_from=weights.bin", "model.load_from: must end in"},
           {"data.train.images=/abs/train.zip", "data.train.images: is absolute"},
           {"data.val.images=../x.zip", "data.val.images: has a '..'"},
           {"data.multi_scale.mode=RANGE", "data.multi_scale.scales: has 3 scales; mode RANGE"},
           {"data.pad_size={long_side: 256 short_side: 256}",
            "data.pad_size.long_side: is 256; an image may be 320 there"},
           {"data.pad_size={long_side: 320 short_side: 240}",
            "data.pad_size.short_side: is 240; an image may be 240 there, 256 with size_divisor "
            "32"},
           {"data.test_scale={long_side: 640 short_side: 480}", "data.test_pad_size.long_side: "},
           {"data.mean=[1, 2]", "data.mean: has 2 numbers"},
           {"data.std=[1, 0, 1]", "data.std[1]: is 0"},
           {"data.flip_ratio=nan", "data.flip_ratio: is nan"},
           {"data.photo_metric_distortion={contrast_lower: 1.6}",
            "data.photo_metric_distortion.contrast_lower: is above contrast_upper (1.5)"},
           {"data.photo_metric_distortion={saturation_upper: -1}",
            "data.photo_metric_distortion.saturation_upper: is -1"},
           {"data.photo_metric_distortion={hue_delta: 400}",
            "data.photo_metric_distortion.hue_delta: is 400"},
           {"data.photo_metric_distortion={brightness_delta: nan}",
            "data.photo_metric_distortion.brightness_delta: is nan"},
           {"data.expand={ratio_min: 0.5}", "data.expand.ratio_min: is 0.5"},
           {"data.expand={ratio_min: 5}", "data.expand.ratio_min: is above ratio_max (4)"},
           {"data.expand={prob: 2}", "data.expand.prob: is 2"},
           {"data.min_iou_random_crop={min_ious: [0.5, 1.5]}",
            "data.min_iou_random_crop.min_ious[1]: is 1.5"},
           {"data.min_iou_random_crop={min_crop_size: 0}",
            "data.min_iou_random_crop.min_crop_size: is 0"},
           {"schedule.step_epochs=[8, 20]", "schedule.step_epochs[1]: is 20; must be 1 to 19"},
           {"schedule.step_epochs=[8, 8]", "schedule.step_epochs[1]: is 8; must be above"},
           {"schedule.optimizer.lr=0", "schedule.optimizer.lr: is 0"},
           {"schedule.optimizer.lr=inf", "schedule.optimizer.lr: is inf"},
           {"resources.nodes=0", "resources.nodes: is 0"},
           {"distributed.timeout=0s", "distributed.timeout: is 0"},
           {"checkpointing.keep_last=0", "checkpointing.keep_last: is 0"}}) {
    EXPECT_THAT(After({assignment}), HasSubstr(field)) << assignment;
  }
}

TEST(ValidateTest, RandResizeCropTakesThePlaceOfMultiScale) {
  const std::string crop =
      "data.rand_resize_crop={scales: {long_side: 400 short_side: 300} "
      "crop_size: {long_side: 320 short_side: 240}}";
  EXPECT_THAT(After({crop, "data.multi_scale.scales="}), IsEmpty());
  EXPECT_THAT(After({crop}), HasSubstr("data.multi_scale.scales: are not used beside"));
  EXPECT_THAT(After({crop, "data.multi_scale.scales=", "data.test_scale="}),
              HasSubstr("data.test_scale: required beside data.rand_resize_crop"));
  // The canvas must hold the crop, not the scales.
  EXPECT_THAT(After({crop, "data.multi_scale.scales=",
                     "data.rand_resize_crop.crop_size={long_side: 352 short_side: 240}"}),
              HasSubstr("data.pad_size.long_side: is 320; an image may be 352 there"));
  EXPECT_THAT(After({"data.multi_scale.scales=", "data.rand_resize_crop={}"}),
              AllOf(HasSubstr("data.rand_resize_crop.scales: required"),
                    HasSubstr("data.rand_resize_crop.crop_size.long_side: is 0")));
  EXPECT_THAT(After({"data.multi_scale.scales=",
                     "data.rand_resize_crop={scales: {long_side: 300 short_side: 400} "
                     "crop_size: {long_side: 320 short_side: 240}}"}),
              HasSubstr("data.rand_resize_crop.scales[0].short_side: is above long_side"));
}

TEST(ValidateTest, DivisorMustSuitHrnetUnlessThereIsACanvas) {
  EXPECT_THAT(After({"data.size_divisor=1"}), IsEmpty());
  EXPECT_THAT(After({"data.size_divisor=1", "data.pad_size="}),
              HasSubstr("data.size_divisor: is 1"));
}

TEST(ValidateTest, ElasticJobsKeepAnImageForEachRank) {
  EXPECT_THAT(After({"resources.nodes=4", "resources.min_nodes=1", "resources.max_nodes=8",
                     "data.images_per_rank=2"}),
              IsEmpty());
  EXPECT_THAT(After({"resources.nodes=4", "resources.min_nodes=5"}),
              HasSubstr("resources.min_nodes: is 5; must be 1 to 4"));
  EXPECT_THAT(After({"resources.nodes=4", "resources.max_nodes=3"}),
              HasSubstr("resources.max_nodes: is 3; must be 4 to"));
  EXPECT_THAT(After({"resources.nodes=4", "resources.max_nodes=9", "data.images_per_rank=2"}),
              HasSubstr("resources.max_nodes: is 9; must be 4 to 8"));
  EXPECT_THAT(After({"resources.nodes=4", "resources.max_nodes=9", "data.images_per_rank=2",
                     "resources.elastic_batch=ELASTIC_BATCH_SCALE_LR"}),
              IsEmpty());
}

TEST(ValidateTest, TrainersGetOnlyVariablesOfTheirCollectives) {
  v1::TrainJob job;
  (*job.mutable_distributed()->mutable_environment())["NCCL_DEBUG"] = "INFO";
  (*job.mutable_distributed()->mutable_environment())["LD_PRELOAD"] = "evil.so";
  job.mutable_distributed()->set_interface("eth0,eth1");
  const std::string text = FormatViolations(Validate(job));
  EXPECT_THAT(text, HasSubstr("distributed.environment: 'LD_PRELOAD' must begin with NCCL_"));
  EXPECT_EQ(text.find("NCCL_DEBUG"), std::string::npos);
  EXPECT_THAT(text, HasSubstr("distributed.interface: 'eth0,eth1' is no interface's name"));
}

TEST(ValidateTest, AllAtOnce) {
  const std::string text =
      After({"data.images_per_rank=0", "schedule.epochs=0", "resources.nodes=0"});
  EXPECT_THAT(text, HasSubstr("data.images_per_rank"));
  EXPECT_THAT(text, HasSubstr("schedule.epochs"));
  EXPECT_THAT(text, HasSubstr("resources.nodes"));
}

// Every file under configs/, so that none rots.
TEST(ConfigsTest, EveryFileLoadsAndIsValid) {
  const std::filesystem::path root = muster::testing::SourceFolder() / "configs";
  int jobs = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.path().extension() != ".textproto") continue;
    const auto job = LoadTrainJob(entry.path());
    ASSERT_TRUE(job.ok()) << job.status();
    if (entry.path().parent_path().filename() == "_base") continue;  // a piece of a job
    EXPECT_THAT(FormatViolations(Validate(*job)), IsEmpty()) << entry.path();
    EXPECT_GT(job->expected_results_size() + (job->schedule().epochs() == 1), 0) << entry.path();
    ++jobs;
  }
  EXPECT_GE(jobs, 16);
}

// The rows of 8 images a step were trained at half the learning rate of those of 16.
TEST(ConfigsTest, PublishedRowsTrainOnEightOrSixteenImages) {
  const std::filesystem::path root = muster::testing::SourceFolder() / "configs/hrnet";
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const auto job = LoadTrainJob(entry.path());
    ASSERT_TRUE(job.ok()) << job.status();
    const uint32_t images = job->resources().nodes() * job->resources().ranks_per_node() *
                            job->data().images_per_rank();
    EXPECT_TRUE(images == 8 || images == 16) << entry.path() << ": " << images;
    EXPECT_EQ(job->schedule().optimizer().lr(), 0.02) << entry.path();
    EXPECT_EQ(job->schedule().optimizer().reference_batch(), 16u) << entry.path();
    EXPECT_EQ(job->model().conventions(), v1::CONVENTIONS_SEED) << entry.path();
    EXPECT_EQ(job->data().test_scale().long_side(), 1333u) << entry.path();
  }
}

}  // namespace
}  // namespace muster::config
