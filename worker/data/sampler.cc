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

absl::Span<const Sample> EpochPlan::Chunk(int64_t index) const {
  const auto size = static_cast<size_t>(images_per_rank_);
  return absl::MakeConstSpan(order_).subspan(static_cast<size_t>(index) * size, size);
}

int64_t EpochPlan::StepsLeft(int64_t cursor, int world) const {
  return cursor >= chunks_ ? 0 : DivideUp(chunks_ - cursor, world);
}

Schedule EpochPlan::Batches(int64_t cursor, int rank, int world) const {
  Schedule schedule;
  const int64_t steps = StepsLeft(cursor, world);
  for (int64_t step = 0; step < steps; ++step) {
    const absl::Span<const Sample> chunk = Chunk((cursor + step * world + rank) % chunks_);
    schedule.emplace_back(chunk.begin(), chunk.end());
  }
  return schedule;
}

int64_t StepsPerEpoch(const CocoDataset& dataset, absl::Span<const int> images, int images_per_rank,
                      int world, Grouping grouping) {
  if (grouping == Grouping::kMixedRest) {
    return DivideUp(DivideUp(static_cast<int64_t>(images.size()), images_per_rank), world);
  }
  int64_t chunks = 0;
  for (const std::vector<int>& group : SplitByAspect(dataset, images)) {
    chunks += DivideUp(static_cast<int64_t>(group.size()), images_per_rank);
  }
  return DivideUp(chunks, world);
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
