#include "worker/daemon/coordinator_session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/endpoint.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/limits.h"
#include "muster/v1/access_service.grpc.pb.h"
#include "worker/daemon/tcp_socket.h"

namespace muster::worker {
namespace {

constexpr double kBackoffFactor = 1.6;
constexpr double kBackoffJitter = 0.2;

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

std::shared_ptr<grpc::Channel> MakeChannel(
    const std::string& coordinator, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  rpc::ChannelOptions options;
  options.credentials = credentials;
  // We come back by ourselves, with a new Hello.
  options.retry_unavailable = false;
  return rpc::CreateChannel(coordinator, options);
}

}  // namespace

CoordinatorSession::CoordinatorSession(Options options, Deps deps)
    : options_(std::move(options)), deps_(std::move(deps)) {}

void CoordinatorSession::Start() {
  thread_ = std::thread([this] { Run(); });
}

void CoordinatorSession::Stop(absl::Duration linger) {
  if (!thread_.joinable()) return;
  if (linger > absl::ZeroDuration()) deps_.outbox->WaitUntilTaken(linger);
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (context_ != nullptr && linger == absl::ZeroDuration()) context_->TryCancel();
  }
  // Makes the sender finish its last write and half-close; the coordinator then ends the stream.
  deps_.outbox->EndSession();
  {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(this, &CoordinatorSession::NoStream), linger);
    if (context_ != nullptr) context_->TryCancel();
  }
  thread_.join();
}

bool CoordinatorSession::stopping() const {
  absl::MutexLock lock(&mutex_);
  return stopping_;
}

bool CoordinatorSession::Pause(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&stopping_), duration);
}

void CoordinatorSession::Run() {
  absl::Duration backoff = options_.first_backoff;
  size_t next = 0;
  bool said_unreachable = false;
  while (!stopping()) {
    const std::string& coordinator = options_.coordinators[next];
    std::string reason;
    const Outcome outcome = RunOnce(coordinator, &reason);
    if (stopping()) return;
    if (outcome == Outcome::kJoined) continue;
    if (outcome == Outcome::kRefused) {
      deps_.on_refused(reason);
      return;
    }
    if (outcome == Outcome::kLost) {
      base::Log(base::LogSeverity::kWarning, "worker", "lost the coordinator; what runs goes on",
                {{"coordinator", coordinator}, {"reason", reason}});
      backoff = options_.first_backoff;
      said_unreachable = true;
    } else {
      next = (next + 1) % options_.coordinators.size();
      if (!std::exchange(said_unreachable, true)) {
        base::Log(base::LogSeverity::kWarning, "worker", "cannot reach the coordinator; trying on",
                  {{"coordinator", absl::StrJoin(options_.coordinators, ",")}, {"reason", reason}});
      }
    }
    std::uniform_real_distribution<double> spread(1 - kBackoffJitter, 1 + kBackoffJitter);
    if (!Pause(backoff * spread(jitter_))) return;
    backoff = std::min(backoff * kBackoffFactor, options_.longest_backoff);
  }
}

absl::StatusOr<v1::WorkerMessage> CoordinatorSession::MakeHello(const std::string& coordinator) {
  v1::WorkerMessage message;
  v1::Hello* hello = message.mutable_hello();
  hello->set_node(options_.node);
  hello->set_node_uid(options_.node_uid);
  hello->set_instance(options_.instance);
  hello->set_protocol_version(kProtocolVersion);
  *hello->mutable_inventory() = options_.inventory;
  std::string address = options_.advertise_address;
  if (address.empty()) {
    MUSTER_ASSIGN_OR_RETURN(address, LocalAddressTowards(coordinator));
  }
  hello->mutable_inventory()->set_address(address);
  // A server on all interfaces is found at the node's address.
  const absl::StatusOr<base::Endpoint> metrics =
      base::ParseEndpoint(options_.inventory.metrics_address());
  if (metrics.ok() &&
      (metrics->host.empty() || metrics->host == "0.0.0.0" || metrics->host == "::")) {
    hello->mutable_inventory()->set_metrics_address(
        base::Endpoint{address, metrics->port}.ToString());
  }
  deps_.manager->SetNodeAddress(address);
  const absl::StatusOr<std::string> probe = deps_.probe->Listen(address);
  if (probe.ok()) {
    hello->mutable_inventory()->set_probe_address(*probe);
  } else {
    base::Log(base::LogSeverity::kWarning, "worker",
              "other nodes cannot try the network to this one; see --advertise-address",
              {{"reason", probe.status().message()}});
  }
  absl::StatusOr<v1::CheckpointServer> checkpoints = deps_.checkpoints->Listen(address);
  if (checkpoints.ok()) {
    *hello->mutable_checkpoint_server() = *std::move(checkpoints);
  } else {
    base::Log(base::LogSeverity::kWarning, "worker",
              "other nodes cannot fetch checkpoints from this one; see --advertise-address",
              {{"reason", checkpoints.status().message()}});
  }
  for (v1::AllocationStatus& status : deps_.manager->Statuses()) {
    *hello->add_allocations() = std::move(status);
  }
  return message;
}

bool CoordinatorSession::WaitForConnection(grpc::Channel& channel) const {
  // In short turns, so that Stop does not wait for long.
  const absl::Time deadline = deps_.clock->Now() + options_.connect_timeout;
  while (!stopping() && deps_.clock->Now() < deadline) {
    const absl::Time turn = std::min(deadline, deps_.clock->Now() + absl::Milliseconds(200));
    if (channel.WaitForConnected(absl::ToChronoTime(turn))) return true;
  }
  return false;
}

CoordinatorSession::Outcome CoordinatorSession::RunOnce(const std::string& coordinator,
                                                        std::string* reason) {
  const std::shared_ptr<grpc::Channel> channel =
      MakeChannel(coordinator, options_.credentials.session);
  if (!WaitForConnection(*channel)) {
    *reason = absl::StrCat("no connection to ", coordinator,
                           options_.credentials.session == nullptr
                               ? ""
                               : " (does its certificate name this address, and is it, like ours, "
                                 "valid and of the right CA?)");
    return Outcome::kUnreachable;
  }
  const uint64_t session = deps_.outbox->BeginSession();
  const absl::StatusOr<v1::WorkerMessage> hello = MakeHello(coordinator);
  if (!hello.ok()) {
    *reason = std::string(hello.status().message());
    deps_.outbox->EndSession();
    return Outcome::kUnreachable;
  }
  grpc::ClientContext context;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return Outcome::kLost;
    context_ = &context;
  }
  const std::unique_ptr<v1::WorkerService::Stub> stub = v1::WorkerService::NewStub(channel);
  const std::unique_ptr<Stream> stream = stub->Session(&context);
  Outcome outcome = Outcome::kUnreachable;
  v1::CoordinatorMessage first;
  if (stream->Write(*hello) && stream->Read(&first)) {
    const int version = first.welcome().protocol_version();
    if (first.has_welcome() && (version < kOldestProtocolVersion || version > kProtocolVersion)) {
      // What runs goes on: somebody is in the middle of an upgrade.
      *reason = absl::StrCat(coordinator, " speaks protocol version ", version,
                             ", this worker versions ", kOldestProtocolVersion, " to ",
                             kProtocolVersion, "; install releases that are neighbours");
    } else if (first.has_welcome()) {
      outcome = Serve(stream.get(), first.welcome(), session, reason);
    } else if (first.has_goodbye()) {
      *reason = first.goodbye().reason();
      outcome = first.goodbye().retry() ? Outcome::kUnreachable : Outcome::kRefused;
    } else {
      *reason = absl::StrCat(coordinator, " answered hello with something else than welcome");
    }
  }
  deps_.outbox->EndSession();
  // We are done with it; without a reason of ours the stream has ended by itself and has one.
  if (!reason->empty()) context.TryCancel();
  const grpc::Status status = stream->Finish();
  if (reason->empty()) *reason = status.error_message();
  {
    absl::MutexLock lock(&mutex_);
    context_ = nullptr;
  }
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED ||
      status.error_code() == grpc::StatusCode::PERMISSION_DENIED) {
    return Denied(coordinator, status, reason);
  }
  return outcome;
}

CoordinatorSession::Outcome CoordinatorSession::Denied(const std::string& coordinator,
                                                       const grpc::Status& status,
                                                       std::string* reason) {
  *reason = status.error_message();
  // What runs must not end because a store was lost or restored: people are told, and we try on.
  const Outcome outcome = welcomed_ ? Outcome::kUnreachable : Outcome::kRefused;
  if (status.error_code() != grpc::StatusCode::UNAUTHENTICATED || joined_) return outcome;
  if (options_.credentials.join == nullptr) {
    absl::StrAppend(reason, "; let this node join with a token of muster node-token create ",
                    "(--join-token-file)");
    return outcome;
  }
  const auto stub = v1::AccessService::NewStub(
      rpc::CreateChannel(coordinator, {.credentials = options_.credentials.join}));
  grpc::ClientContext context;
  rpc::SetDeadline(&context, rpc::kDefaultDeadline);
  v1::JoinNodeRequest request;
  request.set_node(options_.node);
  request.set_node_uid(options_.node_uid);
  request.set_credential_sha256(options_.credentials.digest);
  v1::JoinNodeResponse response;
  const grpc::Status joined = stub->JoinNode(&context, request, &response);
  if (joined.ok()) {
    base::Log(base::LogSeverity::kInfo, "worker", "this node has a credential now",
              {{"node", options_.node}, {"credential", response.credential().name()}});
    joined_ = true;
    return Outcome::kJoined;
  }
  *reason = joined.error_message();
  const bool again = joined.error_code() == grpc::StatusCode::UNAVAILABLE ||
                     joined.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
  return again ? Outcome::kUnreachable : outcome;
}

CoordinatorSession::Outcome CoordinatorSession::Serve(Stream* stream, const v1::Welcome& welcome,
                                                      uint64_t session, std::string* reason) {
  const absl::Duration interval =
      std::max(ToDuration(welcome.heartbeat_interval()), absl::Milliseconds(10));
  base::Log(base::LogSeverity::kInfo, "worker", "joined the coordinator",
            {{"node", options_.node}, {"heartbeat_interval", absl::FormatDuration(interval)}});
  welcomed_ = true;
  deps_.on_connected(true);
  std::thread sender([this, stream, interval] { Send(stream, interval); });
  Outcome outcome = Outcome::kLost;
  v1::CoordinatorMessage message;
  while (stream->Read(&message)) {
    if (message.has_goodbye()) {
      *reason = message.goodbye().reason();
      if (!message.goodbye().retry()) outcome = Outcome::kRefused;
      // A write that waits for room would keep the sender.
      absl::MutexLock lock(&mutex_);
      context_->TryCancel();
      break;
    }
    Handle(message, session);
  }
  deps_.outbox->EndSession();
  sender.join();
  deps_.logs->StopAll();
  deps_.on_connected(false);
  return outcome;
}

void CoordinatorSession::Send(Stream* stream, absl::Duration heartbeat_interval) {
  int64_t sequence = 0;
  absl::Duration due = deps_.clock->Monotonic();
  while (true) {
    const absl::Duration now = deps_.clock->Monotonic();
    v1::WorkerMessage message;
    if (now >= due) {
      v1::Heartbeat* heartbeat = message.mutable_heartbeat();
      heartbeat->set_sequence(++sequence);
      deps_.progress->Fill(heartbeat);
      due = now + heartbeat_interval;
    } else if (std::optional<v1::WorkerMessage> next = deps_.outbox->Next(due - now)) {
      message = *std::move(next);
    } else if (deps_.outbox->in_session()) {
      continue;
    } else {
      break;
    }
    if (!stream->Write(message)) break;
  }
  stream->WritesDone();
}

void CoordinatorSession::Handle(const v1::CoordinatorMessage& message, uint64_t session) {
  switch (message.body_case()) {
    case v1::CoordinatorMessage::kDesired: {
      const absl::Status applied = deps_.manager->Apply(message.desired());
      if (!applied.ok()) {
        base::Log(base::LogSeverity::kError, "worker", "refused the desired state",
                  {{"version", message.desired().version()}, {"reason", applied.message()}});
      }
      v1::Ack ack;
      ack.set_version(message.desired().version());
      ack.set_error(std::string(applied.message()));
      deps_.outbox->AddAck(ack);
      break;
    }
    case v1::CoordinatorMessage::kLogRequest:
      deps_.logs->Start(message.log_request(), [this, session](const v1::LogChunk& chunk) {
        return deps_.outbox->AddLogChunk(session, chunk);
      });
      break;
    case v1::CoordinatorMessage::kLogCancel:
      deps_.logs->Cancel(message.log_cancel().request_id());
      break;
    case v1::CoordinatorMessage::kDiagnosisRequest:
      deps_.on_diagnosis_request(message.diagnosis_request());
      break;
    case v1::CoordinatorMessage::kApproval:
      deps_.on_approval(message.approval().event_id());
      break;
    default:
      // A newer coordinator's message.
      break;
  }
}

}  // namespace muster::worker
