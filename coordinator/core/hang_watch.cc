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
  if (phase != v1::TrainProgress::PHASE_EVALUATING) shares_.erase(rank);
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
    Keep(gap, &gaps_);
    const absl::Duration mean = gap / steps;
    mean_step_ = mean_step_ == absl::ZeroDuration()
                     ? mean
                     : (1 - kNewestWeight) * mean_step_ + kNewestWeight * mean;
  }
  learnt_from_ = now;
  only_trained_ = Training();
}

bool HangWatch::Evaluate(int rank, int64_t images_left, absl::Duration now) {
  const auto [it, entered] = shares_.try_emplace(rank, Share{images_left, now});
  Share& share = it->second;
  if (!entered && images_left == share.images_left) return false;
  if (!entered && images_left < share.images_left && share.whole) {
    Keep(now - share.since, &evaluation_gaps_);
  }
  share = {images_left, now};
  last_ = now;
  return true;
}

void HangWatch::Move(absl::Duration now) { last_ = now; }

void HangWatch::Keep(absl::Duration gap, std::vector<absl::Duration>* gaps) {
  gaps->push_back(gap);
  if (gaps->size() > kKeptGaps) gaps->erase(gaps->begin());
}

void HangWatch::Forgive(absl::Duration pause) {
  last_ += pause;
  only_trained_ = false;
  for (auto& [rank, share] : shares_) share.whole = false;
}

bool HangWatch::Evaluating() const {
  return std::all_of(
             phases_.begin(), phases_.end(),
             [](const auto& rank) { return rank.second == v1::TrainProgress::PHASE_EVALUATING; }) &&
         std::any_of(shares_.begin(), shares_.end(),
                     [](const auto& rank) { return rank.second.images_left > 0; });
}

bool HangWatch::Training() const {
  return !finished_ && std::all_of(phases_.begin(), phases_.end(), [](const auto& rank) {
    return rank.second == v1::TrainProgress::PHASE_TRAINING;
  });
}

absl::Duration HangWatch::Limit() const {
  if (Evaluating() && evaluation_gaps_.size() >= kGapsToLearn) {
    const absl::Duration longest =
        *std::max_element(evaluation_gaps_.begin(), evaluation_gaps_.end());
    return std::clamp(kGaps * longest, kShortestLimit, kLongestLimit);
  }
  const bool learnt = gaps_.size() >= kGapsToLearn && Training();
  absl::Duration limit = std::max(learnt ? kShortestLimit : kLongLimit, kSteps * mean_step_);
  if (!gaps_.empty())
    limit = std::max(limit, kGaps * *std::max_element(gaps_.begin(), gaps_.end()));
  return std::min(limit, kLongestLimit);
}

}  // namespace muster::coordinator
