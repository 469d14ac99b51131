#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/timer_queue.h"
#include "muster/internal/trainer_service.pb.h"
#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/local_allocation.h"
#include "worker/daemon/outbox.h"

namespace muster::worker {

// Brings the node to the coordinator's desired state and keeps it there. Thread-safe; calls of it
// may wait for the disk. Applying the same state twice changes nothing.
class AllocationManager {
 public:
  struct Deps {
    base::TimerQueue* timers = nullptr;
    // Gets a status whenever one changes.
    Outbox* outbox = nullptr;
    // Both are called under the manager's lock and must not call back. A generation is over here:
    std::function<void(const std::string& job, int64_t generation)> on_ended;
    // How many slots are taken now:
    std::function<void(int used)> on_slots_used;
  };

  AllocationManager(AllocationContext context, int slots, Deps deps);
  // Ends nothing; no callback of a trainer or timer arrives after it.
  ~AllocationManager();

  // The IP address that the node is known by; before the first Apply.
  void SetNodeAddress(const std::string& address);

  // Takes over what an earlier daemon left running; once, before the first Apply. Of a generation
  // whose ranks are all gone without an exit status nothing is held any more: Hello does not list
  // it, and the coordinator sees a lost node, not a failure of the job's own.
  void AdoptRecorded();

  // InvalidArgument, with nothing changed, when the state makes no sense here.
  absl::Status Apply(const v1::DesiredState& desired);

  // All that is held, and what has ended since the last Apply.
  std::vector<v1::AllocationStatus> Statuses() const;

  struct Held {
    v1::Allocation allocation;
    // The IP address that the node is known by.
    std::string node_address;
  };
  // NotFound when the generation is not held here, or is over.
  absl::StatusOr<Held> FindHeld(const std::string& job, int64_t generation) const;

  // A trainer's report of itself; whether it should stop. NotFound when its generation is not held.
  absl::StatusOr<bool> OnReport(const internal::TrainerReport& report);

  // Ends everything, as if nothing was desired, and starts nothing more.
  void StopAll();
  // False when processes are left at `timeout`.
  bool WaitUntilIdle(absl::Duration timeout) const;

 private:
  using Key = std::pair<std::string, int64_t>;  // job, generation

  // Lets callbacks through while the manager is there.
  struct Gate {
    absl::Mutex mutex;
    bool open ABSL_GUARDED_BY(mutex) = true;
  };

  absl::Status Check(const v1::DesiredState& desired) const;
  void Reconcile() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether an older generation of the job is not over yet.
  bool OlderRuns(const v1::Allocation& allocation) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Stop(LocalAllocation& held) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveRecord(const v1::Allocation& allocation) const;
  void Publish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  LocalAllocation* Find(const Key& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  LocalAllocation::ExitCallback ExitCallbackFor(const Key& key);
  LocalAllocation::PrepareCallbacks PrepareCallbacksFor(const Key& key);
  // Runs `change` under the lock, if the allocation is still held.
  void Change(const Key& key, const std::function<void(LocalAllocation*)>& change);

  const AllocationContext context_;
  const int slots_;
  const Deps deps_;
  const std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();

  mutable absl::Mutex mutex_;
  std::string node_address_ ABSL_GUARDED_BY(mutex_);
  std::map<Key, v1::Allocation> desired_ ABSL_GUARDED_BY(mutex_);
  std::map<Key, std::unique_ptr<LocalAllocation>> held_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace muster::worker
