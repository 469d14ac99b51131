// Who may call what, over real gRPC and HTTP with TLS.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>

#include <map>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/rpc/channel.h"
#include "common/rpc/credentials.h"
#include "common/rpc/errors.h"
#include "common/rpc/limits.h"
#include "common/security/digest.h"
#include "coordinator/service/app.h"
#include "coordinator/store/memory_state_store.h"
#include "muster/v1/access_service.grpc.pb.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "tests/support/certificate_authority.h"
#include "tests/support/shared_data.h"
#include "tests/support/small_job.h"
#include "tests/support/worker_session.h"

namespace muster::coordinator {
namespace {

using ::testing::HasSubstr;
using testing::WorkerSession;
using v1::Token;

class AccessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // OpenSSL writes to connections that a server has closed.
    signal(SIGPIPE, SIG_IGN);
    auto store = std::make_unique<MemoryStateStore>();
    for (const auto role : {Token::ROLE_VIEW, Token::ROLE_SUBMIT, Token::ROLE_ADMIN}) {
      Token wanted;
      wanted.set_role(role);
      wanted.set_subject(RoleName(role) + "-user");
      const auto secret = CreateStoredToken(wanted, clock_, store.get());
      ASSERT_TRUE(secret.ok()) << secret.status();
      secrets_[role] = *secret;
    }
    Start(std::move(store), App::Options());
  }
  void Start(std::unique_ptr<StateStore> store, App::Options options) {
    options.tls = authority_.Issue("coordinator");
    auto app = App::Start(options, std::move(store), clock_, timers_);
    ASSERT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
  }

  std::shared_ptr<grpc::Channel> Connect(const std::string& token) {
    auto credentials = rpc::TlsChannelCredentials(client_, token);
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    return rpc::CreateChannel(app_->grpc_address(),
                              {.credentials = *credentials, .retry_unavailable = false});
  }

  // What an empty request (a half-closed stream with one empty message) is answered.
  static absl::Status Call(const std::shared_ptr<grpc::Channel>& channel,
                           const std::string& method) {
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(20));
    const auto await = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    grpc::GenericStub stub(channel);
    const auto call = stub.PrepareCall(&context, "/" + method, &queue);
    call->StartCall(nullptr);
    if (await()) {
      grpc::Slice nothing;
      call->WriteLast(grpc::ByteBuffer(&nothing, 1), grpc::WriteOptions(), nullptr);
      await();
    }
    grpc::ByteBuffer reply;
    do {
      call->Read(&reply, nullptr);
    } while (await());
    grpc::Status status;
    call->Finish(&status, nullptr);
    await();
    queue.Shutdown();
    return rpc::FromGrpcStatus(status);
  }
  static std::string Reason(const grpc::Status& status) {
    return rpc::ErrorReason(rpc::FromGrpcStatus(status));
  }

  grpc::Status CreateToken(const std::string& by, Token::Role role, const std::string& subject,
                           v1::CreateTokenResponse* response) {
    grpc::ClientContext context;
    v1::CreateTokenRequest request;
    request.mutable_token()->set_role(role);
    request.mutable_token()->set_subject(subject);
    return v1::AccessService::NewStub(Connect(by))->CreateToken(&context, request, response);
  }
  grpc::Status Revoke(const std::string& name) {
    grpc::ClientContext context;
    v1::RevokeTokenRequest request;
    request.set_name(name);
    Token token;
    return v1::AccessService::NewStub(Connect(secrets_[Token::ROLE_ADMIN]))
        ->RevokeToken(&context, request, &token);
  }
  std::string JoinToken() {
    v1::CreateTokenResponse response;
    const grpc::Status status =
        CreateToken(secrets_[Token::ROLE_ADMIN], Token::ROLE_JOIN, "", &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.secret();
  }
  grpc::Status Join(const std::string& join_token, const std::string& node,
                    const std::string& secret, std::string* credential = nullptr) {
    grpc::ClientContext context;
    v1::JoinNodeRequest request;
    request.set_node(node);
    request.set_node_uid(WorkerSession::Hello(node).hello().node_uid());
    request.set_credential_sha256(security::Sha256(secret));
    v1::JoinNodeResponse response;
    const grpc::Status status =
        v1::AccessService::NewStub(Connect(join_token))->JoinNode(&context, request, &response);
    if (credential != nullptr) *credential = response.credential().name();
    return status;
  }

  httplib::Result HttpGet(const std::string& path, const std::string& authorization) {
    const size_t colon = app_->http_address().rfind(':');
    httplib::SSLClient client("127.0.0.1", std::atoi(app_->http_address().c_str() + colon + 1),
                              client_.certificate.string(), client_.key.string());
    client.set_ca_cert_path(client_.ca.c_str());
    httplib::Headers headers;
    if (!authorization.empty()) headers.emplace("Authorization", authorization);
    return client.Get(path, headers);
  }

  testing::TemporaryFolder folder_;
  testing::CertificateAuthority authority_{folder_.path()};
  const security::TlsFiles client_ = authority_.Issue("client");
  base::SystemClock clock_;
  base::ThreadTimerQueue timers_{clock_};
  std::map<Token::Role, std::string> secrets_;
  std::unique_ptr<App> app_;
};

TEST_F(AccessTest, EveryRpcForEveryRole) {
  const std::string node_secret = security::MakeSecret();
  ASSERT_TRUE(Join(JoinToken(), "w1", node_secret).ok());
  secrets_[Token::ROLE_NODE] = node_secret;
  secrets_[Token::ROLE_JOIN] = JoinToken();
  std::map<Token::Role, std::shared_ptr<grpc::Channel>> channels;
  for (const auto& [role, secret] : secrets_) channels[role] = Connect(secret);
  const auto nobody = Connect("");
  const auto stranger = Connect(security::MakeSecret());

  for (const std::string& method : ListedRpcs()) {
    const absl::Status without = Call(nobody, method);
    EXPECT_EQ(without.code(), absl::StatusCode::kUnauthenticated) << method << " " << without;
    EXPECT_EQ(rpc::ErrorReason(without), "NO_TOKEN") << method;
    EXPECT_EQ(rpc::ErrorReason(Call(stranger, method)), "BAD_TOKEN") << method;
    for (const auto& [role, channel] : channels) {
      const absl::Status status = Call(channel, method);
      if (Allows(*RpcPermission(method), role)) {
        EXPECT_NE(status.code(), absl::StatusCode::kPermissionDenied)
            << method << " for " << RoleName(role) << ": " << status;
        EXPECT_NE(status.code(), absl::StatusCode::kUnauthenticated)
            << method << " for " << RoleName(role) << ": " << status;
      } else {
        EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied)
            << method << " for " << RoleName(role) << ": " << status;
        EXPECT_EQ(rpc::ErrorReason(status), "ROLE_TOO_LOW") << method;
        EXPECT_THAT(std::string(status.message()),
                    HasSubstr("needs the role " + RoleName(RpcPermission(method)->role)));
      }
    }
  }
  // Load balancers have no token.
  EXPECT_TRUE(Call(nobody, "grpc.health.v1.Health/Check").ok());
  EXPECT_EQ(Call(channels[Token::ROLE_ADMIN], "muster.v1.JobService/None").code(),
            absl::StatusCode::kUnimplemented);
}

TEST_F(AccessTest, EveryRouteForEveryRole) {
  for (const std::string& pattern : ListedRoutes()) {
    const std::string path = pattern == "/v1/jobs/([^/]+)" ? "/v1/jobs/none" : pattern;
    const int good = path == "/v1/jobs/none" ? 404 : 200;
    const bool open = pattern == "/healthz";
    const auto without = HttpGet(path, "");
    ASSERT_TRUE(without) << path;
    EXPECT_EQ(without->status, open ? 200 : 401) << path;
    if (!open) {
      EXPECT_EQ(without->get_header_value("WWW-Authenticate"), "Basic realm=\"muster\"");
    }
    EXPECT_EQ(HttpGet(path, "Bearer " + security::MakeSecret())->status, open ? 200 : 401) << path;
    for (const auto& [role, secret] : secrets_) {
      EXPECT_EQ(HttpGet(path, "Bearer " + secret)->status, good) << path << RoleName(role);
    }
    EXPECT_EQ(HttpGet(path, "Bearer " + JoinToken())->status, open ? 200 : 403) << path;
  }
  // What a browser sends.
  EXPECT_EQ(HttpGet("/", "Basic " + absl::Base64Escape("me:" + secrets_[Token::ROLE_VIEW]))->status,
            200);
  EXPECT_EQ(HttpGet("/v1/other", "Bearer " + secrets_[Token::ROLE_ADMIN])->status, 404);
}

TEST_F(AccessTest, PrometheusIsToldToUseTls) {
  const std::string secret = security::MakeSecret();
  ASSERT_TRUE(Join(JoinToken(), "w1", secret).ok());
  WorkerSession worker(Connect(secret));
  v1::WorkerMessage hello = WorkerSession::Hello("w1");
  hello.mutable_hello()->mutable_inventory()->set_metrics_address("10.0.0.7:9464");
  worker.Send(hello);
  ASSERT_TRUE(worker.Await([](const auto& message) { return message.has_welcome(); }));
  const auto targets = nlohmann::json::parse(
      HttpGet("/v1/sd/prometheus", "Bearer " + secrets_[Token::ROLE_VIEW])->body);
  ASSERT_EQ(targets.size(), 2u);
  for (const auto& target : targets) EXPECT_EQ(target["labels"]["__scheme__"], "https");
}

TEST_F(AccessTest, JoinTokenIsGoodForOneWorker) {
  const std::string join = JoinToken();
  const std::string secret = security::MakeSecret();
  EXPECT_TRUE(Join(join, "w1", secret).ok());
  EXPECT_TRUE(Join(join, "w1", secret).ok()) << "a repeated call was refused";
  const grpc::Status again = Join(join, "w2", security::MakeSecret());
  EXPECT_EQ(again.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Reason(again), "JOIN_TOKEN_USED");
  EXPECT_THAT(again.error_message(), HasSubstr("muster node-token create"));
}

// A cloud whose documents are "NODE DIGEST".
class TestAttestor : public NodeAttestor {
 public:
  absl::StatusOr<std::string> Verify(const std::string& document,
                                     const std::string& credential_sha256) const override {
    const std::vector<std::string> parts = absl::StrSplit(document, absl::MaxSplits(' ', 1));
    if (parts.size() == 2 && parts[1] == credential_sha256) return parts[0];
    return absl::PermissionDeniedError("the document is not for this credential");
  }
};

TEST_F(AccessTest, AttestedNodesJoinWithoutAToken) {
  const std::string secret = security::MakeSecret();
  v1::JoinNodeRequest request;
  request.set_node("w1");
  request.set_node_uid("uid-w1");
  request.set_credential_sha256(security::Sha256(secret));
  request.set_attestation("w1 " + request.credential_sha256());
  const auto join = [&] {
    grpc::ClientContext context;
    v1::JoinNodeResponse response;
    return Reason(v1::AccessService::NewStub(Connect(""))->JoinNode(&context, request, &response));
  };
  EXPECT_EQ(join(), "NO_TOKEN") << "a coordinator without an attestor believed a document";

  const TestAttestor attestor;
  App::Options options;
  options.access.attestor = &attestor;
  Start(std::make_unique<MemoryStateStore>(), options);
  EXPECT_EQ(join(), "");
  EXPECT_EQ(join(), "") << "a repeated call was refused";
  WorkerSession worker(Connect(secret));
  worker.Send(WorkerSession::Hello("w1"));
  EXPECT_TRUE(worker.Await([](const auto& message) { return message.has_welcome(); }));

  // Somebody who has seen the document, and wants it for a secret, a node or a machine of their
  // own.
  const v1::JoinNodeRequest seen = request;
  request.set_credential_sha256(security::Sha256("another"));
  EXPECT_EQ(join(), "BAD_ATTESTATION");
  request = seen;
  request.set_node("w2");
  EXPECT_EQ(join(), "WRONG_NODE");
  request = seen;
  request.set_node_uid("another-folder");
  EXPECT_EQ(join(), "CREDENTIAL_TAKEN");
  // A document opens nothing but JoinNode.
  EXPECT_EQ(rpc::ErrorReason(Call(Connect(""), "muster.v1.JobService/ListJobs")), "NO_TOKEN");
  app_.reset();
}

TEST_F(AccessTest, NodeSpeaksForItselfOnly) {
  const std::string secret = security::MakeSecret();
  ASSERT_TRUE(Join(JoinToken(), "w1", secret).ok());
  WorkerSession as_other(Connect(secret));
  as_other.Send(WorkerSession::Hello("w2"));
  EXPECT_EQ(Reason(as_other.Finish()), "WRONG_NODE");

  v1::WorkerMessage copied = WorkerSession::Hello("w1");
  copied.mutable_hello()->set_node_uid("another-folder");
  WorkerSession as_copy(Connect(secret));
  as_copy.Send(copied);
  EXPECT_EQ(Reason(as_copy.Finish()), "WRONG_NODE");

  WorkerSession as_itself(Connect(secret));
  as_itself.Send(WorkerSession::Hello("w1"));
  EXPECT_TRUE(as_itself.Await([](const auto& message) { return message.has_welcome(); }));
}

TEST_F(AccessTest, RevokingEndsAnOpenSession) {
  const std::string secret = security::MakeSecret();
  std::string credential;
  ASSERT_TRUE(Join(JoinToken(), "w1", secret, &credential).ok());
  WorkerSession worker(Connect(secret));
  worker.Send(WorkerSession::Hello("w1"));
  ASSERT_TRUE(worker.Await([](const auto& message) { return message.has_welcome(); }));
  worker.SendHeartbeat();
  ASSERT_TRUE(Revoke(credential).ok());
  worker.SendHeartbeat();
  EXPECT_EQ(Reason(worker.Finish()), "TOKEN_REVOKED");
}

TEST_F(AccessTest, RevokingEndsOpenStreamsOfPeople) {
  v1::CreateTokenResponse made;
  ASSERT_TRUE(CreateToken(secrets_[Token::ROLE_ADMIN], Token::ROLE_VIEW, "alice", &made).ok());
  {
    grpc::ClientContext context;
    v1::Job job;
    ASSERT_TRUE(v1::JobService::NewStub(Connect(secrets_[Token::ROLE_SUBMIT]))
                    ->CreateJob(&context, testing::SmallJobRequest("j"), &job)
                    .ok());
  }
  // Both have nothing to say: the job waits for a node.
  const auto of_alice = v1::JobService::NewStub(Connect(made.secret()));
  const auto of_other = v1::JobService::NewStub(Connect(secrets_[Token::ROLE_VIEW]));
  v1::WatchJobRequest watch;
  watch.set_name("jobs/j");
  v1::StreamLogsRequest logs;
  logs.set_name("jobs/j");
  logs.set_follow(true);
  grpc::ClientContext watch_context;
  grpc::ClientContext logs_context;
  grpc::ClientContext other_context;
  const auto watching = of_alice->WatchJob(&watch_context, watch);
  const auto following = of_alice->StreamLogs(&logs_context, logs);
  const auto other = of_other->WatchJob(&other_context, watch);
  v1::WatchJobResponse news;
  ASSERT_TRUE(watching->Read(&news));
  ASSERT_TRUE(other->Read(&news));

  ASSERT_TRUE(Revoke(made.token().name()).ok());
  EXPECT_FALSE(watching->Read(&news));
  EXPECT_EQ(Reason(watching->Finish()), "TOKEN_REVOKED");
  v1::StreamLogsResponse text;
  EXPECT_FALSE(following->Read(&text));
  EXPECT_EQ(Reason(following->Finish()), "TOKEN_REVOKED");
  // Another person's goes on.
  app_.reset();
  while (other->Read(&news)) {
  }
  EXPECT_EQ(Reason(other->Finish()), "UNAVAILABLE");
}

TEST_F(AccessTest, TokensSurviveARestart) {
  auto store = std::make_unique<MemoryStateStore>();
  MemoryStateStore* kept = store.get();
  app_.reset();
  Token wanted;
  wanted.set_role(Token::ROLE_ADMIN);
  wanted.set_subject("root");
  secrets_[Token::ROLE_ADMIN] = *CreateStoredToken(wanted, clock_, kept);
  Start(std::move(store), App::Options());
  v1::CreateTokenResponse made;
  ASSERT_TRUE(CreateToken(secrets_[Token::ROLE_ADMIN], Token::ROLE_VIEW, "alice", &made).ok());
  EXPECT_EQ(made.token().creator(), "root");
  const Snapshot snapshot = *kept->Load();
  ASSERT_EQ(snapshot.tokens.size(), 2u);
  app_.reset();

  auto again = std::make_unique<MemoryStateStore>();
  Writes writes;
  for (const auto& record : snapshot.tokens) writes.tokens[record.id()] = record;
  ASSERT_TRUE(again->Commit(writes).ok());
  Start(std::move(again), App::Options());
  EXPECT_TRUE(Call(Connect(made.secret()), "muster.v1.JobService/ListJobs").ok());
  EXPECT_TRUE(Revoke(made.token().name()).ok());
  EXPECT_EQ(rpc::ErrorReason(Call(Connect(made.secret()), "muster.v1.JobService/ListJobs")),
            "TOKEN_REVOKED");
}

TEST_F(AccessTest, ListsTokensInPages) {
  for (int i = 0; i < 3; ++i) JoinToken();
  const auto stub = v1::AccessService::NewStub(Connect(secrets_[Token::ROLE_ADMIN]));
  v1::ListTokensRequest request;
  request.set_page_size(4);
  v1::ListTokensResponse first;
  grpc::ClientContext context;
  ASSERT_TRUE(stub->ListTokens(&context, request, &first).ok());
  EXPECT_EQ(first.tokens_size(), 4);
  request.set_page_token(first.next_page_token());
  v1::ListTokensResponse second;
  grpc::ClientContext context2;
  ASSERT_TRUE(stub->ListTokens(&context2, request, &second).ok());
  EXPECT_EQ(second.tokens_size(), 2);
  EXPECT_EQ(second.next_page_token(), "");
}

TEST_F(AccessTest, TwoAuthorizationsAreRefused) {
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + secrets_[Token::ROLE_ADMIN]);
  v1::ListJobsResponse response;
  const grpc::Status status = v1::JobService::NewStub(Connect(secrets_[Token::ROLE_VIEW]))
                                  ->ListJobs(&context, v1::ListJobsRequest(), &response);
  EXPECT_EQ(Reason(status), "BAD_AUTHORIZATION");
}

TEST_F(AccessTest, WritesAreLimited) {
  auto store = std::make_unique<MemoryStateStore>();
  Token wanted;
  wanted.set_role(Token::ROLE_SUBMIT);
  wanted.set_subject("alice");
  const std::string secret = *CreateStoredToken(wanted, clock_, store.get());
  App::Options options;
  options.access.writes = {0.001, 2};
  Start(std::move(store), options);
  const auto channel = Connect(secret);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Call(channel, "muster.v1.JobService/CreateJob").code(),
              absl::StatusCode::kInvalidArgument);
  }
  const absl::Status limited = Call(channel, "muster.v1.JobService/CreateJob");
  EXPECT_EQ(limited.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rpc::ErrorReason(limited), "RATE_LIMITED");
  EXPECT_TRUE(Call(channel, "muster.v1.JobService/ListJobs").ok());
}

TEST_F(AccessTest, MessagesAndSessionsAreLimited) {
  grpc::ClientContext context;
  v1::GetJobRequest large;
  large.set_name(std::string(rpc::kMaxMessageBytes + 1, 'x'));
  v1::Job job;
  auto credentials = rpc::TlsChannelCredentials(client_, secrets_[Token::ROLE_VIEW]);
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(-1);
  const auto channel = grpc::CreateCustomChannel(app_->grpc_address(), *credentials, arguments);
  EXPECT_EQ(v1::JobService::NewStub(channel)->GetJob(&context, large, &job).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);

  App::Options options;
  options.max_sessions = 1;
  auto store = std::make_unique<MemoryStateStore>();
  Token wanted;
  wanted.set_role(Token::ROLE_ADMIN);
  wanted.set_subject("root");
  secrets_[Token::ROLE_ADMIN] = *CreateStoredToken(wanted, clock_, store.get());
  Start(std::move(store), options);
  std::vector<std::string> node_secrets = {security::MakeSecret(), security::MakeSecret()};
  ASSERT_TRUE(Join(JoinToken(), "w1", node_secrets[0]).ok());
  ASSERT_TRUE(Join(JoinToken(), "w2", node_secrets[1]).ok());
  WorkerSession first(Connect(node_secrets[0]));
  first.Send(WorkerSession::Hello("w1"));
  ASSERT_TRUE(first.Await([](const auto& message) { return message.has_welcome(); }));
  WorkerSession second(Connect(node_secrets[1]));
  const grpc::Status refused = second.Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Reason(refused), "TOO_MANY_SESSIONS");
}

TEST_F(AccessTest, ClientsNeedACertificateToo) {
  auto credentials = rpc::TlsChannelCredentials({"", "", client_.ca}, secrets_[Token::ROLE_ADMIN]);
  const auto channel = rpc::CreateChannel(
      app_->grpc_address(), {.credentials = *credentials, .retry_unavailable = false});
  EXPECT_EQ(Call(channel, "muster.v1.JobService/ListJobs").code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace muster::coordinator
