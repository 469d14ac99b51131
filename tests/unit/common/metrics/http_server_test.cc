#include "common/metrics/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

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

}  // namespace
}  // namespace muster::metrics
