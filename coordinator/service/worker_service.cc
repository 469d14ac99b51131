#include "coordinator/service/worker_service.h"

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

#include "common/rpc/errors.h"

namespace muster::coordinator {
namespace {

// "ipv4:10.0.0.4:5000" -> "10.0.0.4", "ipv6:[::1]:5000" -> "::1"; empty when it is neither.
std::string PeerAddress(const std::string& peer) {
  absl::string_view text = peer;
  if (!absl::ConsumePrefix(&text, "ipv4:") && !absl::ConsumePrefix(&text, "ipv6:")) return "";
  text = text.substr(0, text.rfind(':'));
  // gRPC writes the brackets of IPv6 percent-encoded.
  if (!absl::ConsumePrefix(&text, "[")) absl::ConsumePrefix(&text, "%5B");
  if (!absl::ConsumeSuffix(&text, "]")) absl::ConsumeSuffix(&text, "%5D");
  return std::string(text);
}

// Owns itself until gRPC is done with it; the registry shares it as a SessionWriter.
class SessionReactor : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>,
                       public SessionWriter,
                       public std::enable_shared_from_this<SessionReactor> {
 public:
  SessionReactor(const WorkerServiceImpl::Deps& deps, std::string peer, Caller caller)
      : deps_(deps), peer_(std::move(peer)), caller_(std::move(caller)) {}

  void Begin() {
    self_ = shared_from_this();
    const bool full = deps_.sessions->size() >= deps_.max_sessions;
    id_ = deps_.sessions->Add(self_);
    if (full) {
      FinishOnce(
          rpc::ToGrpcStatus(rpc::Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_SESSIONS",
                                       absl::StrCat("this coordinator serves ", deps_.max_sessions,
                                                    " workers at a time, and has them"))));
      return;
    }
    StartRead(&incoming_);
  }

  void Send(v1::CoordinatorMessage message, bool close) override {
    absl::MutexLock lock(&mutex_);
    if (closing_ || finished_) return;
    outgoing_.push_back(std::move(message));
    closing_ = close;
    if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      FinishOnce(grpc::Status::OK);
      return;
    }
    const bool is_hello = incoming_.has_hello();
    if (is_hello == greeted_) {
      FinishOnce(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                              "a session begins with one hello, and has no other"));
      return;
    }
    greeted_ = true;
    if (const absl::Status allowed = CheckCaller(); !allowed.ok()) {
      FinishOnce(rpc::ToGrpcStatus(allowed));
      return;
    }
    Dispatch();
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    outgoing_.pop_front();
    if (!ok) outgoing_.clear();
    if (!outgoing_.empty()) {
      StartWrite(&outgoing_.front());
    } else if (closing_ && !finished_) {
      finished_ = true;
      Finish(status_);
    }
  }

  void OnDone() override {
    {
      // What was never sent; in the order of locks with the thread that wrote last.
      absl::MutexLock lock(&mutex_);
      outgoing_.clear();
    }
    deps_.sessions->Remove(id_);
    deps_.logs->SessionEnded(id_);
    deps_.state->Post(SessionClosedCommand{id_});
    self_.reset();
  }

 private:
  // Of the message that has come.
  absl::Status CheckCaller() const {
    if (!deps_.access->required()) return absl::OkStatus();
    if (!deps_.access->tokens().InForce(caller_)) {
      return rpc::Error(absl::StatusCode::kUnauthenticated, "TOKEN_REVOKED",
                        "this node's credential is not in force any more");
    }
    if (incoming_.has_hello() && (incoming_.hello().node() != caller_.subject ||
                                  incoming_.hello().node_uid() != caller_.node_uid)) {
      return rpc::Error(absl::StatusCode::kPermissionDenied, "WRONG_NODE",
                        absl::StrCat("the credential is that of node ", caller_.subject,
                                     " and its state folder; ", incoming_.hello().node(),
                                     " must join with a join token of its own"));
    }
    return absl::OkStatus();
  }

  void Dispatch() {
    switch (incoming_.body_case()) {
      case v1::WorkerMessage::kHello: {
        WorkerHelloCommand command{id_, incoming_.hello()};
        // A worker that does not know its address is reachable where its stream comes from.
        v1::Inventory* inventory = command.hello.mutable_inventory();
        if (inventory->address().empty()) inventory->set_address(peer_);
        deps_.state->Post(std::move(command));
        break;
      }
      case v1::WorkerMessage::kHeartbeat:
        deps_.state->Post(HeartbeatCommand{id_, incoming_.heartbeat()});
        break;
      case v1::WorkerMessage::kAck:
        deps_.state->Post(AckCommand{id_, incoming_.ack()});
        break;
      case v1::WorkerMessage::kAllocation:
        deps_.state->Post(AllocationStatusCommand{id_, incoming_.allocation()});
        break;
      case v1::WorkerMessage::kCheckpoint:
        deps_.state->Post(CheckpointCommand{id_, incoming_.checkpoint()});
        break;
      case v1::WorkerMessage::kEvaluation:
        deps_.state->Post(EvaluationCommand{id_, incoming_.evaluation()});
        break;
      case v1::WorkerMessage::kMaintenance:
        deps_.state->Post(MaintenanceCommand{id_, incoming_.maintenance()});
        break;
      case v1::WorkerMessage::kDiagnosis:
        deps_.state->Post(DiagnosisCommand{id_, incoming_.diagnosis()});
        break;
      case v1::WorkerMessage::kLogChunk:
        deps_.logs->Deliver(id_, incoming_.log_chunk());
        break;
      default:
        // A newer worker's message.
        break;
    }
  }

  // Now, or when the writes under way are done.
  void FinishOnce(const grpc::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (finished_) return;
    closing_ = true;
    status_ = status;
    if (!outgoing_.empty()) return;
    finished_ = true;
    Finish(status_);
  }

  const WorkerServiceImpl::Deps deps_;
  const std::string peer_;
  // Nobody in particular without authentication.
  const Caller caller_;
  SessionId id_ = 0;
  std::shared_ptr<SessionReactor> self_;
  // Only the reading callbacks use these.
  v1::WorkerMessage incoming_;
  bool greeted_ = false;
  absl::Mutex mutex_;
  // The front one is being written.
  std::deque<v1::CoordinatorMessage> outgoing_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* WorkerServiceImpl::Session(
    grpc::CallbackServerContext* context) {
  auto reactor = std::make_shared<SessionReactor>(deps_, PeerAddress(context->peer()),
                                                  deps_.access->CallerOf(*context));
  reactor->Begin();
  // It keeps itself until OnDone.
  return reactor.get();
}

}  // namespace muster::coordinator
