#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "muster/v1/job.pb.h"
#include "worker/daemon/state_folder.h"

namespace muster::worker {

// Removes from the state folder what nobody needs any more: the folders of jobs that have ended
// (SUCCEEDED, FAILED, CANCELLED) or that the coordinator does not know, once they have not been
// written to for `keep_for`, and before that, oldest first, while all of them together take more
// than `keep_bytes`; and of each job the logs of all but its newest generations. Nothing goes of a
// job that may still run, and without the coordinator's word no job goes at all.
class JobPruner {
 public:
  struct Options {
    absl::Duration keep_for = absl::Hours(30 * 24);
    // 0: half of the file system.
    int64_t keep_bytes = 0;
    // For size alone nothing goes that was written to within this time: somebody is about to fetch
    // it.
    absl::Duration keep_at_least = absl::Hours(1);
    int keep_generations = 20;
    absl::Duration interval = absl::Hours(1);
  };
  struct Deps {
    const StateFolder* state = nullptr;
    const base::Clock* clock = nullptr;
    // Names of the jobs that are on this node now. May wait for the disk.
    std::function<std::set<std::string>()> held;
    // The coordinator's word on the job of this name: nothing when it knows none.
    std::function<absl::StatusOr<std::optional<v1::Job>>(const std::string& job)> find_job;
  };

  JobPruner(Options options, Deps deps);
  // Waits for what is under way.
  ~JobPruner();

  // From now on once in each interval, on a thread of its own, and first after the first interval.
  void Start();
  // Once, now. Thread-safe.
  void Prune();

 private:
  void Run();
  void PruneGenerations(const StateFolder::JobFolder& folder) const;
  // Whether the coordinator needs it no more.
  absl::StatusOr<bool> IsOver(const StateFolder::JobFolder& folder) const;
  int64_t MostBytes() const;

  const Options options_;
  const Deps deps_;
  // One at a time prunes.
  absl::Mutex pruning_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace muster::worker
