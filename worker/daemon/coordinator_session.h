#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "muster/v1/worker_service.grpc.pb.h"
#include "worker/daemon/allocation_manager.h"
#include "worker/daemon/checkpoint_server.h"
#include "worker/daemon/log_streamer.h"
#include "worker/daemon/node_credentials.h"
#include "worker/daemon/outbox.h"
#include "worker/daemon/probe_server.h"
#include "worker/daemon/progress_board.h"

namespace muster::worker {

// Of WorkerService.Session: what this worker says in hello, and the oldest that it can be answered.
inline constexpr int kProtocolVersion = 2;
inline constexpr int kOldestProtocolVersion = 1;

// Keeps one Session stream to the coordinator, and comes back with backoff when it breaks; what the
// node runs does not notice. Two threads: one connects and reads, one sends, first of all
// heartbeats.
class CoordinatorSession {
 public:
  struct Options {
    // Tried in turn.
    std::vector<std::string> coordinators;
    std::string node;
    std::string node_uid;
    // Random, of this run of the daemon.
    std::string instance;
    v1::Inventory inventory;
    // Empty: found from the route to the coordinator at each connection.
    std::string advertise_address;
    NodeCredentials credentials;
    absl::Duration first_backoff = absl::Milliseconds(200);
    absl::Duration longest_backoff = absl::Seconds(5);
    absl::Duration connect_timeout = absl::Seconds(3);
  };
  struct Deps {
    const base::Clock* clock = nullptr;
    AllocationManager* manager = nullptr;
    ProgressBoard* progress = nullptr;
    LogStreamer* logs = nullptr;
    Outbox* outbox = nullptr;
    ProbeServer* probe = nullptr;
    CheckpointServer* checkpoints = nullptr;
    // The coordinator does not want this worker, and why. Called once, from the session's thread.
    std::function<void(const std::string& reason)> on_refused;
    std::function<void(bool connected)> on_connected;
    // The coordinator asks why a job does not advance.
    std::function<void(const v1::DiagnosisRequest& request)> on_diagnosis_request;
    // The coordinator lets the cloud begin with an event.
    std::function<void(const std::string& event_id)> on_approval;
  };

  CoordinatorSession(Options options, Deps deps);
  ~CoordinatorSession() { Stop(); }

  void Start();
  // Waits up to `linger` for what is in the outbox, then closes the stream. Idempotent.
  void Stop(absl::Duration linger = absl::ZeroDuration());

 private:
  using Stream = grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>;

  // kJoined: the coordinator knows this worker's credential from now on.
  enum class Outcome { kLost, kUnreachable, kRefused, kJoined };

  void Run();
  Outcome RunOnce(const std::string& coordinator, std::string* reason);
  // The coordinator does not take the credential.
  Outcome Denied(const std::string& coordinator, const grpc::Status& status, std::string* reason);
  bool WaitForConnection(grpc::Channel& channel) const;
  // The stream, once the coordinator has welcomed us.
  Outcome Serve(Stream* stream, const v1::Welcome& welcome, uint64_t session, std::string* reason);
  void Send(Stream* stream, absl::Duration heartbeat_interval);
  void Handle(const v1::CoordinatorMessage& message, uint64_t session);
  absl::StatusOr<v1::WorkerMessage> MakeHello(const std::string& coordinator);
  // False when Stop was called.
  bool Pause(absl::Duration duration);
  bool stopping() const;
  bool NoStream() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return context_ == nullptr; }

  const Options options_;
  const Deps deps_;
  // Only the session's thread uses these: JoinNode was called; a coordinator has welcomed us.
  bool joined_ = false;
  bool welcomed_ = false;
  std::minstd_rand jitter_{std::random_device{}()};
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Of the stream under way.
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread thread_;
};

}  // namespace muster::worker
