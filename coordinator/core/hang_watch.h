#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/time/time.h"

#include "muster/v1/progress.pb.h"

namespace muster::coordinator {

// Whether the running generation of one job makes no progress any more, by how long it took so far.
// All times by Instant::monotonic. Not thread-safe.
//
// The job's own step times set the limit: the longest of kShortestLimit, kSteps times the mean step
// and kGaps times the longest time between two signs of progress of late. It holds while all ranks
// train, once kGapsToLearn such times are known. While all ranks evaluate and some have images
// left, it is likewise the longest of kShortestLimit and kGaps times the longest time that one rank
// has taken for its next images of late: some ranks are done before others, so that the times
// between any two signs tell less. Before enough is known, while a rank loads, the detections are
// scored, and after the last step (the last checkpoint is written), it is kLongLimit, or more if
// the job's steps have shown that it needs more. A rank that has told nothing yet is not watched.
class HangWatch {
 public:
  static constexpr absl::Duration kShortestLimit = absl::Seconds(15);
  static constexpr absl::Duration kLongLimit = absl::Minutes(5);
  static constexpr absl::Duration kLongestLimit = absl::Minutes(60);
  static constexpr int kSteps = 10;
  static constexpr int kGaps = 4;
  static constexpr size_t kGapsToLearn = 3;

  // A generation runs from `now` on.
  explicit HangWatch(absl::Duration now) : last_(now), learnt_from_(now) {}

  // The rank is heard of, in this phase; with PHASE_UNSPECIFIED (of an older worker) as before.
  void See(int rank, v1::TrainProgress::Phase phase);
  // Some rank has done `step` steps, more than before.
  void Step(int64_t step, absl::Duration now);
  // The rank evaluates and has so many images left (0: none, or an older worker's). Whether that is
  // news.
  bool Evaluate(int rank, int64_t images_left, absl::Duration now);
  // Some other sign of life: a checkpoint.
  void Move(absl::Duration now);
  // All steps are done, or not.
  void SetFinished(bool finished) { finished_ = finished; }
  // Nobody could have seen it advance for so long.
  void Forgive(absl::Duration pause);

  absl::Duration Limit() const;
  absl::Duration Stalled(absl::Duration now) const { return now - last_; }
  bool Overdue(absl::Duration now) const { return !phases_.empty() && Stalled(now) >= Limit(); }

 private:
  static constexpr size_t kKeptGaps = 100;

  // Of one rank, in the evaluation under way.
  struct Share {
    int64_t images_left = 0;
    absl::Duration since;
    // All of the time since then was its own.
    bool whole = true;
  };

  static void Keep(absl::Duration gap, std::vector<absl::Duration>* gaps);
  bool Training() const;
  bool Evaluating() const;

  // The last sign of progress.
  absl::Duration last_;
  // The last step, from when on all that passed was training.
  absl::Duration learnt_from_;
  bool only_trained_ = false;
  int64_t step_ = 0;
  bool finished_ = false;
  std::map<int, v1::TrainProgress::Phase> phases_;
  // Oldest first.
  std::vector<absl::Duration> gaps_;
  std::map<int, Share> shares_;
  std::vector<absl::Duration> evaluation_gaps_;
  // Exponential mean; zero: none is known.
  absl::Duration mean_step_;
};

}  // namespace muster::coordinator
