#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "muster/internal/trainer_service.pb.h"
#include "muster/v1/worker_service.pb.h"

namespace muster::worker {

// Where each local rank is, for heartbeats. It has a lock of its own, so that no disk access of
// another part delays a heartbeat. Thread-safe.
class ProgressBoard {
 public:
  // Takes a step report; ignores the others.
  void Update(const internal::TrainerReport& report);
  // A generation is over on this node.
  void Forget(const std::string& job, int64_t generation);
  // Adds ranks and jobs. Step times are told once.
  void Fill(v1::Heartbeat* heartbeat);
  // Nothing before the rank's first step report.
  std::optional<v1::TrainProgress> Find(const std::string& job, int64_t generation, int rank) const;

 private:
  using Key = std::tuple<std::string, int64_t, int32_t>;
  struct Rank {
    v1::TrainProgress progress;
    // Of the steps since the last heartbeat.
    int steps = 0;
    double seconds = 0;
    double wait_seconds = 0;
  };

  mutable absl::Mutex mutex_;
  std::map<Key, Rank> ranks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
