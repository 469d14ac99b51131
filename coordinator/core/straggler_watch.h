#pragma once

#include <optional>
#include <vector>

#include "absl/time/time.h"

namespace muster::coordinator {

// Which ranks of a running generation hold the others up: in synchronous training every step takes
// as long as its slowest rank, and the others wait. All times by Instant::monotonic. Not
// thread-safe.
//
// A rank's score is the mean time of its own work in a step over that of the median rank (of an
// even number, the faster of the two in the middle). Waits for others are no work. A rank is a
// straggler once its score has stayed above kHigh for kPatience, until it has stayed below kLow for
// as long.
class StragglerWatch {
 public:
  static constexpr double kHigh = 1.3;
  static constexpr double kLow = 1.2;
  static constexpr absl::Duration kPatience = absl::Seconds(30);

  struct Rank {
    // Exponential means over about the last ten reports; 0: not known.
    double compute_seconds = 0;
    double wait_seconds = 0;
    // Of the last Judge; 0: not known.
    double score = 0;
    bool straggles = false;
  };
  struct Change {
    int rank = 0;
    bool straggles = false;
  };

  StragglerWatch() = default;
  explicit StragglerWatch(int ranks) : ranks_(ranks), since_(ranks) {}

  // Means of the steps since the rank's last report.
  void Note(int rank, double compute_seconds, double wait_seconds);
  // Scores all ranks anew, if something was noted; those that became stragglers, or are none any
  // more. Nothing before all ranks are known, or for a rank alone.
  std::vector<Change> Judge(absl::Duration now);
  const std::vector<Rank>& ranks() const { return ranks_; }

 private:
  std::vector<Rank> ranks_;
  // Since when the score speaks against what the rank counts as.
  std::vector<std::optional<absl::Duration>> since_;
  bool noted_ = false;
};

}  // namespace muster::coordinator
