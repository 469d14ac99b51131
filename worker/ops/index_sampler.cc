#include "worker/ops/index_sampler.h"

#include <algorithm>
#include <numeric>
#include <unordered_set>

#include "common/base/counter_random.h"

namespace muster::ops {

std::vector<int64_t> RandomIndexSampler::Choose(int64_t total, int64_t count, int64_t sample_id,
                                                std::string_view purpose) {
  base::CounterRandom random(seed_, epoch_, static_cast<uint64_t>(sample_id), purpose);
  // Floyd's algorithm (Bentley and Floyd 1987): as many draws as samples, however many candidates.
  std::unordered_set<int64_t> taken;
  taken.reserve(static_cast<size_t>(count));
  for (int64_t last = total - count; last < total; ++last) {
    const auto drawn = static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(last) + 1));
    if (!taken.insert(drawn).second) taken.insert(last);
  }
  std::vector<int64_t> chosen(taken.begin(), taken.end());
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

std::vector<int64_t> StridedIndexSampler::Choose(int64_t total, int64_t count, int64_t,
                                                 std::string_view) {
  std::vector<int64_t> chosen(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) chosen[static_cast<size_t>(i)] = i * total / count;
  return chosen;
}

std::vector<int64_t> FirstIndexSampler::Choose(int64_t, int64_t count, int64_t, std::string_view) {
  std::vector<int64_t> chosen(static_cast<size_t>(count));
  std::iota(chosen.begin(), chosen.end(), int64_t{0});
  return chosen;
}

}  // namespace muster::ops
