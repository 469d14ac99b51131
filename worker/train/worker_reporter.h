#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "muster/internal/trainer_service.grpc.pb.h"

namespace muster::train {

// Tells the worker daemon, over its unix socket, how this rank fares, from a thread of its own.
// Step reports are merged and sent at most every 100 ms; the other events wait, in order, for a
// worker that is away (it may be restarting), the newest 256 of them. With nothing to tell it says
// once a second that it is alive, and so hears what the worker wants. Nothing here holds training
// up or fails it.
class WorkerReporter {
 public:
  struct Options {
    // Of MUSTER_WORKER_SOCKET; empty (a run by hand): nothing is sent.
    std::string socket;
    std::string job;
    int64_t generation = 0;
    int rank = 0;
    // Its newest collectives, when the worker asks for them; called from the reporter's thread.
    std::function<internal::CollectiveDump()> dump_collectives;
  };

  explicit WorkerReporter(Options options);
  // Gives what is left two seconds.
  ~WorkerReporter();
  WorkerReporter(const WorkerReporter&) = delete;
  WorkerReporter& operator=(const WorkerReporter&) = delete;

  void Joined();
  // Durations and phases add up until they are sent.
  void Step(internal::StepReport report);
  void Evaluation(const v1::EvalResult& result);
  void Checkpoint(const v1::Checkpoint& checkpoint);
  void Failure(int exit_code, const std::string& message);

  // Whether the worker asked for a stop.
  bool stop_requested() const { return stop_requested_.load(); }

 private:
  internal::TrainerReport NewReport() const;
  void Enqueue(internal::TrainerReport report);
  void Run();
  // Sends one report; false when the worker is away.
  bool Send(const internal::TrainerReport& report);
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !events_.empty() || step_.has_value() || stopping_;
  }
  bool IsStopping() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_; }

  const Options options_;
  std::unique_ptr<internal::TrainerService::Stub> stub_;
  std::atomic<bool> stop_requested_{false};

  absl::Mutex mutex_;
  std::deque<internal::TrainerReport> events_ ABSL_GUARDED_BY(mutex_);
  std::optional<internal::StepReport> step_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace muster::train
