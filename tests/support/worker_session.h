#pragma once

#include <grpcpp/channel.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "muster/v1/worker_service.grpc.pb.h"

namespace muster::testing {

// A worker's stream that the test speaks on.
class WorkerSession {
 public:
  explicit WorkerSession(const std::shared_ptr<grpc::Channel>& channel);
  // Breaks the stream.
  ~WorkerSession();
  WorkerSession(const WorkerSession&) = delete;
  WorkerSession& operator=(const WorkerSession&) = delete;

  static v1::WorkerMessage Hello(const std::string& node, int slots = 1);

  bool Send(const v1::WorkerMessage& message);
  void SendHeartbeat();
  void SendStatus(const v1::Allocation& allocation, v1::AllocationStatus::Phase phase);

  // The next message for which `wanted` holds; those before it are dropped. Nothing when the stream
  // ends or 10 s pass first.
  std::optional<v1::CoordinatorMessage> Await(
      const std::function<bool(const v1::CoordinatorMessage&)>& wanted);
  // The next allocation of the job with this goal.
  std::optional<v1::Allocation> AwaitAllocation(const std::string& job, v1::Allocation::Goal goal);
  // The coordinator has ended the stream; its status.
  grpc::Status Finish();

 private:
  void Read();

  grpc::ClientContext context_;
  const std::unique_ptr<v1::WorkerService::Stub> stub_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>>
      stream_;
  absl::Mutex mutex_;
  std::deque<v1::CoordinatorMessage> received_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread reader_;
};

}  // namespace muster::testing
