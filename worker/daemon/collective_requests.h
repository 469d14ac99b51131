#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "muster/internal/trainer_service.pb.h"

namespace muster::worker {

// Asks trainers for their newest collectives: a trainer is told so in the reply to whatever it
// reports next, within a second, and reports them. Thread-safe.
class CollectiveRequests {
 public:
  void Ask(const std::string& job, int64_t generation, const std::vector<int>& ranks);
  // For each report of a trainer; true: it should send its collectives.
  bool OnReport(const internal::TrainerReport& report);
  // Waits until those of `awaited` have come, at most so long; then nobody is asked any more. What
  // has come, by rank.
  std::map<int, internal::CollectiveDump> Collect(const std::string& job, int64_t generation,
                                                  const std::set<int>& awaited,
                                                  absl::Duration timeout);

 private:
  using Key = std::pair<std::string, int64_t>;
  struct Request {
    std::set<int> open;
    std::map<int, internal::CollectiveDump> dumps;
  };

  absl::Mutex mutex_;
  std::map<Key, Request> requests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
