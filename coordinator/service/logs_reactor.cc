#include "coordinator/service/logs_reactor.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "coordinator/service/job_errors.h"

namespace muster::coordinator {
namespace {

// A reader that is this far behind is cut off: the log waits on the node, not in our memory.
constexpr size_t kMaxWaitingBytes = 16 << 20;

bool Ended(const v1::Job& job) {
  return job.state() == v1::Job::STATE_SUCCEEDED || job.state() == v1::Job::STATE_FAILED ||
         job.state() == v1::Job::STATE_CANCELLED;
}

}  // namespace

void LogsReactor::Begin() {
  self_ = shared_from_this();
  if (request_.rank() < 0 || request_.tail_lines() < 0 || request_.generation() < 0) {
    End(JobError(
        absl::InvalidArgumentError("rank, tail_lines and generation must not be negative")));
    return;
  }
  deps_.state->Ask([self = self_](const ClusterState* state, Instant) {
    if (state == nullptr) {
      self->WatchEnded();
      return;
    }
    if (state->FindJob(self->request_.name()) != nullptr && self->follows_job()) {
      self->deps_.watchers->Add(self->request_.name(), self);
    }
    self->Consider(*state);
  });
}

void LogsReactor::Ask() {
  deps_.state->Ask([self = shared_from_this()](const ClusterState* state, Instant) {
    if (state == nullptr) {
      self->WatchEnded();
    } else {
      self->Consider(*state);
    }
  });
}

void LogsReactor::Consider(const ClusterState& state) {
  int64_t seen = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (ending_ || open_request_ != 0) return;
    seen = generation_;
  }
  const v1::Job* job = state.FindJob(request_.name());
  const absl::StatusOr<ClusterState::RankLocation> location =
      state.LocateRank(request_.name(), request_.generation(), request_.rank());
  if (!location.ok()) {
    const bool not_placed = location.status().code() == absl::StatusCode::kFailedPrecondition;
    if (not_placed && follows_job() && !Ended(*job)) return;
    End(JobError(location.status()));
    return;
  }
  if (location->generation == seen) {
    // This one is read to its end; with a live job another may come.
    if (!follows_job() || Ended(*job)) End(grpc::Status::OK);
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    open_request_ = -1;
    generation_ = location->generation;
  }
  v1::StreamLogsRequest request = request_;
  request.set_generation(location->generation);
  // Of a generation that follows another everything is new.
  if (seen != 0) request.clear_tail_lines();
  const int64_t id = deps_.logs->Open(location->session, request, shared_from_this());
  bool cancelled = false;
  {
    absl::MutexLock lock(&mutex_);
    // 0: its end has come already.
    if (open_request_ == -1) open_request_ = id;
    cancelled = ending_;
  }
  if (cancelled) deps_.logs->Cancel(id);
}

void LogsReactor::JobChanged(const v1::Job&, const std::vector<v1::JobEvent>& new_events) {
  // Progress opens no log.
  if (!new_events.empty()) Ask();
}

void LogsReactor::TakeChunk(const v1::LogChunk& chunk) {
  {
    absl::MutexLock lock(&mutex_);
    if (ending_) return;
    if (!chunk.data().empty()) {
      v1::StreamLogsResponse response;
      response.set_data(chunk.data());
      response.set_generation(chunk.generation() != 0 ? chunk.generation() : generation_);
      waiting_bytes_ += response.data().size();
      chunks_.push_back(std::move(response));
      Proceed();
    }
    if (chunk.end()) open_request_ = 0;
  }
  if (!chunk.end()) {
    bool behind = false;
    {
      absl::MutexLock lock(&mutex_);
      behind = waiting_bytes_ > kMaxWaitingBytes;
    }
    if (behind) {
      End(JobError(absl::ResourceExhaustedError(
          absl::StrCat("this reader is too slow for the log of ", request_.name()))));
    }
  } else if (!chunk.error().empty() && !follows_job()) {
    End(JobError(absl::UnavailableError(absl::StrCat("the log of rank ", request_.rank(), " of ",
                                                     request_.name(), ": ", chunk.error()))));
  } else {
    Ask();
  }
}

void LogsReactor::WatchEnded() {
  End(JobError(absl::UnavailableError("the coordinator is stopping; try again")));
}

void LogsReactor::End(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (ending_) return;
  ending_ = true;
  status_ = status;
  Proceed();
}

void LogsReactor::Abort(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  // The front one may be in the hands of gRPC.
  while (chunks_.size() > (busy_ ? 1u : 0u)) chunks_.pop_back();
  ending_ = true;
  status_ = status;
  Proceed();
}

void LogsReactor::Proceed() {
  if (busy_ || finished_) return;
  if (!chunks_.empty()) {
    busy_ = true;
    StartWrite(&chunks_.front());
  } else if (ending_) {
    finished_ = true;
    Finish(status_);
  }
}

void LogsReactor::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  busy_ = false;
  waiting_bytes_ -= chunks_.front().data().size();
  chunks_.pop_front();
  if (!ok) {
    chunks_.clear();
    ending_ = true;
  }
  Proceed();
}

void LogsReactor::OnCancel() {
  absl::MutexLock lock(&mutex_);
  // The front one may be in the hands of gRPC.
  if (!busy_) chunks_.clear();
  ending_ = true;
  Proceed();
}

void LogsReactor::OnDone() {
  deps_.watchers->Remove(request_.name(), self_);
  int64_t open = 0;
  {
    absl::MutexLock lock(&mutex_);
    open = open_request_;
  }
  if (open > 0) deps_.logs->Cancel(open);
  self_.reset();
}

}  // namespace muster::coordinator
