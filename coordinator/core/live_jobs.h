#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace muster::coordinator {

// A job on nodes, as the scheduler sees it.
struct LiveJob {
  // JobRecord::submit_sequence.
  int64_t sequence = 0;
  std::string name;
  int priority = 0;
  // May be stopped for another job: it is preemptible, and not being stopped already.
  bool may_preempt = false;
  // It could run on more nodes.
  bool may_grow = false;
  // Nothing of it is wanted any more.
  bool stopping = false;
  // By Instant::wall.
  absl::Time placed;
  // By Instant::monotonic, when it is expected to have left its nodes; infinite: not known.
  absl::Duration end = absl::InfiniteDuration();
  // Slots held, by index of node.
  std::vector<std::pair<int, int>> held;
};

// All of them, by expected end. Not thread-safe.
class LiveJobs {
 public:
  void Put(LiveJob job);
  void Erase(int64_t sequence);
  void SetEnd(int64_t sequence, absl::Duration end);
  bool Holds(int64_t sequence) const { return jobs_.count(sequence) > 0; }
  // Slots in all; 0 when there is no such job.
  int SlotsOf(int64_t sequence) const;

  const std::map<int64_t, LiveJob>& jobs() const { return jobs_; }
  using Ending = std::pair<absl::Duration, const LiveJob*>;
  struct Earlier {
    bool operator()(const Ending& a, const Ending& b) const;
  };
  // The earliest end first; of equal ends the earlier submission.
  const std::set<Ending, Earlier>& by_end() const { return by_end_; }
  // Some job may be preempted by one of this priority.
  bool AnyBelow(int priority) const;

 private:
  std::map<int64_t, LiveJob> jobs_;
  std::set<Ending, Earlier> by_end_;
  // Jobs that may be preempted, by priority.
  std::map<int, int> preemptible_;
};

}  // namespace muster::coordinator
