#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

#include "coordinator/core/fair_share.h"
#include "coordinator/core/placement.h"

namespace muster::coordinator {

class JobMachine;

struct QueuedJob {
  // JobRecord::submit_sequence.
  int64_t sequence = 0;
  JobMachine* job = nullptr;
  int priority = 0;
  std::string creator;
  Gang gang;
  // By Instant::monotonic: it waits until then after a failure.
  absl::Duration not_before = -absl::InfiniteDuration();
  // JobMachine::ExpectedRunTime, which does not change while it is queued.
  absl::Duration expected_run_time = absl::InfiniteDuration();
};

// Jobs in QUEUED. Not thread-safe.
//
// Their order: higher priority first. Among equals the creator who has had least of the cluster
// lately (FairShare) comes first, with his oldest job; that job then counts as if it were placed,
// so that jobs of several creators take turns. Equal creators: in order of submission.
class JobQueue {
 public:
  void Insert(QueuedJob job);
  void Erase(int64_t sequence);
  const QueuedJob* Find(int64_t sequence) const;
  size_t size() const { return lane_of_.size(); }
  bool empty() const { return lane_of_.empty(); }

 private:
  // One creator's jobs of one priority.
  using Lane = std::map<int64_t, QueuedJob>;
  using Lanes = std::map<std::string, Lane>;
  using Levels = std::map<int, Lanes, std::greater<int>>;

 public:
  // A walk. Jobs that it has returned may be erased meanwhile, but Compact must not be called.
  class Order {
   public:
    // Null at the end.
    const QueuedJob* Next();

   private:
    friend class JobQueue;
    struct Turn {
      double use = 0;
      // Of `next`.
      int64_t sequence = 0;
      Lane::const_iterator next;
      Lane::const_iterator end;
    };
    Order(const Levels& levels, const FairShare& shares, absl::Time now);
    static bool Later(const Turn& a, const Turn& b);

    Levels::const_iterator level_;
    Levels::const_iterator levels_end_;
    const FairShare* shares_;
    absl::Time now_;
    // A heap: whose turn is next.
    std::vector<Turn> turns_;
  };
  Order InOrder(const FairShare& shares, absl::Time now) const {
    return Order(levels_, shares, now);
  }
  // Drops what is empty.
  void Compact();

 private:
  Levels levels_;
  // Priority and creator, by sequence.
  std::map<int64_t, std::pair<int, std::string>> lane_of_;
};

}  // namespace muster::coordinator
