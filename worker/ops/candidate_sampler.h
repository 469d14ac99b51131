#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/ops/index_sampler.h"

namespace muster::ops {

// As mmdetection's RandomSampler.
struct CandidateSamplerOptions {
  // Candidates per image.
  int64_t num = 256;
  // Of them, at most this share (rounded down) is positive; negatives fill up.
  double pos_fraction = 0.5;
};

// Indices into the assigned candidates, ascending.
struct Sampled {
  std::vector<int64_t> positive;
  std::vector<int64_t> negative;
};

// Draws from an Assignment's gt_index. `stage` ("rpn", "rcnn") keeps the draws of the two stages
// apart.
Sampled SampleCandidates(const std::vector<int64_t>& gt_index,
                         const CandidateSamplerOptions& options, IndexSampler& sampler,
                         int64_t sample_id, const std::string& stage);

}  // namespace muster::ops
