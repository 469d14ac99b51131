#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "coordinator/service/job_watchers.h"
#include "coordinator/service/open_streams.h"
#include "coordinator/service/state_thread.h"
#include "muster/v1/job_service.grpc.pb.h"

namespace muster::coordinator {

// One WatchJob call: the job now, then its newest version whenever the client has taken the one
// before, with all events in between, until it has ended. Owns itself until OnDone.
class WatchReactor : public grpc::ServerWriteReactor<v1::WatchJobResponse>,
                     public JobWatcher,
                     public OpenStream,
                     public std::enable_shared_from_this<WatchReactor> {
 public:
  WatchReactor(StateThread* state, JobWatchers* watchers, v1::WatchJobRequest request)
      : state_(state), watchers_(watchers), request_(std::move(request)) {}

  void Begin();

  void JobChanged(const v1::Job& job, const std::vector<v1::JobEvent>& new_events) override;
  void WatchEnded() override;
  void Abort(const grpc::Status& status) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void End(const grpc::Status& status);
  // Starts a write, or finishes, if nothing is being written.
  void Proceed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  StateThread* const state_;
  JobWatchers* const watchers_;
  const v1::WatchJobRequest request_;
  std::shared_ptr<WatchReactor> self_;

  absl::Mutex mutex_;
  v1::WatchJobResponse writing_ ABSL_GUARDED_BY(mutex_);
  v1::WatchJobResponse next_ ABSL_GUARDED_BY(mutex_);
  bool has_next_ ABSL_GUARDED_BY(mutex_) = false;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::coordinator
