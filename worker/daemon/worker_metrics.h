#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/timer_queue.h"
#include "common/metrics/registry.h"
#include "muster/internal/trainer_service.pb.h"
#include "muster/v1/node.pb.h"

namespace muster::worker {

// The families that a worker serves: its own and its ranks'. The node of rank 0 has what belongs to
// the job as a whole (loss, learning rate, gradient norm, epoch, mAP). The series of a job that
// ended here stay for five minutes, so that its last values are scraped. Thread-safe.
class WorkerMetrics {
 public:
  WorkerMetrics(const base::Clock& clock, base::TimerQueue& timers);
  ~WorkerMetrics();

  // What the HTTP server shows; lives as long as this.
  const metrics::Registry& registry() const;

  void Update(const internal::TrainerReport& report);
  // A generation of the job is over on this node; a later report of the job keeps its series.
  void JobEnded(const std::string& job);

  void SetSlots(int used, int total);
  void SetConnected(bool connected);
  // All that is announced for the machine now.
  void ShowMaintenance(const std::vector<v1::MaintenanceEvent>& events);

 private:
  class State;

  const base::Clock& clock_;
  base::TimerQueue& timers_;
  // Shared with the timers, which may come due after this object.
  const std::shared_ptr<State> state_;
};

}  // namespace muster::worker
