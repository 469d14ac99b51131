// TLS between real servers and clients.
#include "common/rpc/credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "grpcpp/grpcpp.h"

#include "common/base/files.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "muster/v1/node_service.grpc.pb.h"
#include "tests/support/certificate_authority.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"

namespace muster::rpc {
namespace {

using security::TlsFiles;
using testing::CertificateAuthority;
using testing::WaitUntil;

// Answers with the authorization that came.
class Echo : public v1::NodeService::Service {
 public:
  grpc::Status GetNode(grpc::ServerContext* context, const v1::GetNodeRequest*,
                       v1::Node* node) override {
    for (const auto& [name, value] : context->client_metadata()) {
      if (name == "authorization") node->set_name(std::string(value.data(), value.size()));
    }
    return grpc::Status::OK;
  }
};

class CredentialsTest : public ::testing::Test {
 protected:
  void Start(const TlsFiles& files) {
    auto credentials = TlsServerCredentials(files);
    ASSERT_TRUE(credentials.ok()) << credentials.status();
    auto server = Server::Start(
        {.address = "127.0.0.1:0", .services = {&echo_}, .credentials = *std::move(credentials)});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::shared_ptr<grpc::Channel> Connect(std::shared_ptr<grpc::ChannelCredentials> credentials) {
    return CreateChannel(server_->address(),
                         {.credentials = std::move(credentials), .retry_unavailable = false});
  }
  std::shared_ptr<grpc::Channel> Connect(const TlsFiles& files, const std::string& token = "") {
    auto credentials = TlsChannelCredentials(files, token);
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    return Connect(credentials.ok() ? *credentials : nullptr);
  }
  static grpc::Status Call(const std::shared_ptr<grpc::Channel>& channel,
                           std::string* authorization = nullptr) {
    grpc::ClientContext context;
    SetDeadline(&context, absl::Seconds(10));
    v1::Node node;
    const grpc::Status status =
        v1::NodeService::NewStub(channel)->GetNode(&context, v1::GetNodeRequest(), &node);
    if (authorization != nullptr) *authorization = node.name();
    return status;
  }
  static bool Works(const std::shared_ptr<grpc::Channel>& channel) {
    const grpc::Status status = Call(channel);
    EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::UNAVAILABLE)
        << status.error_message();
    return status.ok();
  }
  static TlsFiles WithoutCertificate(TlsFiles files) { return {"", "", files.ca}; }

  testing::TemporaryFolder folder_;
  CertificateAuthority authority_{folder_.path() / "ca"};
  CertificateAuthority stranger_{folder_.path() / "stranger"};
  Echo echo_;
  std::unique_ptr<Server> server_;
};

TEST_F(CredentialsTest, ServerWithoutClientCertificates) {
  TlsFiles files = authority_.Issue("server");
  files.ca.clear();
  Start(files);
  std::string authorization;
  EXPECT_TRUE(Call(Connect({"", "", authority_.ca()}, "secret"), &authorization).ok());
  EXPECT_EQ(authorization, "Bearer secret");
  EXPECT_TRUE(Call(Connect({"", "", authority_.ca()}), &authorization).ok());
  EXPECT_EQ(authorization, "");
  EXPECT_FALSE(Works(Connect({"", "", stranger_.ca()}, "secret")))
      << "a server of another CA was believed";
  EXPECT_FALSE(Works(Connect(grpc::InsecureChannelCredentials()))) << "plaintext was answered";
}

TEST_F(CredentialsTest, ClientsMustShowACertificateOfTheCa) {
  Start(authority_.Issue("server"));
  EXPECT_TRUE(Works(Connect(authority_.Issue("client"))));
  EXPECT_FALSE(Works(Connect(WithoutCertificate(authority_.Issue("client")))));
  TlsFiles foreign = stranger_.Issue("client");
  foreign.ca = authority_.ca();
  EXPECT_FALSE(Works(Connect(foreign)));
}

TEST_F(CredentialsTest, ExpiredCertificatesAreRefused) {
  Start(authority_.Issue("server"));
  CertificateAuthority::Request request;
  request.name = "old";
  request.ends = -absl::Minutes(1);
  const TlsFiles old = authority_.Issue(request);
  // Our own client would not even try.
  EXPECT_EQ(TlsChannelCredentials(old, "").status().code(), absl::StatusCode::kInvalidArgument);
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = *base::ReadFile(old.ca);
  options.pem_cert_chain = *base::ReadFile(old.certificate);
  options.pem_private_key = *base::ReadFile(old.key);
  EXPECT_FALSE(Works(Connect(grpc::SslCredentials(options))));

  // One that expires while the server runs.
  const TlsFiles client = authority_.Issue("client");
  ASSERT_TRUE(Works(Connect(client)));
  request.name = "server";
  authority_.Issue(request);
  EXPECT_TRUE(WaitUntil([&] { return !Works(Connect(client)); }, absl::Seconds(20)))
      << "the client believes an expired certificate";
}

TEST_F(CredentialsTest, TheCertificateMustNameTheServer) {
  CertificateAuthority::Request request;
  request.name = "server";
  request.alternative_names = {"IP:192.0.2.1", "DNS:elsewhere.example"};
  TlsFiles files = authority_.Issue(request);
  files.ca.clear();
  Start(files);
  EXPECT_FALSE(Works(Connect({"", "", authority_.ca()})));
}

TEST_F(CredentialsTest, FilesAreReadAgainWhileCallsGoOn) {
  const TlsFiles files = authority_.Issue("server");
  const TlsFiles client = authority_.Issue("client");
  TlsFiles newcomer = stranger_.Issue("client");
  Start(files);
  const auto before = Connect(client);
  ASSERT_TRUE(Works(before));
  EXPECT_FALSE(Works(Connect(newcomer)));

  // The whole CA is replaced: key and certificate of the server, and whom it trusts.
  const TlsFiles renewed = stranger_.Issue("server");
  testing::ReplaceFile(renewed.key, files.key);
  testing::ReplaceFile(renewed.certificate, files.certificate);
  testing::ReplaceFile(renewed.ca, files.ca);
  EXPECT_TRUE(WaitUntil([&] { return Works(Connect(newcomer)); }, absl::Seconds(20)))
      << "the server did not take the new files";
  EXPECT_TRUE(Works(before)) << "a connection that was there broke";
}

TEST_F(CredentialsTest, FilesThatCannotBeUsedAreNamed) {
  const TlsFiles files = authority_.Issue("server");
  EXPECT_EQ(TlsServerCredentials({"", "", files.ca}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TlsChannelCredentials({files.certificate, files.key, ""}, "").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(TlsServerCredentials({files.certificate, folder_.path() / "none", ""})
                              .status()
                              .message()),
              ::testing::HasSubstr("none"));
}

}  // namespace
}  // namespace muster::rpc
