#include "worker/data/sampler.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "common/base/counter_random.h"

namespace muster::data {
namespace {

constexpr int kGroups = 2;

std::array<std::vector<int>, kGroups> SplitByAspect(const CocoDataset& dataset,
                                                    absl::Span<const int> images) {
  std::array<std::vector<int>, kGroups> groups;
  for (const int image : images) {
    const Size size = dataset.images()[static_cast<size_t>(image)].size;
    groups[static_cast<size_t>(AspectGroup(size))].push_back(image);
  }
  return groups;
}

// Fisher and Yates.
template <typename T>
void Shuffle(base::CounterRandom* random, std::vector<T>* values) {
  for (size_t i = values->size(); i > 1; --i) {
    std::swap((*values)[i - 1], (*values)[random->NextBelow(i)]);
  }
}

int64_t DivideUp(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// `images` in chunks of `size`, the last one filled up from `head`.
void Cut(const std::vector<int>& images, const std::vector<int>& head, size_t size,
         std::vector<std::vector<int>>* chunks) {
  for (size_t begin = 0; begin < images.size(); begin += size) {
    std::vector<int>& chunk = chunks->emplace_back();
    for (size_t i = begin; i < begin + size; ++i) {
      chunk.push_back(i < images.size() ? images[i] : head[(i - images.size()) % head.size()]);
    }
  }
}

std::vector<std::vector<int>> FilledGroups(const CocoDataset& dataset, absl::Span<const int> images,
                                           const EpochPlan::Options& options) {
  std::vector<std::vector<int>> chunks;
  uint64_t group_number = 0;
  for (std::vector<int>& group : SplitByAspect(dataset, images)) {
    base::CounterRandom random(options.seed, options.epoch, group_number++, "shuffle images");
    Shuffle(&random, &group);
    Cut(group, group, static_cast<size_t>(options.images_per_rank), &chunks);
  }
  base::CounterRandom random(options.seed, options.epoch, 0, "shuffle chunks");
  Shuffle(&random, &chunks);
  return chunks;
}

std::vector<std::vector<int>> MixedRest(const CocoDataset& dataset, absl::Span<const int> images,
                                        const EpochPlan::Options& options) {
  std::vector<int> order(images.begin(), images.end());
  base::CounterRandom random(options.seed, options.epoch, 0, "shuffle images");
  Shuffle(&random, &order);
  std::vector<std::vector<int>> chunks;
  std::array<std::vector<int>, kGroups> waiting;
  for (const int image : order) {
    const Size size = dataset.images()[static_cast<size_t>(image)].size;
    std::vector<int>& group = waiting[size.width < size.height ? 0 : 1];
    group.push_back(image);
    if (group.size() == static_cast<size_t>(options.images_per_rank)) {
      chunks.push_back(std::move(group));
      group.clear();
    }
  }
  std::vector<int>& rest = waiting[0];
  rest.insert(rest.end(), waiting[1].begin(), waiting[1].end());
  Cut(rest, order, static_cast<size_t>(options.images_per_rank), &chunks);
  return chunks;
}

}  // namespace

Grouping GroupingOf(const config::v1::TrainJob& job) {
  const bool seed = job.model().conventions() == config::v1::CONVENTIONS_SEED;
  return seed || job.data().has_pad_size() ? Grouping::kFilledGroups : Grouping::kMixedRest;
}

int AspectGroup(Size size) { return size.width > size.height ? 1 : 0; }

EpochPlan::EpochPlan(const CocoDataset& dataset, absl::Span<const int> images,
                     const Options& options)
    : images_per_rank_(options.images_per_rank) {
  const std::vector<std::vector<int>> chunks = options.grouping == Grouping::kFilledGroups
                                                   ? FilledGroups(dataset, images, options)
                                                   : MixedRest(dataset, images, options);
  chunks_ = static_cast<int64_t>(chunks.size());
  for (const std::vector<int>& chunk : chunks) {
    for (const int image : chunk) {
      order_.push_back({.dataset_index = image, .sample_id = static_cast<int64_t>(order_.size())});
    }
  }
}

int64_t EpochPlan::PassesLeft(int64_t cursor, int64_t chunks_per_pass) const {
  return cursor >= chunks_ ? 0 : DivideUp(chunks_ - cursor, chunks_per_pass);
}

Schedule EpochPlan::Batches(int64_t cursor, const Share& share) const {
  Schedule schedule;
  const auto epoch = static_cast<int64_t>(order_.size());
  const int64_t images = share.chunks_per_pass * images_per_rank_;
  // With chunks_per_pass = world these are the bounds of chunks.
  const int64_t begin = images * share.rank / share.world;
  const int64_t end = images * (share.rank + 1) / share.world;
  const int64_t passes = PassesLeft(cursor, share.chunks_per_pass);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = cursor * images_per_rank_ + pass * images;
    std::vector<Sample>& batch = schedule.emplace_back();
    for (int64_t i = first + begin; i < first + end; ++i) {
      batch.push_back(order_[static_cast<size_t>(i % epoch)]);
    }
  }
  return schedule;
}

int64_t ChunksPerEpoch(const CocoDataset& dataset, absl::Span<const int> images,
                       int images_per_rank, Grouping grouping) {
  if (grouping == Grouping::kMixedRest) {
    return DivideUp(static_cast<int64_t>(images.size()), images_per_rank);
  }
  int64_t chunks = 0;
  for (const std::vector<int>& group : SplitByAspect(dataset, images)) {
    chunks += DivideUp(static_cast<int64_t>(group.size()), images_per_rank);
  }
  return chunks;
}

Schedule EvaluationBatches(const CocoDataset& dataset, absl::Span<const int> images,
                           int images_per_rank, int rank, int world) {
  const auto batch_size = static_cast<size_t>(images_per_rank);
  Schedule schedule;
  int64_t batch = 0;
  for (const std::vector<int>& group : SplitByAspect(dataset, images)) {
    for (size_t first = 0; first < group.size(); first += batch_size) {
      if (batch++ % world != rank) continue;
      schedule.emplace_back();
      for (size_t i = first; i < std::min(first + batch_size, group.size()); ++i) {
        schedule.back().push_back({.dataset_index = group[i], .sample_id = group[i]});
      }
    }
  }
  return schedule;
}

}  // namespace muster::data
