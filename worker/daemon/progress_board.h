#pragma once

#include <cstdint>
#include <map>
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
  // Adds ranks and jobs.
  void Fill(v1::Heartbeat* heartbeat) const;

 private:
  using Key = std::tuple<std::string, int64_t, int32_t>;

  mutable absl::Mutex mutex_;
  std::map<Key, v1::TrainProgress> ranks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
