#pragma once

#include <list>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/allocation_manager.h"
#include "worker/daemon/collective_requests.h"
#include "worker/daemon/outbox.h"
#include "worker/daemon/peer_dialler.h"
#include "worker/daemon/progress_board.h"
#include "worker/daemon/state_folder.h"

namespace muster::worker {

// Finds out what the ranks of a job on this node are doing, when the coordinator asks because no
// rank advances: the state of each process, where it is in training, its newest collectives, the
// stacks of its threads, and which of the other nodes cannot be reached. On threads of its own, so
// that heartbeats go on. Thread-safe.
class Diagnoser {
 public:
  // Together less than the coordinator waits (10 s). A rank that is stopped or gone is not waited
  // for.
  static constexpr absl::Duration kCollectivesTimeout = absl::Seconds(3);
  static constexpr absl::Duration kStacksTimeout = absl::Seconds(5);
  static constexpr absl::Duration kDialTimeout = absl::Seconds(3);
  // More at a time are refused.
  static constexpr int kMostAtATime = 4;

  struct Deps {
    // The worker's --name.
    std::string node;
    const base::Clock* clock = nullptr;
    const StateFolder* state = nullptr;
    const AllocationManager* manager = nullptr;
    const ProgressBoard* progress = nullptr;
    CollectiveRequests* collectives = nullptr;
    // Gets one Diagnosis for each request.
    Outbox* outbox = nullptr;
  };

  explicit Diagnoser(const Deps& deps);
  // Waits for what is under way.
  ~Diagnoser();
  Diagnoser(const Diagnoser&) = delete;
  Diagnoser& operator=(const Diagnoser&) = delete;

  void Start(const v1::DiagnosisRequest& request);

 private:
  class Dials;
  struct Work {
    std::thread thread;
    bool finished = false;
  };

  v1::Diagnosis Diagnose(const v1::DiagnosisRequest& request);
  // State, place in training, and the process's number (0: unknown or gone).
  v1::RankDiagnosis LookAt(const v1::Allocation& allocation, int rank, pid_t* process) const;

  const Deps deps_;
  PeerDialler dialler_;
  absl::Mutex mutex_;
  std::list<Work> works_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
