#include "worker/ops/candidate_sampler.h"

#include <algorithm>
#include <string_view>

#include "worker/ops/assigner.h"

namespace muster::ops {
namespace {

std::vector<int64_t> Pick(std::vector<int64_t> candidates, int64_t count, IndexSampler& sampler,
                          int64_t sample_id, std::string_view purpose) {
  const auto total = static_cast<int64_t>(candidates.size());
  if (total <= count) return candidates;
  std::vector<int64_t> chosen = sampler.Choose(total, count, sample_id, purpose);
  for (int64_t& index : chosen) index = candidates[static_cast<size_t>(index)];
  return chosen;
}

}  // namespace

Sampled SampleCandidates(const std::vector<int64_t>& gt_index,
                         const CandidateSamplerOptions& options, IndexSampler& sampler,
                         int64_t sample_id, const std::string& stage) {
  std::vector<int64_t> positive;
  std::vector<int64_t> negative;
  for (size_t i = 0; i < gt_index.size(); ++i) {
    if (gt_index[i] > 0) positive.push_back(static_cast<int64_t>(i));
    if (gt_index[i] == kAssignedNegative) negative.push_back(static_cast<int64_t>(i));
  }
  const auto max_positive =
      static_cast<int64_t>(static_cast<double>(options.num) * options.pos_fraction);
  Sampled sampled;
  sampled.positive =
      Pick(std::move(positive), max_positive, sampler, sample_id, stage + "_positive");
  const int64_t max_negative = options.num - static_cast<int64_t>(sampled.positive.size());
  sampled.negative =
      Pick(std::move(negative), max_negative, sampler, sample_id, stage + "_negative");
  return sampled;
}

}  // namespace muster::ops
