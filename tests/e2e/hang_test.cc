// Jobs whose ranks stand still, with real trainers: the culprit is named within 30 seconds, and the
// job goes on by itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

#include "tests/e2e/cluster_fixture.h"

namespace muster {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// The contract's figure, from the moment that a rank stands still.
constexpr absl::Duration kNamedWithin = absl::Seconds(30);

class HangTest : public ClusterTest {
 protected:
  static constexpr int kSteps = 72;

  // Without evaluations.
  static std::string SubmitLong(const LocalCluster& cluster, std::vector<std::string> more = {}) {
    more.insert(more.end(),
                {"--set", "evaluation.every_epochs=0", "--set", "checkpointing.every_steps=5"});
    return Submit(cluster, kSteps / 6, std::move(more));
  }
  // The job, once its coordinator has seen enough of its steps.
  static v1::Job AwaitSteadyTraining(const LocalCluster& cluster, const std::string& name) {
    absl::Time first_step = absl::InfiniteFuture();
    const v1::Job running = cluster.WaitForJob(
        name,
        [&](const v1::Job& job) {
          if (IsPast(job, 1)) first_step = std::min(first_step, absl::Now());
          return IsPast(job, 12) && absl::Now() - first_step > absl::Seconds(2) &&
                 job.ranks(0).compute_seconds() > 0 && job.ranks(1).compute_seconds() > 0;
        },
        kJobTimeout);
    EXPECT_TRUE(IsPast(running, 12)) << running.DebugString();
    return running;
  }
  static int RankOn(const v1::Job& job, const std::string& node) {
    for (const v1::RankPlacement& rank : job.ranks()) {
      if (rank.node() == node) return rank.rank();
    }
    ADD_FAILURE() << "no rank on " << node;
    return -1;
  }
  // The job, once its generation is ended.
  static v1::Job AwaitVerdict(const LocalCluster& cluster, const std::string& name) {
    const v1::Job hung = cluster.WaitForJob(
        name, [](const v1::Job& job) { return job.state() != v1::Job::STATE_RUNNING; },
        2 * kNamedWithin);
    EXPECT_NE(hung.state(), v1::Job::STATE_RUNNING) << hung.DebugString();
    return hung;
  }
  static void ExpectGoesOn(const LocalCluster& cluster, const std::string& name) {
    const v1::Job job = cluster.WaitForJob(
        name, [](const v1::Job&) { return false; }, kJobTimeout);
    EXPECT_EQ(job.state(), v1::Job::STATE_SUCCEEDED) << job.DebugString();
    EXPECT_EQ(job.progress().step(), kSteps);
    EXPECT_EQ(job.progress().total_steps(), kSteps);
    EXPECT_EQ(job.generation(), 2);
    EXPECT_EQ(job.restarts(), 1);
    EXPECT_GT(job.newest_checkpoint().parent_step(), 0) << "it began from the start";
    EXPECT_TRUE(cluster.AllTrainers().empty());
  }
};

TEST_F(HangTest, AStoppedRankIsNamed) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = SubmitLong(cluster);
  const v1::Job running = AwaitSteadyTraining(cluster, name);
  const int culprit = RankOn(running, "nodes/w1");
  const std::vector<pid_t> victims = cluster.Trainers(1);
  ASSERT_EQ(victims.size(), 1u);
  const absl::Time stopped = absl::Now();
  ASSERT_EQ(kill(victims[0], SIGSTOP), 0);

  const v1::Job hung = AwaitVerdict(cluster, name);
  EXPECT_LT(absl::Now() - stopped, kNamedWithin);
  EXPECT_THAT(
      hung.first_failure().message(),
      AllOf(HasSubstr(absl::StrCat("hang: rank ", culprit, " on nodes/w1 made no step for ")),
            HasSubstr(": its process is stopped (state T); rank "),
            HasSubstr(" waits for it in ")));
  EXPECT_EQ(hung.first_failure().node(), "nodes/w1");
  EXPECT_THAT(absl::StrJoin(hung.first_failure().stderr_tail(), "\n"),
              AllOf(HasSubstr(absl::StrCat("thread ", victims[0], " (muster-trainer, state T)")),
                    HasSubstr("muster::"), HasSubstr("main")));
  ExpectGoesOn(cluster, name);
  EXPECT_THAT(cluster.Muster({"events", "--job", name}).output, HasSubstr("Hang"));
}

TEST_F(HangTest, ARankThatIsStoppedInAnEvaluationIsNamed) {
  LocalCluster cluster(Options());
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  // 48 views, of larger images: it takes some seconds.
  const std::string name = Submit(
      cluster, 1,
      {"--set", "data.val.annotations=annotations/instances_train.json", "--set",
       "data.val.images=images/train.zip", "--set", "data.test_images_per_rank=1", "--set",
       "data.test_scale={long_side: 512 short_side: 384}", "--set",
       "data.test_pad_size={long_side: 512 short_side: 384}", "--set", "evaluation.tta_flip=true"});
  // Of one rank: what the coordinator must know to learn the pace.
  std::set<int64_t> seen;
  const v1::Job evaluating = cluster.WaitForJob(
      name,
      [&](const v1::Job& job) {
        if (job.progress().eval_images() > 0) seen.insert(job.progress().eval_images());
        return seen.size() == 3;
      },
      kJobTimeout);
  ASSERT_EQ(evaluating.progress().phase(), v1::TrainProgress::PHASE_EVALUATING)
      << evaluating.DebugString();
  ASSERT_EQ(evaluating.progress().eval_images_total(), 48);
  const int culprit = RankOn(evaluating, "nodes/w1");
  const std::vector<pid_t> victims = cluster.Trainers(1);
  ASSERT_EQ(victims.size(), 1u);
  const absl::Time stopped = absl::Now();
  ASSERT_EQ(kill(victims[0], SIGSTOP), 0);

  const v1::Job hung = AwaitVerdict(cluster, name);
  EXPECT_LT(absl::Now() - stopped, kNamedWithin);
  EXPECT_THAT(
      hung.first_failure().message(),
      AllOf(HasSubstr(absl::StrCat("hang: rank ", culprit, " on nodes/w1 made no step for ")),
            HasSubstr(": its process is stopped (state T); rank "),
            HasSubstr(" waits for it in ")));
  EXPECT_EQ(hung.first_failure().node(), "nodes/w1");
  // The evaluation is made up for, and no step is done again.
  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, kJobTimeout);
  ExpectFinished(job, 1);
  EXPECT_EQ(job.generation(), 2);
  EXPECT_EQ(job.restarts(), 1);
  EXPECT_EQ(job.newest_checkpoint().generation(), 1);
}

TEST_F(HangTest, ADataReadThatBlocksIsNamed) {
  // Each worker has its own copy of the images, as plain files.
  LocalCluster::Options options = Options();
  const testing::TemporaryFolder copies;
  for (const int worker : {0, 1}) {
    const std::filesystem::path root = copies.path() / absl::StrCat("w", worker);
    std::filesystem::create_directories(root);
    std::filesystem::copy(data_->path() / "shapes", root / "shapes",
                          std::filesystem::copy_options::recursive);
    const testing::Finished unpacked =
        testing::Run({"python3", "-m", "zipfile", "-e", root / "shapes/images/train.zip",
                      root / "shapes/images/train"},
                     absl::Minutes(1));
    ASSERT_EQ(unpacked.exit_code, 0) << unpacked.output;
    options.data_root_of[worker] = root;
  }
  LocalCluster cluster(options);
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));
  const std::string name = SubmitLong(cluster, {"--set", "data.train.images=images/train"});
  const v1::Job running = AwaitSteadyTraining(cluster, name);
  const int culprit = RankOn(running, "nodes/w1");

  // A named pipe that nobody writes: to open it is to wait.
  std::vector<std::filesystem::path> images;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(copies.path() / "w1/shapes/images/train")) {
    if (entry.is_regular_file()) images.push_back(entry.path());
  }
  ASSERT_EQ(images.size(), 24u);
  const absl::Time blocked = absl::Now();
  for (const std::filesystem::path& image : images) {
    const std::filesystem::path pipe = absl::StrCat(image.string(), ".pipe");
    std::filesystem::create_hard_link(image, absl::StrCat(image.string(), ".kept"));
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    std::filesystem::rename(pipe, image);
  }
  const v1::Job hung = AwaitVerdict(cluster, name);
  // Some batches were read ahead.
  EXPECT_LT(absl::Now() - blocked, kNamedWithin + absl::Seconds(10));
  for (const std::filesystem::path& image : images) {
    std::filesystem::rename(absl::StrCat(image.string(), ".kept"), image);
  }
  EXPECT_THAT(
      hung.first_failure().message(),
      AllOf(HasSubstr(absl::StrCat("hang: rank ", culprit, " on nodes/w1 made no step for ")),
            HasSubstr(": it waits for its data (open"),
            HasSubstr(" in muster::data::FolderImageSource::Read); rank "),
            HasSubstr(" waits for it in ")));
  EXPECT_EQ(hung.first_failure().node(), "nodes/w1");
  EXPECT_THAT(absl::StrJoin(hung.first_failure().stderr_tail(), "\n"),
              AllOf(HasSubstr("muster::data::DataLoader::Next"),
                    HasSubstr("muster::data::FolderImageSource::Read")));
  ExpectGoesOn(cluster, name);
}

}  // namespace
}  // namespace muster
