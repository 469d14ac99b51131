#include "worker/data/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"

namespace muster::data {
namespace {

// `landscape` images, then `portrait` ones, then one that is square.
CocoDataset MakeDataset(int landscape, int portrait) {
  const testing::TemporaryFolder folder;
  testing::TinyCoco coco;
  const auto add = [&](int width, int height) {
    const auto id = static_cast<int64_t>(coco.json["images"].size()) + 1;
    coco.json["images"].push_back({{"id", id},
                                   {"file_name", absl::StrCat(id, ".jpg")},
                                   {"width", width},
                                   {"height", height}});
  };
  for (int i = 0; i < landscape; ++i) add(64, 48);
  for (int i = 0; i < portrait; ++i) add(48, 64);
  add(50, 50);
  testing::WriteText(folder.path() / "a.json", coco.json.dump());
  return *CocoDataset::Load(folder.path() / "a.json");
}

EpochPlan Plan(const CocoDataset& dataset, int images_per_rank, uint64_t seed = 0,
               uint64_t epoch = 0) {
  return EpochPlan(dataset, dataset.AllImages(),
                   {.images_per_rank = images_per_rank, .seed = seed, .epoch = epoch});
}

EpochPlan::Share OneChunkEach(int rank, int world) {
  return {.rank = rank, .world = world, .chunks_per_pass = world};
}

std::vector<std::vector<Sample>> AllChunks(const EpochPlan& plan) { return plan.Batches(0, {}); }

TEST(EpochPlanTest, EachImageOnceAndGroupsFilledFromTheirHead) {
  const CocoDataset dataset = MakeDataset(11, 6);  // groups of 11 and 7
  const EpochPlan plan = Plan(dataset, 4);
  EXPECT_EQ(plan.chunks(), 3 + 2);
  std::map<int, int> seen;
  int64_t next_id = 0;
  for (const std::vector<Sample>& chunk : AllChunks(plan)) {
    ASSERT_EQ(chunk.size(), 4U);
    const auto group = [&](const Sample& sample) {
      return AspectGroup(dataset.images()[static_cast<size_t>(sample.dataset_index)].size);
    };
    for (const Sample& sample : chunk) {
      EXPECT_EQ(group(sample), group(chunk[0]));
      EXPECT_EQ(sample.sample_id, next_id++);
      ++seen[sample.dataset_index];
    }
  }
  EXPECT_EQ(seen.size(), 18U);
  int twice = 0;
  for (const auto& [image, count] : seen) {
    EXPECT_LE(count, 2) << image;
    twice += count - 1;
  }
  EXPECT_EQ(twice, 1 + 1);
}

TEST(EpochPlanTest, GroupSmallerThanAChunkRepeatsItself) {
  const CocoDataset dataset = MakeDataset(4, 0);  // one square image alone in its group
  const EpochPlan plan = Plan(dataset, 4);
  ASSERT_EQ(plan.chunks(), 2);
  std::set<std::set<int>> groups;
  for (const std::vector<Sample>& chunk : AllChunks(plan)) {
    std::set<int> images;
    for (const Sample& sample : chunk) images.insert(sample.dataset_index);
    groups.insert(images);
  }
  EXPECT_THAT(groups, ::testing::ElementsAre(std::set<int>{0, 1, 2, 3}, std::set<int>{4}));
}

TEST(EpochPlanTest, OrderDependsOnSeedAndEpochAlone) {
  const CocoDataset dataset = MakeDataset(20, 20);
  const auto order = AllChunks(Plan(dataset, 2, 5, 1));
  EXPECT_EQ(order, AllChunks(Plan(dataset, 2, 5, 1)));
  EXPECT_NE(order, AllChunks(Plan(dataset, 2, 5, 2)));
  EXPECT_NE(order, AllChunks(Plan(dataset, 2, 6, 1)));
}

TEST(EpochPlanTest, RanksShareTheListAndAResumeMayHaveOthers) {
  const CocoDataset dataset = MakeDataset(20, 12);  // 10 + 7 chunks of 2
  const EpochPlan plan = Plan(dataset, 2);
  ASSERT_EQ(plan.chunks(), 17);
  const auto all = AllChunks(plan);
  // Two steps of 3 ranks, then the rest with 4.
  std::vector<std::vector<Sample>> seen;
  for (int64_t step = 0; step < 2; ++step) {
    for (int rank = 0; rank < 3; ++rank) {
      seen.push_back(plan.Batches(0, OneChunkEach(rank, 3))[static_cast<size_t>(step)]);
    }
  }
  EXPECT_EQ(plan.PassesLeft(0, 3), 6);
  EXPECT_EQ(plan.PassesLeft(6, 4), 3);
  EXPECT_EQ(plan.PassesLeft(17, 4), 0);
  EXPECT_EQ(plan.PassesLeft(20, 4), 0);
  for (size_t step = 0; step < 3; ++step) {
    for (int rank = 0; rank < 4; ++rank)
      seen.push_back(plan.Batches(6, OneChunkEach(rank, 4))[step]);
  }
  ASSERT_EQ(seen.size(), 18U);
  for (size_t i = 0; i < 17; ++i) EXPECT_EQ(seen[i], all[i]) << i;
  EXPECT_EQ(seen[17], all[0]);  // the last step wraps to the head
  EXPECT_EQ(ChunksPerEpoch(dataset, dataset.AllImages(), 2), 17);
}

TEST(EpochPlanTest, EachImageOnceWhateverTheWorldsOnTheWay) {
  const CocoDataset dataset = MakeDataset(33, 22);  // groups of 33 and 23: 11 + 8 chunks of 3
  for (const Grouping grouping : {Grouping::kFilledGroups, Grouping::kMixedRest}) {
    const EpochPlan plan(dataset, dataset.AllImages(),
                         {.images_per_rank = 3, .seed = 4, .epoch = 2, .grouping = grouping});
    // Interrupted twice: so many steps with so many ranks.
    std::map<int64_t, int> samples;
    std::map<int, int> images;
    int64_t cursor = 0;
    for (const auto& [world, steps] : {std::pair(4, 2), std::pair(1, 3), std::pair(3, 99)}) {
      const int64_t taken = std::min<int64_t>(steps, plan.PassesLeft(cursor, world));
      for (int rank = 0; rank < world; ++rank) {
        const Schedule batches = plan.Batches(cursor, OneChunkEach(rank, world));
        ASSERT_EQ(static_cast<int64_t>(batches.size()), plan.PassesLeft(cursor, world));
        for (int64_t step = 0; step < taken; ++step) {
          for (const Sample& sample : batches[static_cast<size_t>(step)]) {
            ++samples[sample.sample_id];
            ++images[sample.dataset_index];
          }
        }
      }
      cursor += taken * world;
    }
    EXPECT_EQ(plan.PassesLeft(cursor, 3), 0);
    EXPECT_EQ(images.size(), 56U);
    // 19 chunks: 8, then 3, then 8 of 9, so the last step takes one of the head again.
    ASSERT_EQ(plan.chunks(), 19);
    for (const auto& [sample, count] : samples) EXPECT_EQ(count, sample < 3 ? 2 : 1) << sample;
  }
}

// A job of 4 ranks x 2 images that runs on 1 to 8 of them.
TEST(EpochPlanTest, OtherWorldsShareTheSameImagesOfAPass) {
  const CocoDataset dataset = MakeDataset(20, 12);  // 10 + 7 chunks of 2
  const EpochPlan plan = Plan(dataset, 2);
  const auto all = AllChunks(plan);
  for (const int world : {1, 2, 3, 4, 5, 8}) {
    std::vector<Schedule> ranks;
    for (int rank = 0; rank < world; ++rank) {
      ranks.push_back(plan.Batches(4, {.rank = rank, .world = world, .chunks_per_pass = 4}));
      ASSERT_EQ(ranks.back().size(), 4U) << world;  // 13 chunks are left
    }
    for (size_t pass = 0; pass < 4; ++pass) {
      std::vector<Sample> seen, expected;
      for (const Schedule& rank : ranks) {
        EXPECT_GE(rank[pass].size(), static_cast<size_t>(8 / world)) << world;
        EXPECT_LE(rank[pass].size(), static_cast<size_t>((8 + world - 1) / world)) << world;
        seen.insert(seen.end(), rank[pass].begin(), rank[pass].end());
      }
      for (size_t i = 4 + 4 * pass; i < 8 + 4 * pass; ++i) {
        expected.insert(expected.end(), all[i % 17].begin(), all[i % 17].end());
      }
      EXPECT_EQ(seen, expected) << world << " ranks, pass " << pass;
    }
  }
}

TEST(EpochPlanTest, MixedRestTakesImagesAsTheyCome) {
  const CocoDataset dataset = MakeDataset(11, 6);
  const EpochPlan plan(dataset, dataset.AllImages(),
                       {.images_per_rank = 4, .grouping = Grouping::kMixedRest});
  // 18 images; the square one is landscape here: 12 and 6, so only 4 + 4 + 4, 4 and a rest of 2.
  ASSERT_EQ(plan.chunks(), 5);
  std::map<int, int> seen;
  const auto chunks = AllChunks(plan);
  for (size_t i = 0; i < chunks.size(); ++i) {
    std::set<bool> portrait;
    for (const Sample& sample : chunks[i]) {
      ++seen[sample.dataset_index];
      const Size size = dataset.images()[static_cast<size_t>(sample.dataset_index)].size;
      portrait.insert(size.width < size.height);
    }
    if (i + 1 < chunks.size()) {
      EXPECT_EQ(portrait.size(), 1U) << i;
    }
  }
  EXPECT_EQ(seen.size(), 18U);
  int twice = 0;
  for (const auto& [image, count] : seen) twice += count - 1;
  EXPECT_EQ(twice, 2);  // the last chunk's, from the head
  EXPECT_EQ(ChunksPerEpoch(dataset, dataset.AllImages(), 4, Grouping::kMixedRest), 5);
  EXPECT_EQ(ChunksPerEpoch(dataset, dataset.AllImages(), 4), 5);
}

TEST(GroupingTest, FollowsConventionsAndCanvas) {
  config::v1::TrainJob job;
  job.mutable_model()->set_conventions(config::v1::CONVENTIONS_MMDET3);
  EXPECT_EQ(GroupingOf(job), Grouping::kMixedRest);
  job.mutable_data()->mutable_pad_size()->set_long_side(320);
  EXPECT_EQ(GroupingOf(job), Grouping::kFilledGroups);
  job.mutable_data()->clear_pad_size();
  job.mutable_model()->set_conventions(config::v1::CONVENTIONS_SEED);
  EXPECT_EQ(GroupingOf(job), Grouping::kFilledGroups);
}

TEST(EpochPlanTest, NoImages) {
  const CocoDataset dataset = MakeDataset(1, 0);
  const EpochPlan plan(dataset, {}, {.images_per_rank = 2});
  EXPECT_EQ(plan.chunks(), 0);
  EXPECT_TRUE(plan.Batches(0, OneChunkEach(0, 2)).empty());
}

TEST(EvaluationBatchesTest, EachImageOnceOverAllRanks) {
  const CocoDataset dataset = MakeDataset(9, 4);
  for (const int world : {1, 3, 20}) {
    std::map<int, int> seen;
    for (int rank = 0; rank < world; ++rank) {
      for (const auto& batch : EvaluationBatches(dataset, dataset.AllImages(), 2, rank, world)) {
        ASSERT_FALSE(batch.empty());
        EXPECT_LE(batch.size(), 2U);
        for (const Sample& sample : batch) {
          ++seen[sample.dataset_index];
          EXPECT_EQ(sample.sample_id, sample.dataset_index);
          EXPECT_EQ(
              AspectGroup(dataset.images()[static_cast<size_t>(sample.dataset_index)].size),
              AspectGroup(dataset.images()[static_cast<size_t>(batch[0].dataset_index)].size));
        }
      }
    }
    EXPECT_EQ(seen.size(), 14U);
    for (const auto& [image, count] : seen) EXPECT_EQ(count, 1) << image;
  }
}

}  // namespace
}  // namespace muster::data
