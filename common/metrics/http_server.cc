#include "common/metrics/http_server.h"

#include <httplib.h>
#include <pthread.h>
#include <sys/socket.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"

namespace muster::metrics {
namespace {

constexpr size_t kThreads = 8;
constexpr size_t kMaxRequestBody = 64 << 10;

HttpResponse Handle(const HttpServer::Route& route, const HttpProtection& protection,
                    const httplib::Request& from) {
  if (protection.refuse) {
    std::optional<HttpResponse> refusal =
        protection.refuse(route.pattern, from.get_header_value("Authorization"));
    if (refusal.has_value()) return *std::move(refusal);
  }
  HttpRequest request;
  request.path = from.path;
  for (const auto& [name, value] : from.params) request.query.emplace(name, value);
  for (const auto& group : from.matches) request.groups.push_back(group.str());
  return route.handler(request);
}

void Send(HttpResponse response, httplib::Response& to) {
  to.status = response.status;
  for (const auto& [name, value] : response.headers) to.set_header(name, value);
  to.set_content(std::move(response.body), response.content_type);
}

std::unique_ptr<httplib::Server> MakeServer(security::ServerTls* tls) {
  if (tls == nullptr) return std::make_unique<httplib::Server>();
  return std::make_unique<httplib::SSLServer>([tls](SSL_CTX& context) {
    tls->SetUp(&context);
    return true;
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const base::Endpoint& endpoint,
                                                              std::vector<Route> routes,
                                                              const HttpProtection& protection) {
  auto server = std::unique_ptr<HttpServer>(new HttpServer());
  if (!protection.tls.empty()) {
    MUSTER_ASSIGN_OR_RETURN(server->tls_, security::ServerTls::Load(protection.tls));
  } else if (!endpoint.IsLoopback()) {
    return absl::FailedPreconditionError(
        absl::StrCat("refusing to serve plaintext on ", endpoint.ToString(),
                     ": listen on 127.0.0.1, or use TLS (--tls-cert, --tls-key)"));
  }
  server->server_ = MakeServer(server->tls_.get());
  httplib::Server& http = *server->server_;
  http.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  http.set_payload_max_length(kMaxRequestBody);
  http.set_read_timeout(5);
  http.set_write_timeout(10);
  // Idle connections hold one of the threads each.
  http.set_keep_alive_timeout(2);
  http.set_tcp_nodelay(true);
  // The library's default, SO_REUSEPORT, would let two servers share a port unnoticed.
  http.set_socket_options([](int socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  for (Route& route : routes) {
    const std::string pattern = route.pattern;
    http.Get(pattern, [route = std::move(route), protection](const httplib::Request& request,
                                                             httplib::Response& response) {
      Send(Handle(route, protection, request), response);
    });
  }
  server->endpoint_ = endpoint;
  bool bound = false;
  if (endpoint.port == 0) {
    server->endpoint_.port = http.bind_to_any_port(endpoint.host);
    bound = server->endpoint_.port > 0;
  } else {
    bound = http.bind_to_port(endpoint.host, endpoint.port);
  }
  if (!bound) return base::ListenError(endpoint);
  server->thread_ = std::thread([&http] {
    pthread_setname_np(pthread_self(), "http");
    if (!http.listen_after_bind()) base::Log(base::LogSeverity::kError, "http", "server ended");
  });
  // stop() does nothing before the thread has come this far.
  while (!http.is_running()) std::this_thread::yield();
  return server;
}

HttpServer::~HttpServer() {
  if (!thread_.joinable()) return;
  server_->stop();
  thread_.join();
}

HttpServer::Route MetricsRoute(const Registry& registry) {
  return {"/metrics", [&registry](const HttpRequest&) {
            HttpResponse response;
            response.content_type = std::string(kTextFormatContentType);
            response.body = registry.Serialize();
            return response;
          }};
}

HttpServer::Route HealthRoute() {
  return {"/healthz", [](const HttpRequest&) {
            HttpResponse response;
            response.body = "ok\n";
            return response;
          }};
}

}  // namespace muster::metrics
