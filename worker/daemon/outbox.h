#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "muster/v1/worker_service.pb.h"

namespace muster::worker {

// What waits to be sent to the coordinator. Everybody adds, one session at a time takes.
// Thread-safe.
//
// Statuses, acks and diagnoses belong to a session: a new one starts with Hello, which says the
// newest of them. Checkpoints and evaluations outlive it: those added while no session was there,
// and those that the last one may have lost on the way, are sent again, so the coordinator may see
// one twice. Bounded: the oldest go first.
class Outbox {
 public:
  explicit Outbox(const base::Clock& clock) : clock_(clock) {}

  void AddStatus(const v1::AllocationStatus& status);
  void AddAck(const v1::Ack& ack);
  void AddDiagnosis(const v1::Diagnosis& diagnosis);
  void AddCheckpoint(const v1::Checkpoint& checkpoint);
  void AddEvaluation(const v1::EvaluationReport& evaluation);
  // The newest one is said again in each session, as long as no newer one is set.
  void SetMaintenance(const v1::Maintenance& maintenance);
  // Waits while the session has enough of them to send. False when that session is over.
  bool AddLogChunk(uint64_t session, const v1::LogChunk& chunk);

  // Call before Hello is made: what is added from then on is sent after it. Returns the session's
  // number.
  uint64_t BeginSession();
  void EndSession();
  bool in_session() const;
  // The next message, or nothing at `timeout` or when the session is over. Log chunks come last.
  std::optional<v1::WorkerMessage> Next(absl::Duration timeout);
  // Waits until all but log chunks is taken; false at `timeout`.
  bool WaitUntilTaken(absl::Duration timeout);

 private:
  struct Sent {
    absl::Duration time;
    v1::WorkerMessage message;
  };

  void Add(v1::WorkerMessage message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasNextOrIsOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsTakenOrOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetOldSent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const base::Clock& clock_;
  mutable absl::Mutex mutex_;
  uint64_t session_ ABSL_GUARDED_BY(mutex_) = 0;
  bool in_session_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<v1::WorkerMessage> waiting_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::WorkerMessage> log_chunks_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::WorkerMessage> maintenance_ ABSL_GUARDED_BY(mutex_);
  // Checkpoints and evaluations of the last seconds.
  std::deque<Sent> sent_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
