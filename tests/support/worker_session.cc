#include "tests/support/worker_session.h"

#include <utility>

namespace muster::testing {

WorkerSession::WorkerSession(const std::shared_ptr<grpc::Channel>& channel)
    : stub_(v1::WorkerService::NewStub(channel)), stream_(stub_->Session(&context_)) {
  reader_ = std::thread([this] { Read(); });
}

WorkerSession::~WorkerSession() {
  context_.TryCancel();
  if (reader_.joinable()) reader_.join();
}

v1::WorkerMessage WorkerSession::Hello(const std::string& node, int slots) {
  v1::WorkerMessage message;
  v1::Hello* hello = message.mutable_hello();
  hello->set_node(node);
  hello->set_node_uid("uid-" + node);
  hello->set_instance("instance-" + node);
  hello->set_protocol_version(1);
  hello->mutable_inventory()->set_slots(slots);
  hello->mutable_inventory()->set_metrics_address("127.0.0.1:9999");
  return message;
}

bool WorkerSession::Send(const v1::WorkerMessage& message) { return stream_->Write(message); }

void WorkerSession::SendHeartbeat() {
  v1::WorkerMessage message;
  message.mutable_heartbeat();
  Send(message);
}

void WorkerSession::SendStatus(const v1::Allocation& allocation,
                               v1::AllocationStatus::Phase phase) {
  v1::WorkerMessage message;
  v1::AllocationStatus* status = message.mutable_allocation();
  status->set_job(allocation.job());
  status->set_generation(allocation.generation());
  status->set_node_rank(allocation.node_rank());
  *status->mutable_ranks() = allocation.ranks();
  status->set_phase(phase);
  if (phase == v1::AllocationStatus::PHASE_PREPARED) status->set_master("127.0.0.1:4000");
  Send(message);
}

void WorkerSession::Read() {
  v1::CoordinatorMessage message;
  while (stream_->Read(&message)) {
    absl::MutexLock lock(&mutex_);
    received_.push_back(std::move(message));
  }
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

std::optional<v1::CoordinatorMessage> WorkerSession::Await(
    const std::function<bool(const v1::CoordinatorMessage&)>& wanted) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  absl::MutexLock lock(&mutex_);
  while (true) {
    mutex_.AwaitWithDeadline(
        absl::Condition(
            +[](WorkerSession* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
              return self->ended_ || !self->received_.empty();
            },
            this),
        deadline);
    if (received_.empty()) return std::nullopt;
    v1::CoordinatorMessage message = std::move(received_.front());
    received_.pop_front();
    if (wanted(message)) return message;
  }
}

std::optional<v1::Allocation> WorkerSession::AwaitAllocation(const std::string& job,
                                                             v1::Allocation::Goal goal) {
  std::optional<v1::Allocation> found;
  Await([&](const v1::CoordinatorMessage& message) {
    for (const v1::Allocation& allocation : message.desired().allocations()) {
      if (allocation.job() == job && allocation.goal() == goal) found = allocation;
    }
    return found.has_value();
  });
  return found;
}

grpc::Status WorkerSession::Finish() {
  reader_.join();
  return stream_->Finish();
}

}  // namespace muster::testing
