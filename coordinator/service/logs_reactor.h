#pragma once

#include <deque>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "coordinator/service/job_watchers.h"
#include "coordinator/service/log_relay.h"
#include "coordinator/service/open_streams.h"
#include "coordinator/service/state_thread.h"
#include "muster/v1/job_service.grpc.pb.h"

namespace muster::coordinator {

// One StreamLogs call. With `follow` and no generation it goes on with the job's next generation
// when one ends, waits for the first one, and ends when the job has ended. Owns itself until
// OnDone.
class LogsReactor : public grpc::ServerWriteReactor<v1::StreamLogsResponse>,
                    public JobWatcher,
                    public LogSink,
                    public OpenStream,
                    public std::enable_shared_from_this<LogsReactor> {
 public:
  struct Deps {
    StateThread* state;
    JobWatchers* watchers;
    LogRelay* logs;
  };
  LogsReactor(const Deps& deps, v1::StreamLogsRequest request)
      : deps_(deps), request_(std::move(request)) {}

  void Begin();

  void JobChanged(const v1::Job& job, const std::vector<v1::JobEvent>& new_events) override;
  void WatchEnded() override;
  void TakeChunk(const v1::LogChunk& chunk) override;
  void Abort(const grpc::Status& status) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // On the state thread: opens the newest generation's log, waits for one, or ends.
  void Consider(const ClusterState& state);
  void Ask();
  void End(const grpc::Status& status);
  void Proceed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool follows_job() const { return request_.follow() && request_.generation() == 0; }

  const Deps deps_;
  const v1::StreamLogsRequest request_;
  std::shared_ptr<LogsReactor> self_;

  absl::Mutex mutex_;
  // The front one is being written while busy_.
  std::deque<v1::StreamLogsResponse> chunks_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // Of the worker's log that is open; -1 while it is being opened, 0: none.
  int64_t open_request_ ABSL_GUARDED_BY(mutex_) = 0;
  // Newest one whose log was opened.
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::coordinator
