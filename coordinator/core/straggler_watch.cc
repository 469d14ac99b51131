#include "coordinator/core/straggler_watch.h"

#include <algorithm>
#include <cstddef>

namespace muster::coordinator {
namespace {

constexpr double kNewestWeight = 0.2;

void Average(double newest, double* mean) { *mean += (newest - *mean) * kNewestWeight; }

}  // namespace

void StragglerWatch::Note(int rank, double compute_seconds, double wait_seconds) {
  if (rank < 0 || static_cast<size_t>(rank) >= ranks_.size()) return;
  Rank& noted = ranks_[rank];
  if (noted.compute_seconds == 0) {
    noted.compute_seconds = compute_seconds;
    noted.wait_seconds = wait_seconds;
  } else {
    Average(compute_seconds, &noted.compute_seconds);
    Average(wait_seconds, &noted.wait_seconds);
  }
  noted_ = true;
}

std::vector<StragglerWatch::Change> StragglerWatch::Judge(absl::Duration now) {
  std::vector<Change> changes;
  if (ranks_.size() < 2 || !noted_) return changes;
  std::vector<double> times;
  for (const Rank& rank : ranks_) times.push_back(rank.compute_seconds);
  const auto median = times.begin() + static_cast<std::ptrdiff_t>((times.size() - 1) / 2);
  std::nth_element(times.begin(), median, times.end());
  if (*median <= 0 || std::count(times.begin(), times.end(), 0.0) > 0) return changes;
  noted_ = false;
  for (size_t i = 0; i < ranks_.size(); ++i) {
    Rank& rank = ranks_[i];
    rank.score = rank.compute_seconds / *median;
    const bool changes_side = rank.straggles ? rank.score < kLow : rank.score > kHigh;
    if (!changes_side) {
      since_[i].reset();
      continue;
    }
    if (!since_[i].has_value()) since_[i] = now;
    if (now - *since_[i] < kPatience) continue;
    since_[i].reset();
    rank.straggles = !rank.straggles;
    changes.push_back({static_cast<int>(i), rank.straggles});
  }
  return changes;
}

}  // namespace muster::coordinator
