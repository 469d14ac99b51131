#include "coordinator/core/hang_watch.h"

#include <algorithm>

namespace muster::coordinator {
namespace {

constexpr double kNewestWeight = 0.2;

}  // namespace

void HangWatch::See(int rank, v1::TrainProgress::Phase phase) {
  auto [it, is_new] = phases_.try_emplace(rank, v1::TrainProgress::PHASE_TRAINING);
  if (phase == v1::TrainProgress::PHASE_UNSPECIFIED) return;
  it->second = phase;
  if (phase != v1::TrainProgress::PHASE_TRAINING) only_trained_ = false;
}

void HangWatch::Step(int64_t step, absl::Duration now) {
  last_ = now;
  // Another rank than the first that has come so far, or one that goes on from a checkpoint.
  if (step <= step_) return;
  const int64_t steps = step - step_;
  step_ = step;
  if (only_trained_) {
    const absl::Duration gap = now - learnt_from_;
    gaps_.push_back(gap);
    if (gaps_.size() > kKeptGaps) gaps_.erase(gaps_.begin());
    const absl::Duration mean = gap / steps;
    mean_step_ = mean_step_ == absl::ZeroDuration()
                     ? mean
                     : (1 - kNewestWeight) * mean_step_ + kNewestWeight * mean;
  }
  learnt_from_ = now;
  only_trained_ = Training();
}

void HangWatch::Move(absl::Duration now) { last_ = now; }

void HangWatch::Forgive(absl::Duration pause) {
  last_ += pause;
  only_trained_ = false;
}

bool HangWatch::Training() const {
  return !finished_ && std::all_of(phases_.begin(), phases_.end(), [](const auto& rank) {
    return rank.second == v1::TrainProgress::PHASE_TRAINING;
  });
}

absl::Duration HangWatch::Limit() const {
  const bool learnt = gaps_.size() >= kGapsToLearn && Training();
  absl::Duration limit = std::max(learnt ? kShortestLimit : kLongLimit, kSteps * mean_step_);
  if (!gaps_.empty())
    limit = std::max(limit, kGaps * *std::max_element(gaps_.begin(), gaps_.end()));
  return std::min(limit, kLongestLimit);
}

}  // namespace muster::coordinator
