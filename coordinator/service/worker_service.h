#pragma once

#include "coordinator/service/access_control.h"
#include "coordinator/service/log_relay.h"
#include "coordinator/service/session_registry.h"
#include "coordinator/service/state_thread.h"
#include "muster/v1/worker_service.grpc.pb.h"

namespace muster::coordinator {

// WorkerService over gRPC's callback API: turns a worker's messages into commands, and sends what
// the session registry is given for it. A stream that does not begin with Hello, or says it twice,
// ends with INVALID_ARGUMENT. Where there is authentication a worker speaks for its own node only
// (PERMISSION_DENIED, reason WRONG_NODE), and its stream ends when its credential is revoked.
class WorkerServiceImpl : public v1::WorkerService::CallbackService {
 public:
  struct Deps {
    StateThread* state;
    SessionRegistry* sessions;
    LogRelay* logs;
    const AccessControl* access;
    // Streams at a time; further ones end with RESOURCE_EXHAUSTED.
    int max_sessions = 0;
  };
  explicit WorkerServiceImpl(const Deps& deps) : deps_(deps) {}

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Session(
      grpc::CallbackServerContext* context) override;

 private:
  const Deps deps_;
};

}  // namespace muster::coordinator
