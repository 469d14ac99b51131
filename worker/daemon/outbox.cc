#include "worker/daemon/outbox.h"

#include <algorithm>
#include <utility>

namespace muster::worker {
namespace {

constexpr size_t kMostWaiting = 1024;
// Of at most 256 KiB each.
constexpr size_t kMostLogChunks = 16;
// Longer than a dead connection goes unnoticed.
constexpr absl::Duration kMayBeLost = absl::Seconds(60);

bool OutlivesSession(const v1::WorkerMessage& message) {
  return message.has_checkpoint() || message.has_evaluation();
}

}  // namespace

void Outbox::Add(v1::WorkerMessage message) {
  waiting_.push_back(std::move(message));
  if (waiting_.size() > kMostWaiting) waiting_.pop_front();
}

void Outbox::AddStatus(const v1::AllocationStatus& status) {
  absl::MutexLock lock(&mutex_);
  if (!in_session_) return;
  v1::WorkerMessage message;
  *message.mutable_allocation() = status;
  Add(std::move(message));
}

void Outbox::AddAck(const v1::Ack& ack) {
  absl::MutexLock lock(&mutex_);
  if (!in_session_) return;
  v1::WorkerMessage message;
  *message.mutable_ack() = ack;
  Add(std::move(message));
}

void Outbox::AddDiagnosis(const v1::Diagnosis& diagnosis) {
  absl::MutexLock lock(&mutex_);
  if (!in_session_) return;
  v1::WorkerMessage message;
  *message.mutable_diagnosis() = diagnosis;
  Add(std::move(message));
}

void Outbox::AddCheckpoint(const v1::Checkpoint& checkpoint) {
  absl::MutexLock lock(&mutex_);
  v1::WorkerMessage message;
  *message.mutable_checkpoint() = checkpoint;
  Add(std::move(message));
}

void Outbox::AddEvaluation(const v1::EvaluationReport& evaluation) {
  absl::MutexLock lock(&mutex_);
  v1::WorkerMessage message;
  *message.mutable_evaluation() = evaluation;
  Add(std::move(message));
}

void Outbox::SetMaintenance(const v1::Maintenance& maintenance) {
  absl::MutexLock lock(&mutex_);
  *maintenance_.emplace().mutable_maintenance() = maintenance;
  if (in_session_) Add(*maintenance_);
}

bool Outbox::AddLogChunk(uint64_t session, const v1::LogChunk& chunk) {
  absl::MutexLock lock(&mutex_);
  const auto may_go_on = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return !in_session_ || session != session_ || log_chunks_.size() < kMostLogChunks;
  };
  mutex_.Await(absl::Condition(&may_go_on));
  if (!in_session_ || session != session_) return false;
  v1::WorkerMessage message;
  *message.mutable_log_chunk() = chunk;
  log_chunks_.push_back(std::move(message));
  return true;
}

uint64_t Outbox::BeginSession() {
  absl::MutexLock lock(&mutex_);
  ForgetOldSent();
  std::deque<v1::WorkerMessage> again;
  if (maintenance_.has_value()) again.push_back(*maintenance_);
  for (Sent& sent : sent_) again.push_back(std::move(sent.message));
  sent_.clear();
  for (v1::WorkerMessage& message : waiting_) {
    if (OutlivesSession(message)) again.push_back(std::move(message));
  }
  waiting_ = std::move(again);
  log_chunks_.clear();
  in_session_ = true;
  return ++session_;
}

void Outbox::EndSession() {
  absl::MutexLock lock(&mutex_);
  in_session_ = false;
  log_chunks_.clear();
}

bool Outbox::in_session() const {
  absl::MutexLock lock(&mutex_);
  return in_session_;
}

std::optional<v1::WorkerMessage> Outbox::Next(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(this, &Outbox::HasNextOrIsOver), timeout);
  if (!in_session_) return std::nullopt;
  std::deque<v1::WorkerMessage>& queue = waiting_.empty() ? log_chunks_ : waiting_;
  if (queue.empty()) return std::nullopt;
  v1::WorkerMessage message = std::move(queue.front());
  queue.pop_front();
  if (OutlivesSession(message)) {
    ForgetOldSent();
    sent_.push_back({clock_.Monotonic(), message});
  }
  return message;
}

bool Outbox::HasNextOrIsOver() const {
  return !in_session_ || !waiting_.empty() || !log_chunks_.empty();
}

bool Outbox::IsTakenOrOver() const { return !in_session_ || waiting_.empty(); }

void Outbox::ForgetOldSent() {
  while (!sent_.empty() &&
         (clock_.Monotonic() - sent_.front().time > kMayBeLost || sent_.size() >= kMostWaiting)) {
    sent_.pop_front();
  }
}

bool Outbox::WaitUntilTaken(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(this, &Outbox::IsTakenOrOver), timeout);
  return waiting_.empty();
}

}  // namespace muster::worker
