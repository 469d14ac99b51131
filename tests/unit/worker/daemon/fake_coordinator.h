#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "muster/v1/worker_service.grpc.pb.h"

namespace muster::worker {

// Plays the coordinator over real gRPC: welcomes (or refuses) workers, sends what the test says,
// and keeps what comes. One session at a time.
class FakeCoordinator final : public v1::WorkerService::Service {
 public:
  FakeCoordinator() { Listen(); }
  ~FakeCoordinator() override { Shutdown(); }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  // The next workers get this in place of a welcome.
  void Refuse(v1::Goodbye goodbye) {
    absl::MutexLock lock(&mutex_);
    refusal_ = std::move(goodbye);
  }

  // The next workers are answered with this version; by default with their own.
  void SpeakVersion(int version) {
    absl::MutexLock lock(&mutex_);
    version_ = version;
  }

  void Shutdown() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }
  // On the port that it had.
  void Restart() {
    Shutdown();
    Listen();
  }

  void Send(const v1::CoordinatorMessage& message) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &FakeCoordinator::Connected));
    stream_->Write(message);
  }
  void SendDesired(int64_t version, const std::vector<v1::Allocation>& allocations) {
    v1::CoordinatorMessage message;
    message.mutable_desired()->set_version(version);
    for (const v1::Allocation& allocation : allocations) {
      *message.mutable_desired()->add_allocations() = allocation;
    }
    Send(message);
  }

  // The next message that `wanted` holds for; what came before it is dropped. Nothing after 20 s.
  std::optional<v1::WorkerMessage> WaitFor(
      const std::function<bool(const v1::WorkerMessage&)>& wanted) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    absl::MutexLock lock(&mutex_);
    while (true) {
      while (!received_.empty()) {
        v1::WorkerMessage message = std::move(received_.front());
        received_.pop_front();
        if (wanted(message)) return message;
      }
      if (changed_.WaitWithDeadline(&mutex_, deadline)) return std::nullopt;
    }
  }
  std::optional<v1::Hello> WaitForHello() {
    const auto message = WaitFor([](const v1::WorkerMessage& m) { return m.has_hello(); });
    return message.has_value() ? std::optional<v1::Hello>(message->hello()) : std::nullopt;
  }
  std::optional<v1::AllocationStatus> WaitForPhase(v1::AllocationStatus::Phase phase) {
    const auto message = WaitFor([phase](const v1::WorkerMessage& m) {
      return m.has_allocation() && m.allocation().phase() == phase;
    });
    return message.has_value() ? std::optional<v1::AllocationStatus>(message->allocation())
                               : std::nullopt;
  }
  std::optional<v1::Ack> WaitForAck(int64_t version) {
    const auto message = WaitFor([version](const v1::WorkerMessage& m) {
      return m.has_ack() && m.ack().version() == version;
    });
    return message.has_value() ? std::optional<v1::Ack>(message->ack()) : std::nullopt;
  }

  grpc::Status Session(
      grpc::ServerContext* /*context*/,
      grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>* stream) override {
    v1::WorkerMessage message;
    if (!stream->Read(&message)) return grpc::Status::OK;
    {
      absl::MutexLock lock(&mutex_);
      Keep(message);
      v1::CoordinatorMessage answer;
      if (refusal_.has_value()) {
        *answer.mutable_goodbye() = *refusal_;
        stream->Write(answer);
        return grpc::Status::OK;
      }
      answer.mutable_welcome()->mutable_heartbeat_interval()->set_nanos(20'000'000);
      answer.mutable_welcome()->set_protocol_version(
          version_.value_or(message.hello().protocol_version()));
      stream->Write(answer);
      stream_ = stream;
    }
    while (stream->Read(&message)) {
      absl::MutexLock lock(&mutex_);
      Keep(message);
    }
    absl::MutexLock lock(&mutex_);
    stream_ = nullptr;
    return grpc::Status::OK;
  }

 private:
  void Listen() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address(), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  bool Connected() const { return stream_ != nullptr; }
  void Keep(const v1::WorkerMessage& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    received_.push_back(message);
    changed_.SignalAll();
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::optional<v1::Goodbye> refusal_ ABSL_GUARDED_BY(mutex_);
  std::optional<int> version_ ABSL_GUARDED_BY(mutex_);
  grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>* stream_
      ABSL_GUARDED_BY(mutex_) = nullptr;
  std::deque<v1::WorkerMessage> received_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
