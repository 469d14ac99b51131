#include "common/metrics/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>
#include <memory>
#include <optional>

#include "tests/support/certificate_authority.h"
#include "tests/support/shared_data.h"

namespace muster::metrics {
namespace {

using ::testing::HasSubstr;

TEST(HttpServerTest, ServesRoutesOnAnyPort) {
  Registry registry("muster-worker");
  std::vector<HttpServer::Route> routes = {MetricsRoute(registry), HealthRoute()};
  routes.push_back({"/jobs/([a-z0-9-]+)", [](const HttpRequest& request) {
                      HttpResponse response;
                      response.content_type = "application/json";
                      response.body = request.groups.at(1) + "?" + request.query.at("tail");
                      response.headers["Cache-Control"] = "no-store";
                      return response;
                    }});
  auto server = HttpServer::Start({"127.0.0.1", 0}, std::move(routes));
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_GT((*server)->endpoint().port, 0);
  httplib::Client client("127.0.0.1", (*server)->endpoint().port);

  auto metrics = client.Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_EQ(metrics->status, 200);
  EXPECT_EQ(metrics->get_header_value("Content-Type"), std::string(kTextFormatContentType));
  EXPECT_THAT(metrics->body, HasSubstr("muster_build_info"));

  auto job = client.Get("/jobs/abc-1?tail=a%20b");
  ASSERT_TRUE(job);
  EXPECT_EQ(job->body, "abc-1?a b");
  EXPECT_EQ(job->get_header_value("Content-Type"), "application/json");
  EXPECT_EQ(job->get_header_value("Cache-Control"), "no-store");

  EXPECT_EQ(client.Get("/healthz")->body, "ok\n");
  EXPECT_EQ(client.Get("/other")->status, 404);
  EXPECT_EQ(client.Get("/jobs/../etc")->status, 404);
}

TEST(HttpServerTest, PortInUseNamesTheAddress) {
  auto first = HttpServer::Start({"127.0.0.1", 0}, {HealthRoute()});
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = HttpServer::Start((*first)->endpoint(), {HealthRoute()});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*first)->endpoint().ToString()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("Address already in use"));
}

TEST(HttpServerTest, ThePortIsFreeAfterTheEnd) {
  auto first = HttpServer::Start({"127.0.0.1", 0}, {HealthRoute()});
  ASSERT_TRUE(first.ok()) << first.status();
  const base::Endpoint endpoint = (*first)->endpoint();
  first->reset();
  EXPECT_TRUE(HttpServer::Start(endpoint, {HealthRoute()}).ok());
}

TEST(HttpServerTest, PlaintextStaysOnLoopback) {
  const auto refused = HttpServer::Start({"0.0.0.0", 0}, {HealthRoute()});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(HttpServerTest, RefusalsComeBeforeTheHandler) {
  HttpProtection protection;
  protection.refuse = [](const std::string& pattern, const std::string& authorization) {
    std::optional<HttpResponse> refusal;
    if (pattern == "/healthz" || authorization == "Bearer good") return refusal;
    refusal.emplace();
    refusal->status = 401;
    refusal->headers["WWW-Authenticate"] = "Basic";
    return refusal;
  };
  std::atomic<int> handled = 0;
  auto server = HttpServer::Start({"127.0.0.1", 0},
                                  {HealthRoute(),
                                   {"/secret",
                                    [&](const HttpRequest&) {
                                      ++handled;
                                      return HttpResponse();
                                    }}},
                                  protection);
  ASSERT_TRUE(server.ok()) << server.status();
  httplib::Client client("127.0.0.1", (*server)->endpoint().port);
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  const auto refused = client.Get("/secret");
  EXPECT_EQ(refused->status, 401);
  EXPECT_EQ(refused->get_header_value("WWW-Authenticate"), "Basic");
  EXPECT_EQ(client.Head("/secret")->status, 401);
  EXPECT_EQ(handled, 0);
  EXPECT_EQ(client.Get("/secret", {{"Authorization", "Bearer good"}})->status, 200);
  EXPECT_EQ(handled, 1);
}

class HttpsTest : public ::testing::Test {
 protected:
  void Start(const security::TlsFiles& files) {
    HttpProtection protection;
    protection.tls = files;
    auto server = HttpServer::Start({"127.0.0.1", 0}, {HealthRoute()}, protection);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  // Whether a client with these files gets an answer.
  bool Works(const security::TlsFiles& files) {
    httplib::SSLClient client("127.0.0.1", server_->endpoint().port, files.certificate.string(),
                              files.key.string());
    client.set_ca_cert_path(files.ca.c_str());
    client.enable_server_certificate_verification(true);
    const auto result = client.Get("/healthz");
    return result && result->status == 200;
  }

  testing::TemporaryFolder folder_;
  testing::CertificateAuthority authority_{folder_.path() / "ca"};
  testing::CertificateAuthority stranger_{folder_.path() / "stranger"};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpsTest, WithoutClientCertificates) {
  security::TlsFiles files = authority_.Issue("server");
  files.ca.clear();
  Start(files);
  EXPECT_TRUE(Works({"", "", authority_.ca()}));
  EXPECT_FALSE(Works({"", "", stranger_.ca()}));
  EXPECT_FALSE(httplib::Client("127.0.0.1", server_->endpoint().port).Get("/healthz"))
      << "plaintext was answered";
}

TEST_F(HttpsTest, ClientsMustShowACertificateOfTheCa) {
  Start(authority_.Issue("server"));
  EXPECT_TRUE(Works(authority_.Issue("client")));
  EXPECT_FALSE(Works({"", "", authority_.ca()}));
  security::TlsFiles foreign = stranger_.Issue("client");
  foreign.ca = authority_.ca();
  EXPECT_FALSE(Works(foreign));
  testing::CertificateAuthority::Request old;
  old.name = "old";
  old.ends = -absl::Minutes(1);
  EXPECT_FALSE(Works(authority_.Issue(old)));
}

TEST_F(HttpsTest, NewFilesCountFromTheNextConnection) {
  const security::TlsFiles files = authority_.Issue("server");
  Start(files);
  ASSERT_TRUE(Works(authority_.Issue("client")));
  const security::TlsFiles newcomer = stranger_.Issue("client");
  EXPECT_FALSE(Works(newcomer));
  const security::TlsFiles renewed = stranger_.Issue("server");
  testing::ReplaceFile(renewed.key, files.key);
  // The key is not the certificate's now: the last good pair goes on.
  EXPECT_TRUE(Works(authority_.Issue("client")));
  testing::ReplaceFile(renewed.certificate, files.certificate);
  testing::ReplaceFile(renewed.ca, files.ca);
  EXPECT_TRUE(Works(newcomer));
  EXPECT_FALSE(Works({files.certificate, files.key, folder_.path() / "gone"}));
}

TEST_F(HttpsTest, FilesThatCannotBeUsedAreNamed) {
  HttpProtection protection;
  protection.tls = {folder_.path() / "none.pem", folder_.path() / "none.key", ""};
  const auto server = HttpServer::Start({"127.0.0.1", 0}, {HealthRoute()}, protection);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("none.pem"));
}

}  // namespace
}  // namespace muster::metrics
