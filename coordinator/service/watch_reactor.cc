#include "coordinator/service/watch_reactor.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "coordinator/service/job_errors.h"

namespace muster::coordinator {
namespace {

bool Ended(const v1::Job& job) {
  return job.state() == v1::Job::STATE_SUCCEEDED || job.state() == v1::Job::STATE_FAILED ||
         job.state() == v1::Job::STATE_CANCELLED;
}

}  // namespace

void WatchReactor::Begin() {
  self_ = shared_from_this();
  // The state thread publishes too, so no change falls between the first message and the watch.
  state_->Ask([self = self_](const ClusterState* state, Instant) {
    if (state == nullptr) {
      self->WatchEnded();
      return;
    }
    const v1::Job* job = state->FindJob(self->request_.name());
    if (job == nullptr) {
      self->End(JobError(absl::NotFoundError(absl::StrCat("there is no ", self->request_.name()))));
      return;
    }
    self->watchers_->Add(self->request_.name(), self);
    self->JobChanged(*job,
                     state->EventsAfter(self->request_.name(), self->request_.after_sequence()));
  });
}

void WatchReactor::JobChanged(const v1::Job& job, const std::vector<v1::JobEvent>& new_events) {
  absl::MutexLock lock(&mutex_);
  if (ending_) return;
  *next_.mutable_job() = job;
  for (const v1::JobEvent& event : new_events) *next_.add_events() = event;
  has_next_ = true;
  ending_ = Ended(job);
  Proceed();
}

void WatchReactor::WatchEnded() {
  End(JobError(absl::UnavailableError("the coordinator is stopping; try again")));
}

void WatchReactor::End(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (ending_) return;
  ending_ = true;
  status_ = status;
  Proceed();
}

void WatchReactor::Abort(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  has_next_ = false;
  ending_ = true;
  status_ = status;
  Proceed();
}

void WatchReactor::Proceed() {
  if (busy_ || finished_) return;
  if (has_next_) {
    has_next_ = false;
    busy_ = true;
    writing_ = std::move(next_);
    next_.Clear();
    StartWrite(&writing_);
  } else if (ending_) {
    finished_ = true;
    Finish(status_);
  }
}

void WatchReactor::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  busy_ = false;
  if (!ok) {
    has_next_ = false;
    ending_ = true;
  }
  Proceed();
}

void WatchReactor::OnCancel() {
  absl::MutexLock lock(&mutex_);
  has_next_ = false;
  ending_ = true;
  Proceed();
}

void WatchReactor::OnDone() {
  watchers_->Remove(request_.name(), self_);
  self_.reset();
}

}  // namespace muster::coordinator
