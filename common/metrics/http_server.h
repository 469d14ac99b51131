#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/base/endpoint.h"
#include "common/metrics/registry.h"
#include "common/security/server_tls.h"
#include "common/security/tls_files.h"

namespace httplib {
class Server;
}

namespace muster::metrics {

struct HttpRequest {
  std::string path;
  // Of the URL's query, decoded; the first of several with one name.
  std::map<std::string, std::string> query;
  // Groups of the route's pattern; [0] is the whole path.
  std::vector<std::string> groups;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
  // Further headers.
  std::map<std::string, std::string> headers;
};

// Who may see what an HttpServer serves.
struct HttpProtection {
  // Empty: plaintext, which is refused beyond loopback.
  security::TlsFiles tls;
  // Asked before each handler with the route's pattern and the request's Authorization header; an
  // answer is sent in place of the handler's. Not set: everybody may see everything.
  std::function<std::optional<HttpResponse>(const std::string& pattern,
                                            const std::string& authorization)>
      refuse;
};

// A small HTTP/1.1 server for metrics and pages: GET (and HEAD) only, a fixed number of threads,
// bounded requests. Handlers run on its threads, several at once, and must not throw.
class HttpServer {
 public:
  using Handler = std::function<HttpResponse(const HttpRequest&)>;
  struct Route {
    // ECMAScript regular expression that the whole path must match, for example "/metrics" or
    // "/jobs/([a-z0-9-]+)". The first matching route answers; none: 404.
    std::string pattern;
    Handler handler;
  };

  // Listens on `endpoint` (port 0: any free one). Unavailable, naming the address and the reason,
  // when that cannot be; InvalidArgument for TLS files that cannot be used.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const base::Endpoint& endpoint,
                                                           std::vector<Route> routes,
                                                           const HttpProtection& protection = {});
  // Ends the connections and the threads; handlers that run are waited for.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // With the port that was chosen.
  const base::Endpoint& endpoint() const { return endpoint_; }

 private:
  HttpServer() = default;

  base::Endpoint endpoint_;
  // Null without TLS; the server calls it.
  std::unique_ptr<security::ServerTls> tls_;
  std::unique_ptr<httplib::Server> server_;
  std::thread thread_;
};

// Route "/metrics" that serves the registry, which must live longer than the server.
HttpServer::Route MetricsRoute(const Registry& registry);
// Route "/healthz" that answers 200 "ok".
HttpServer::Route HealthRoute();

}  // namespace muster::metrics
