#include "worker/train/worker_reporter.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/grpcpp.h"

#include "common/base/clock.h"
#include "common/rpc/channel.h"

namespace muster::train {
namespace {

constexpr absl::Duration kStepInterval = absl::Milliseconds(100);
constexpr absl::Duration kRetryInterval = absl::Milliseconds(500);
constexpr absl::Duration kAliveInterval = absl::Seconds(1);
constexpr absl::Duration kCallTimeout = absl::Seconds(2);
constexpr absl::Duration kFarewell = absl::Seconds(2);
constexpr size_t kMaxEvents = 256;
constexpr int kMaxDurations = 4096;

}  // namespace

WorkerReporter::WorkerReporter(Options options) : options_(std::move(options)) {
  if (options_.socket.empty()) return;
  std::string address = options_.socket;
  if (address.rfind("unix:", 0) != 0) address = absl::StrCat("unix:", address);
  rpc::ChannelOptions channel;
  channel.retry_unavailable = false;
  channel.initial_backoff = absl::Milliseconds(200);
  channel.max_backoff = absl::Seconds(1);
  stub_ = internal::TrainerService::NewStub(rpc::CreateChannel(address, channel));
  thread_ = std::thread([this] { Run(); });
}

WorkerReporter::~WorkerReporter() {
  if (!thread_.joinable()) return;
  {
    const absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void WorkerReporter::Joined() {
  internal::TrainerReport report = NewReport();
  report.mutable_joined();
  Enqueue(std::move(report));
}

void WorkerReporter::Step(internal::StepReport report) {
  if (stub_ == nullptr) return;
  const absl::MutexLock lock(&mutex_);
  if (!step_.has_value()) {
    step_ = std::move(report);
    return;
  }
  internal::StepReport& waiting = *step_;
  *waiting.mutable_progress() = std::move(*report.mutable_progress());
  waiting.set_images_total(report.images_total());
  waiting.set_steps_total(report.steps_total());
  waiting.set_wait_seconds(waiting.wait_seconds() + report.wait_seconds());
  if (waiting.step_durations_seconds_size() < kMaxDurations) {
    waiting.mutable_step_durations_seconds()->MergeFrom(report.step_durations_seconds());
    waiting.mutable_phases()->MergeFrom(report.phases());
  }
}

void WorkerReporter::Evaluation(const v1::EvalResult& result) {
  internal::TrainerReport report = NewReport();
  *report.mutable_evaluation() = result;
  Enqueue(std::move(report));
}

void WorkerReporter::Checkpoint(const v1::Checkpoint& checkpoint) {
  internal::TrainerReport report = NewReport();
  *report.mutable_checkpoint() = checkpoint;
  Enqueue(std::move(report));
}

void WorkerReporter::Failure(int exit_code, const std::string& message) {
  internal::TrainerReport report = NewReport();
  report.mutable_failure()->set_exit_code(exit_code);
  report.mutable_failure()->set_message(message);
  Enqueue(std::move(report));
}

internal::TrainerReport WorkerReporter::NewReport() const {
  internal::TrainerReport report;
  report.set_job(options_.job);
  report.set_generation(options_.generation);
  report.set_rank(options_.rank);
  return report;
}

void WorkerReporter::Enqueue(internal::TrainerReport report) {
  if (stub_ == nullptr) return;
  const absl::MutexLock lock(&mutex_);
  if (events_.size() >= kMaxEvents) events_.pop_front();
  events_.push_back(std::move(report));
}

bool WorkerReporter::Send(const internal::TrainerReport& report) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kCallTimeout);
  internal::TrainerReportReply reply;
  const grpc::Status status = stub_->Report(&context, report, &reply);
  // What the worker refuses, it will refuse again: only an absent worker is waited for.
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
      status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return false;
  }
  if (reply.stop()) stop_requested_ = true;
  if (reply.dump_collectives() && options_.dump_collectives) {
    internal::TrainerReport dump = NewReport();
    *dump.mutable_collectives() = options_.dump_collectives();
    Enqueue(std::move(dump));
  }
  return true;
}

void WorkerReporter::Run() {
  absl::Duration deadline = absl::InfiniteDuration();
  while (true) {
    std::optional<internal::TrainerReport> event;
    std::optional<internal::StepReport> step;
    bool stopping = false;
    {
      const absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(this, &WorkerReporter::HasWork), kAliveInterval);
      if (!events_.empty()) {
        event = events_.front();
      } else if (step_.has_value()) {
        step = *std::move(step_);
        step_.reset();
      }
      stopping = stopping_;
    }
    if (stopping) {
      if (!event.has_value() && !step.has_value()) return;
      if (deadline == absl::InfiniteDuration()) deadline = base::MonotonicNow() + kFarewell;
      if (base::MonotonicNow() > deadline) return;
    }
    bool sent = true;
    if (event.has_value()) {
      sent = Send(*event);
      const absl::MutexLock lock(&mutex_);
      if (sent && !events_.empty()) events_.pop_front();
    } else if (step.has_value()) {
      internal::TrainerReport report = NewReport();
      *report.mutable_step() = *std::move(step);
      sent = Send(report);
    } else {
      internal::TrainerReport report = NewReport();
      report.mutable_alive();
      sent = Send(report);
    }
    const absl::MutexLock lock(&mutex_);
    if (stopping) {
      bool never = false;
      if (!sent) mutex_.AwaitWithTimeout(absl::Condition(&never), kStepInterval);
      continue;
    }
    if (!sent || events_.empty()) {
      mutex_.AwaitWithTimeout(absl::Condition(this, &WorkerReporter::IsStopping),
                              sent ? kStepInterval : kRetryInterval);
    }
  }
}

}  // namespace muster::train
